"""Gaussianization by the distribution function of a normal mixture."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.numerics.activations import soft_bounded
from flowkit.numerics.normal_tails import log_q, normal_cdf, upper_quantile
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._mixtures import component_count, spread

LARGEST_LOG_SCALE = 3.0
START = 0.25  # spread of the components' means at the start


@UNIVARIATES.register("gaussian_mixture_cdf")
class GaussianMixtureCDF(IterativeUnivariate):
    """x = Phi^-1(sum_k w_k Phi((z - m_k) / s_k)): a variable with that mixture density becomes standard normal.

    Parameters: K raw weights (softmax), K means, K raw log-scales, log s = 3 tanh(raw / 3). Both tails are worked out in
    log space with the Gaussian factor taken out, so the map and its slope are right out to |z| = 1e4 and beyond, where
    dx/dz tends to 1 / max_k s_k. Where two components stand dozens of their scales apart the map is flat between them
    to rounding, and its inverse there is no better than that.

    Forward costs K tail probabilities and six Newton steps on one normal quantile; the inverse is iterative.

    Args:
        components: K, at least 2.

    Reference: Meng et al. (2020), Gaussianization Flows, arXiv:2003.01941, equation 8, with learned weights.
    """

    def __init__(self, components: int = 8) -> None:
        super().__init__()
        self.components = component_count(components, "GaussianMixtureCDF")
        self.parameter_count = 3 * self.components

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        weights, means, scales = params.split(self.components, dim=-1)
        return torch.log_softmax(weights, dim=-1), means, -soft_bounded(scales, LARGEST_LOG_SCALE)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, means, log_rates = coefficients
        t = (z.unsqueeze(-1) - means) * torch.exp(log_rates)
        # 1. Turn the smaller tail upwards: v is large and positive far out on either side.
        upper = (log_weights.exp() * normal_cdf(-t)).sum(-1) < 0.5
        v = torch.where(upper.unsqueeze(-1), t, -t)
        positive = v.clamp(min=0)
        # 2. That tail is exp(log_tail - r^2 / 2), r the position of its largest component.
        r = positive.detach().amin(-1, keepdim=True)
        log_tail = torch.logsumexp(log_weights + log_q(v) - 0.5 * (positive - r) * (positive + r), dim=-1)
        x = upper_quantile(r.squeeze(-1), log_tail)
        # 3. Slope: mixture density over phi(x), with x^2 / 2 = r^2 / 2 - log_tail + log q(x) put in so that nothing large is left.
        log_density = torch.logsumexp(log_weights + log_rates - 0.5 * (v - r) * (v + r), dim=-1)
        log_slope = log_density - log_tail + log_q(x) + 0.5 * x.clamp(max=0).square()
        return torch.where(upper, x, -x), log_slope

    def initial_parameters(self) -> Tensor:
        means = START * spread(self.components)
        # a mixture of unit variance: near the identity in the middle
        log_scale = 0.5 * torch.log1p(-means.square().mean())
        return torch.cat([torch.zeros(self.components), means, log_scale.expand(self.components)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GaussianMixtureCDF]]:
        yield "k3", cls(3)
        yield "k2", cls(2)
