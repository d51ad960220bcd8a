"""Deep dense sigmoidal maps: the scalar map of neural autoregressive flows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive, whole_number
from flowkit.kernels.mixture_cdf import sigmoid_log_odds
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._mixtures import spread

MIN_RATE = 1e-2  # smallest slope of a sigmoid
UNIT_RATE = math.log(math.expm1(1.0 - MIN_RATE))  # raw parameter at which it is 1
START, TILT = 0.3, 0.2  # spread of the shifts at the start; size of the differences between rows of the matrices


@UNIVARIATES.register("deep_sigmoidal")
class DeepSigmoidal(IterativeUnivariate):
    """Layers h' = logit(W sigmoid(a * (U h) + b)) with a > 0 and rows of U and W positive with sum one; h_0 = z, x = h_L.

    Widths are 1, units, ..., units, 1: with one layer it is the deep sigmoidal flow, with more the deep dense one. The
    logit makes it onto R; far out it is a straight line of positive slope. All is computed in log space, the slopes carried
    along with the values, so nothing is clipped at any z. Rates are a = 0.01 + softplus(raw), rows are softmaxes.

    Forward costs ``layers`` products with matrices (units, units); the inverse is iterative.

    Args:
        units: sigmoids per layer, at least 2.
        layers: L; parameters per coordinate: 3 units for one layer, and 2 units^2 + 2 units more for each further one.

    Reference: Huang et al. (2018), Neural Autoregressive Flows, arXiv:1804.00779, equations 8 and 9.
    """

    def __init__(self, units: int = 8, layers: int = 1) -> None:
        super().__init__()
        self.units, self.layers = whole_number(units, "DeepSigmoidal", "units", 2), positive(layers, "DeepSigmoidal", "layers")
        self.parameter_count = sum(sum(sizes) for sizes in self._sizes())

    def _sizes(self) -> list[tuple[int, int, int, int]]:
        """Numbers of raw rates, shifts, entries of U and of W, layer by layer; the first U has nothing to choose."""
        d, last = self.units, self.layers - 1
        return [(d, d, d * d if layer else 0, d * (1 if layer == last else d)) for layer in range(self.layers)]

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        sizes = self._sizes()
        for part, counts in zip(params.split([sum(counts) for counts in sizes], dim=-1), sizes, strict=True):
            rates, shifts, mix, out = part.split(list(counts), dim=-1)
            mix, out = (torch.log_softmax(matrix.unflatten(-1, (-1, self.units)), dim=-1) if matrix.shape[-1] else matrix for matrix in (mix, out))
            found += [torch.log(MIN_RATE + functional.softplus(rates)), shifts, mix, out]
        return tuple(found)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        h, log_slope = z.unsqueeze(-1), torch.zeros_like(z).unsqueeze(-1)
        for layer in range(self.layers):
            log_rates, shifts, mix, out = coefficients[4 * layer : 4 * layer + 4]
            if layer:
                h = (mix.exp() * h.unsqueeze(-2)).sum(-1)
                log_slope = torch.logsumexp(mix + log_slope.unsqueeze(-2), dim=-1)
            t, log_slope = h * log_rates.exp() + shifts, log_slope + log_rates
            h, log_slope = sigmoid_log_odds(out, t.unsqueeze(-2), log_slope.unsqueeze(-2))
        return h.squeeze(-1), log_slope.squeeze(-1)

    def initial_parameters(self) -> Tensor:
        d, parts = self.units, []
        for rates, _, mix, out in self._sizes():
            parts += [torch.full((rates,), UNIT_RATE), START * spread(d), _tilted(mix, d), _tilted(out, d)]
        return torch.cat(parts)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DeepSigmoidal]]:
        yield "units4", cls(4)
        yield "two_layers", cls(3, 2)


def _tilted(count: int, units: int) -> Tensor:
    """Raw entries of a matrix of ``count // units`` rows, each a little different from the others: equal rows would stay equal in training."""
    rows, columns = torch.arange(count // units).unsqueeze(-1), torch.arange(units)
    return (TILT * torch.cos(2.4 * (rows + 1) * (columns + 1)) if count > units else torch.zeros(count // units, units)).flatten()
