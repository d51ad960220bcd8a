"""Flows as scikit-learn density estimators."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.flow import Flow
from flowkit.training import fit
from flowkit.training.seeds import forked, generator

CHUNK = 8192  # rows evaluated at a time


class FlowDensity(DensityMixin, BaseEstimator):
    """Density estimation with a normalizing flow, by maximum likelihood.

    The flow is trained and evaluated in float64 on standardised columns; a constant column is centred and keeps the scale
    1. Works in ``Pipeline`` and ``GridSearchCV``; ``score`` is the mean log-density, so larger is better.

    Args:
        flow: registered name of a recipe on R^D: "neural_spline_flow", "maf", "real_nvp", ...
        layers, hidden, bins: size of the flow; None for the recipe's own default. ``bins`` is for spline flows.
        flow_options: further arguments of the recipe, e.g. ``{"autoregressive": True}``.
        max_epochs, batch_size, lr, weight_decay: as for ``flowkit.fit``.
        validation_fraction: share of the rows held out; the best weights on them are kept. None trains on all rows and
            keeps the last weights.
        patience: epochs without a better validation loss before stopping; None never stops early.
        random_state: int, ``RandomState`` or None; decides initial weights, held-out rows and batches.
        device: "auto" or a torch device.
        progress: show a progress bar.

    Attributes:
        flow_: the trained ``Flow``, a density of the original columns; ``flowkit.save`` stores it.
        history_: name -> one number per epoch.
        n_features_in_, feature_names_in_: of the data seen by ``fit``.

    Example:
        >>> import numpy as np
        >>> from flowkit.estimators import FlowDensity
        >>> X = np.random.RandomState(0).normal(size=(100, 2))
        >>> model = FlowDensity(layers=2, max_epochs=2, random_state=0).fit(X)
        >>> model.score_samples(X[:3]).shape, model.sample(5, random_state=0).shape
        ((3,), (5, 2))
    """

    def __init__(
        self,
        flow: str = "neural_spline_flow",
        *,
        layers: int | None = None,
        hidden: Sequence[int] | None = None,
        bins: int | None = None,
        flow_options: Mapping[str, Any] | None = None,
        max_epochs: int = 50,
        batch_size: int = 128,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        validation_fraction: float | None = 0.1,
        patience: int | None = 10,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        self.flow = flow
        self.layers = layers
        self.hidden = hidden
        self.bins = bins
        self.flow_options = flow_options
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> FlowDensity:
        """Train the flow.

        Args:
            X: (N, D), N at least 2; y: ignored; sample_weight: (N,), non-negative.

        Raises:
            ValueError: the data cannot be used, or an argument is out of range. FlowkitError: the flow cannot be built.
        """
        rows = torch.tensor(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
        seed = _seed(self.random_state)
        with forked(torch.device("cpu")):
            torch.manual_seed(seed)
            flow = build(self._description(rows.shape[1]), Flow).double()
        _standardize(flow, rows)
        outcome = fit(
            flow,
            rows,
            validation=_plain(self.validation_fraction),
            sample_weight=None if sample_weight is None else np.array(sample_weight, dtype=np.float64),
            max_epochs=_plain(self.max_epochs),
            batch_size=_plain(self.batch_size),
            lr=_plain(self.lr),
            weight_decay=_plain(self.weight_decay),
            patience=_plain(self.patience),
            device=self.device,
            seed=seed,
            progress=self.progress,
        )
        self.flow_ = flow.eval()
        self.history_ = outcome.history
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-density in nats of each row: (N, D) -> (N,); minus infinity outside the flow's support."""
        check_is_fitted(self)
        rows = torch.tensor(validate_data(self, X, dtype=np.float64, reset=False), device=self._device())
        with torch.no_grad():
            return self.flow_.log_prob(rows, batch_size=CHUNK).cpu().numpy()

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-density of the rows, in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> NDArray[np.float64]:
        """Draw rows from the fitted density: (n_samples, D)."""
        check_is_fitted(self)
        draws = generator(self._device(), _seed(random_state))
        return self.flow_.sample((int(n_samples),), generator=draws).cpu().numpy()

    def _description(self, features: int) -> dict[str, Any]:
        sizes = {key: getattr(self, key) for key in ("layers", "hidden", "bins") if getattr(self, key) is not None}
        options = {key: _plain(value) for key, value in {**(self.flow_options or {}), **sizes}.items()}
        return {"name": self.flow, "features": features, **options}

    def _device(self) -> torch.device:
        return self.flow_.like.device

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, tensors on the CPU, so that a model trained on a GPU can be read anywhere."""
        state = super().__getstate__()
        if "flow_" in state and self._device().type != "cpu":
            state = {**state, "flow_": copy.deepcopy(self.flow_).cpu()}
        return state


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


def _plain(value: Any) -> Any:
    """numpy's numbers, which parameter searches hand over, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(_plain(item) for item in value) if isinstance(value, list | tuple) else value


@torch.no_grad()
def _standardize(flow: Flow, rows: Tensor) -> None:
    """Set the flow's ``Standardize`` map here and not in ``fit``, which refuses constant columns."""
    if flow.standardizer is None:
        return
    pulled = rows if flow.support_map is None else flow.support_map.inverse(rows)[0]
    constant = pulled.std(0, correction=0) <= 1e-12 * pulled.mean(0).abs()
    # rows once above and once below in constant columns: their mean stays, their scale becomes 1, other columns do not change
    flow.standardizer.set_from([pulled + constant, pulled - constant.to(pulled)])
