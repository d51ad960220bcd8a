"""Polynomials whose derivative is a sum of squares."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive, positive_number
from flowkit.core.traits import Traits
from flowkit.univariates._iterative import IterativeUnivariate
from flowkit.univariates._mixtures import spread
from flowkit.univariates._quadrature import gauss_legendre

MIN_SLOPE = 1e-3
START = 0.05  # spread of the linear coefficients at the start


@UNIVARIATES.register("sum_of_squares", "sos")
class SumOfSquares(IterativeUnivariate):
    """x = c + int_0^z [eps + (1 - eps) sum_k p_k(t / scale)^2] dt, eps = 0.001: an increasing polynomial of degree 2 degree + 1.

    Parameters: c, and the ``degree + 1`` coefficients of each p_k, constant first. The integral is taken by Gauss's rule
    with ``degree + 1`` nodes, which is exact for it and, a sum of positive terms, loses no digits where the expanded
    polynomial's terms cancel. Beyond |z| = bound * scale it continues as a straight line with the value and the slope that
    it has there. The polynomial itself grows like |z / scale|^(2 degree + 1): a stack of them would make the density of one
    outlier overflow, and its gradient with it.

    Forward costs components * (degree + 1)^2 products; the inverse is iterative.

    Args:
        components: number of squares K; two are enough for any non-negative polynomial.
        degree: of each p_k, at least 1.
        scale: the unit z is measured in.
        bound: where the straight lines start, in units of ``scale``.

    Reference: Jaini et al. (2019), Sum-of-Squares Polynomial Flow, arXiv:1905.02325, equation 8; the straight lines are added here.
    """

    traits = Traits(jacobian="diagonal", inverse="iterative", smooth=False)
    nodes: Tensor
    weights: Tensor

    def __init__(self, components: int = 3, degree: int = 3, *, scale: float = 1.0, bound: float = 5.0) -> None:
        super().__init__()
        components, degree = positive(components, "SumOfSquares", "components"), positive(degree, "SumOfSquares", "degree")
        scale, bound = positive_number(scale, "SumOfSquares", "scale"), positive_number(bound, "SumOfSquares", "bound")
        self.components, self.degree, self.scale, self.bound = components, degree, scale, bound
        self.parameter_count = components * (degree + 1) + 1
        nodes, weights = gauss_legendre(degree + 1)
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        return params[..., 0], params[..., 1:].unflatten(-1, (self.components, self.degree + 1))

    def _slope(self, t: Tensor, polynomials: Tensor) -> Tensor:
        """The integrand at t (*S, n): (*S, n)."""
        # Horner's rule for all components at once: (*S, n, K)
        value, at = polynomials[..., None, :, -1].expand(*t.shape, self.components), (t / self.scale).unsqueeze(-1)
        for power in range(self.degree - 1, -1, -1):
            value = value * at + polynomials[..., None, :, power]
        return MIN_SLOPE + (1 - MIN_SLOPE) * value.square().sum(-1)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        shift, polynomials = coefficients
        inside = z.clamp(-self.bound * self.scale, self.bound * self.scale)
        at = torch.cat([inside.unsqueeze(-1) * self.nodes.to(z.dtype), inside.unsqueeze(-1)], dim=-1)
        slopes = self._slope(at, polynomials)
        value = shift + inside * (slopes[..., :-1] * self.weights.to(z.dtype)).sum(-1)
        return value + slopes[..., -1] * (z - inside), slopes[..., -1].log()

    def initial_parameters(self) -> Tensor:
        # sum p_k^2 = 1 + START^2 t^2: components that differ, so that they can learn to be different
        polynomials = torch.zeros(self.components, self.degree + 1)
        polynomials[:, 0] = self.components**-0.5
        polynomials[:, 1] = START * self.components**-0.5 * spread(self.components)
        return torch.cat([torch.zeros(1), polynomials.flatten()])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SumOfSquares]]:
        yield "k2", cls(2, 2)
        yield "cubes", cls(3, 3, scale=2.0, bound=2.0)
