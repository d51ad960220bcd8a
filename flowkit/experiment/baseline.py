"""The yardstick: a Gaussian mixture on the same rows."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

COMPONENTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20)
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Baseline:
    """A fitted mixture.

    Args:
        components, covariance: what BIC chose, covariance "full" or "diag".
        log_prob: (N,) nats, of the held-out rows.
    """

    components: int
    covariance: str
    log_prob: NDArray[np.float64]

    @property
    def words(self) -> str:
        """The mixture in words."""
        shape = "full" if self.covariance == "full" else "diagonal"
        return f"Gaussian mixture ({self.components} component{'s' if self.components > 1 else ''}, {shape} covariance)"


def gaussian_mixture(train: Tensor, test: Tensor, *, most: int, seed: int) -> Baseline:
    """Fit mixtures with full and with diagonal covariances by EM and keep the one of the lowest BIC.

        BIC = -2 log L + p log N

    For each kind of covariance, components are added until BIC has risen twice in a row.

    Args:
        train, test: (N, *event), (M, *event); ``train`` is cut to its first 20,000 rows.
        most: components at most.
        seed: of EM's starts.

    Reference:
        Schwarz (1978), Estimating the dimension of a model, Ann. Statist. 6.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    rows = train.flatten(1)[:MOST_ROWS].double().cpu().numpy()
    best, chosen = math.inf, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for covariance in ("full", "diag"):
            lowest, rises = math.inf, 0
            for components in (count for count in COMPONENTS if count <= min(most, len(rows))):
                mixture = GaussianMixture(components, covariance_type=covariance, random_state=seed % 2**32, reg_covar=1e-6).fit(rows)
                bic = float(mixture.bic(rows))
                rises = rises + 1 if bic >= lowest else 0
                lowest = min(lowest, bic)
                if bic < best or chosen is None:
                    best, chosen = bic, mixture
                if rises == 2:
                    break
    assert chosen is not None
    return Baseline(chosen.n_components, chosen.covariance_type, chosen.score_samples(test.flatten(1).double().cpu().numpy()))
