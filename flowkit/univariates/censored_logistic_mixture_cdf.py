"""The distribution function of a mixture of logistics cut off at the ends of an interval."""

from __future__ import annotations

import numbers
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.numerics.activations import soft_bounded
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._mixtures import component_count

SCALE_RANGE = 2.5  # log-scales in units of the interval's length lie within +-this


@UNIVARIATES.register("censored_logistic_mixture_cdf")
class CensoredLogisticMixtureCDF(IterativeUnivariate):
    """x = low + (high - low) sum_k w_k (S(t_k) - S(l_k)) / (S(u_k) - S(l_k)) on [low, high], S the sigmoid.

    t, l and u are (y - m_k) / s_k at y = 0 .. 1, the place of z in the interval, and at its two ends: every logistic is
    cut off at the ends and scaled back to mass one, so the interval is mapped onto itself. Differences of sigmoids are
    written as products, so components far outside the interval do no harm. Parameters, in units of the interval: K raw weights
    (softmax), K means, K raw log-scales, log s = 2.5 tanh(raw / 2.5).

    Forward costs K sigmoids; the inverse is iterative.

    Args:
        components: K, at least 2.
        low, high: ends of the interval.

    Reference: Ho et al. (2019), Flow++, arXiv:1902.00275, section 3.2, for data in an interval.
    """

    def __init__(self, components: int = 8, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if not all(isinstance(end, numbers.Real) for end in (low, high)) or not -float("inf") < low < high < float("inf"):
            raise ConfigError(f"CensoredLogisticMixtureCDF: expected finite low < high; got low={low!r}, high={high!r}.")
        self.components = component_count(components, "CensoredLogisticMixtureCDF")
        self.low, self.high = low, high
        self.parameter_count = 3 * self.components

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        weights, means, scales = params.split(self.components, dim=-1)
        log_rates = -soft_bounded(scales, SCALE_RANGE)
        rates = torch.exp(log_rates)
        first, last = -means * rates, (1 - means) * rates
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u))
        kept = -torch.expm1(-rates)
        log_mass = functional.logsigmoid(last) + functional.logsigmoid(-first) + kept.log()
        log_weights = torch.log_softmax(weights, dim=-1)
        return log_weights, rates, first, functional.logsigmoid(last) + kept.log(), log_weights + log_rates - log_mass

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, rates, first, log_top, log_heights = coefficients
        length = self.high - self.low
        place = ((z - self.low) / length).unsqueeze(-1)
        t = first + place * rates
        rise = functional.logsigmoid(t)
        share = torch.exp(log_weights + rise - log_top) * -torch.expm1(-place * rates)
        log_slope = torch.logsumexp(log_heights + rise + functional.logsigmoid(-t), dim=-1)
        return self.low + length * share.sum(-1), log_slope

    def initial_parameters(self) -> Tensor:
        means = (torch.arange(self.components) + 0.5) / self.components
        return torch.cat([torch.zeros(self.components), means, torch.zeros(self.components)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CensoredLogisticMixtureCDF]]:
        yield "k3", cls(3)
        yield "interval", cls(2, -2.0, 3.0)
