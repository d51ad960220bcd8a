"""A number with its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Estimate(float):
    """A float that knows its standard error, and the p-value of its test where there is one.

    Args:
        mean: the estimate; the object is that float.
        standard_error: one standard deviation of the estimate, NaN when unknown.
        p_value: of the hypothesis that the metric tests, None when it tests none.

    Example:
        >>> from flowkit.evaluation import Estimate
        >>> Estimate(2.5, 0.1) < 3, Estimate(2.5, 0.1)
        (True, 2.5 ± 0.1)
    """

    standard_error: float
    p_value: float | None

    def __new__(cls, mean: float, standard_error: float = math.nan, p_value: float | None = None) -> Estimate:
        made = super().__new__(cls, mean)
        made.standard_error, made.p_value = float(standard_error), p_value
        return made

    @property
    def mean(self) -> float:
        """The estimate as a plain float."""
        return float(self)

    def __repr__(self) -> str:
        error = "" if math.isnan(self.standard_error) else f" ± {self.standard_error:.2g}"
        return f"{self.mean:.4g}{error}"


def mean_of(values: Tensor) -> Estimate:
    """The mean of independent values (N,) and its standard error, summed in float64."""
    values = values.detach().double()
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 and bool(torch.isfinite(values).all()) else math.nan
    return Estimate(float(values.mean()), error)
