"""Monotone maps as integrals of a positive net."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive, positive_number, whole_number
from flowkit.numerics.activations import soft_bounded
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._quadrature import gauss_legendre

LARGEST_LOG_LEVEL, LARGEST_VARIATION = 5.0, 6.0  # log g lies within +-(their sum)
LARGEST_RATE = 10.0  # of a hidden unit, in units of the bound: what the rule's nodes resolve
START_RATE = 3.0


@UNIVARIATES.register("monotone_integral")
class MonotoneIntegral(IterativeUnivariate):
    """x = beta + int_0^z g(t) dt with a positive net g = exp(c + sum_j v_j tanh(w_j y + b_j)), y = (3 s - s^3) / 2, s = t / B.

    The net's weights are the parameters (beta, c, and ``units`` each of v, w, b); c, w and sum |v| are softly bounded by
    5, 10 and 6. y comes to rest at |t| = B, and g is constant beyond: the map is a straight line there.
    The integral over [0, z] is taken by Gauss's rule with ``nodes`` nodes, Q(z) = z sum_i q_i g(z t_i), and the log-slope is
    that of the value computed, not of the integral it stands for:

        Q'(z) = sum_i q_i [g(s_i) + s_i g'(s_i)],  s_i = z t_i,  with g' = g sum_j v_j w_j (1 - tanh^2) dy/dt in closed form.

    g is analytic in a strip whose width the bounds fix, so the rule's error falls geometrically with ``nodes``, and Q increases
    strictly for all parameter values. Measured at parameters and points sought out for the worst Q' / g: 1 - 1e-11 with
    64 nodes, 1 - 2e-4 with 48, 0.47 with 32.

    Forward costs ``nodes`` evaluations of g; the inverse is iterative.

    Args:
        units: hidden units of g.
        bound: B.
        nodes: of the quadrature rule.

    Reference: Wehenkel and Louppe (2019), Unconstrained Monotonic Neural Networks, arXiv:1908.05164, equations 1 and 2.
    """

    positions: Tensor
    weights: Tensor

    def __init__(self, units: int = 8, bound: float = 5.0, *, nodes: int = 64) -> None:
        super().__init__()
        units, nodes = positive(units, "MonotoneIntegral", "units"), whole_number(nodes, "MonotoneIntegral", "nodes", 32)
        bound = positive_number(bound, "MonotoneIntegral", "bound")
        self.units, self.bound, self.nodes = units, bound, nodes
        self.parameter_count = 3 * units + 2
        positions, weights = gauss_legendre(nodes)
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        ends, outer, inner, biases = params.split([2, *[self.units] * 3], dim=-1)
        beta, level = ends.unbind(-1)
        # sum |v| <= sqrt(units) |v|_2, and |v|_2 is held below the bound over sqrt(units)
        outer = outer * torch.rsqrt(1 + outer.square().sum(-1, keepdim=True) * (self.units / LARGEST_VARIATION**2))
        return beta, soft_bounded(level, LARGEST_LOG_LEVEL), outer, soft_bounded(inner, LARGEST_RATE), biases

    def _integrand(self, s: Tensor, level: Tensor, outer: Tensor, inner: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """g and s dg/ds at s = t / B in [-1, 1]: (*S, n) each."""
        y, s_dy = 0.5 * s * (3 - s.square()), 1.5 * s * (1 - s) * (1 + s)
        hidden = torch.tanh(y.unsqueeze(-1) * inner.unsqueeze(-2) + biases.unsqueeze(-2))  # (*S, n, units)
        g = torch.exp(level.unsqueeze(-1) + (hidden * outer.unsqueeze(-2)).sum(-1))
        return g, g * s_dy * ((1 - hidden.square()) * (outer * inner).unsqueeze(-2)).sum(-1)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        beta, *net = coefficients
        inside = z.clamp(-self.bound, self.bound)
        g, s_dg = self._integrand((inside / self.bound).unsqueeze(-1) * self.positions.to(z.dtype), *net)
        weights = self.weights.to(z.dtype)
        slope = ((g + s_dg) * weights).sum(-1)
        return beta + inside * (g * weights).sum(-1) + slope * (z - inside), slope.log()

    def initial_parameters(self) -> Tensor:
        rates = torch.full((self.units,), START_RATE)
        # units that bend at different places; the outer weights start at zero, where g = 1
        places = (2 * torch.arange(self.units) + 1) / self.units - 1
        return torch.cat([torch.zeros(self.units + 2), rates, -START_RATE * places])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MonotoneIntegral]]:
        yield "units4", cls(4)
        yield "narrow", cls(3, 2.0, nodes=48)
