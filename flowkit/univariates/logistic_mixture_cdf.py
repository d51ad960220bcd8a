"""The log-odds of a mixture of logistic distribution functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.mixture_cdf import inverse_logistic_mixture_cdf, logistic_mixture_cdf
from flowkit.kernels.op import Op
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._mixtures import component_count, spread

START = 0.3  # spread of the components' means at the start


@UNIVARIATES.register("logistic_mixture_cdf")
class LogisticMixtureCDF(IterativeUnivariate):
    """x = exp(a) logit(sum_k w_k sigmoid((z - m_k) / s_k)) + b.

    Parameters: K raw weights (softmax), K means, K raw log-scales, raw log-gain, shift; log-scales and log-gain are
    3 tanh(raw / 3). Computed in log space; far out it is a straight line of slope exp(a) / max_k s_k, for any z.

    Forward costs K sigmoids; the inverse is iterative.

    Args:
        components: K, at least 2.

    Reference: Ho et al. (2019), Flow++, arXiv:1902.00275, section 3.2.
    """

    def __init__(self, components: int = 8) -> None:
        super().__init__()
        self.components = component_count(components, "LogisticMixtureCDF")
        self.parameter_count = 3 * self.components + 2

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform_event(z, params, 0)

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.untransform_event(x, params, 0)

    def transform_event(self, z: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        return logistic_mixture_cdf(z, self._checked(params), self.components, event_dims, base)

    def untransform_event(self, x: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        z, log_det = inverse_logistic_mixture_cdf(x, self._checked(params), self.components, event_dims, base)
        self._judge(torch.isfinite(z) | ~torch.isfinite(x), params)
        return z, log_det

    def as_op(self, *, inverse: bool) -> tuple[Op, tuple[Any, ...]] | None:
        return None if inverse else (logistic_mixture_cdf, (self.components,))  # roots are judged here

    def initial_parameters(self) -> Tensor:
        means = START * spread(self.components)
        return torch.cat([torch.zeros(self.components), means, torch.zeros(self.components + 2)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LogisticMixtureCDF]]:
        yield "k3", cls(3)
        yield "k2", cls(2)
