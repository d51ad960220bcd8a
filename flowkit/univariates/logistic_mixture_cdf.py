"""The log-odds of a mixture of logistic distribution functions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.numerics.activations import soft_bounded
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._mixtures import component_count, sigmoid_log_odds, spread

LARGEST_LOG_SCALE = 3.0
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

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        weights, means, scales, affine = params.split([self.components] * 3 + [2], dim=-1)
        gain, shift = affine.unbind(-1)
        log_rates = -soft_bounded(scales, LARGEST_LOG_SCALE)
        return torch.log_softmax(weights, dim=-1), means, log_rates, soft_bounded(gain, LARGEST_LOG_SCALE), shift

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, means, log_rates, log_gain, shift = coefficients
        odds, log_slope = sigmoid_log_odds(log_weights, (z.unsqueeze(-1) - means) * torch.exp(log_rates), log_rates)
        return odds * torch.exp(log_gain) + shift, log_slope + log_gain

    def initial_parameters(self) -> Tensor:
        means = START * spread(self.components)
        return torch.cat([torch.zeros(self.components), means, torch.zeros(self.components + 2)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LogisticMixtureCDF]]:
        yield "k3", cls(3)
        yield "k2", cls(2)
