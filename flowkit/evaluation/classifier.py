"""The classifier two-sample test."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.evaluation._inputs import pair_of
from flowkit.numerics.estimate import Estimate


def c2st(
    x: Tensor,
    y: Tensor,
    *,
    classifier: Literal["mlp", "forest", "logistic"] = "mlp",
    folds: int = 5,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Accuracy of a classifier that tells x from y, cross-validated: 0.5 if the two are alike, 1 if they never overlap.

    With sets of different sizes it is the mean of the two classes' accuracies. Columns are standardised together.

    Args:
        x, y: (N, *event), (M, *event).
        classifier: a network of two hidden layers of 10 D units, a random forest of 100 trees, or logistic regression.
        folds: parts of the cross-validation.
        generator: for the folds and the classifier's start.

    Returns:
        The accuracy, its binomial standard error, and the one-sided p-value of accuracy 0.5.

    Reference:
        Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests, arXiv:1610.06545;
        Lueckmann et al. (2021), Benchmarking simulation-based inference, arXiv:2101.04653, appendix (the network).
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows, others = (part.cpu().numpy() for part in pair_of(x, y, "c2st"))
    if folds < 2 or min(len(rows), len(others)) < folds:
        raise ShapeError(f"c2st: expected 2 folds or more and as many samples as folds; got folds={folds}, {len(rows)} and {len(others)} samples.")
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
    data, labels = np.concatenate([rows, others]), np.repeat([0, 1], [len(rows), len(others)])
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    right = cross_val_predict(_classifier(classifier, data.shape[1], seed), data, labels, cv=parts) == labels
    first, second = float(right[labels == 0].mean()), float(right[labels == 1].mean())
    error = 0.5 * math.sqrt(first * (1 - first) / len(rows) + second * (1 - second) / len(others))
    accuracy = (first + second) / 2
    null = 0.25 * math.sqrt(1 / len(rows) + 1 / len(others))
    return Estimate(accuracy, error, 0.5 * math.erfc((accuracy - 0.5) / (null * math.sqrt(2))))


def _classifier(name: str, features: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "mlp":
        hidden = (10 * features, 10 * features)
        chosen: Any = MLPClassifier(hidden, max_iter=1000, early_stopping=True, n_iter_no_change=20, random_state=seed)
    elif name == "forest":
        chosen = RandomForestClassifier(100, random_state=seed)
    elif name == "logistic":
        chosen = LogisticRegression()
    else:
        raise ConfigError(f"c2st: expected classifier 'mlp', 'forest' or 'logistic'; got {name!r}.")
    return make_pipeline(StandardScaler(), chosen)
