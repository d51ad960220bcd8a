"""Polynomials whose derivative is a sum of squares."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
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
    polynomial's terms cancel. Values grow like |z / scale|^(2 degree + 1): they leave float32's range near
    |z| = 3e5 scale for degree 3 and 1e4 scale for degree 4, and stacks of such maps sooner. The inverse grows slowly and
    is right for every x.

    Forward costs components * (degree + 1)^2 products; the inverse is iterative.

    Args:
        components: number of squares K; two are enough for any non-negative polynomial.
        degree: of each p_k, at least 1.
        scale: the unit z is measured in.

    Reference: Jaini et al. (2019), Sum-of-Squares Polynomial Flow, arXiv:1905.02325, equation 8.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(self, components: int = 3, degree: int = 3, *, scale: float = 1.0) -> None:
        super().__init__()
        for name, count in (("components", components), ("degree", degree)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigError(f"SumOfSquares: expected {name} >= 1; got {count!r}.")
        if not scale > 0:
            raise ConfigError(f"SumOfSquares: expected scale > 0; got {scale!r}.")
        self.components, self.degree, self.scale = components, degree, scale
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
        at = torch.cat([z.unsqueeze(-1) * self.nodes.to(z.dtype), z.unsqueeze(-1)], dim=-1)
        slopes = self._slope(at, polynomials)
        return shift + z * (slopes[..., :-1] * self.weights.to(z.dtype)).sum(-1), slopes[..., -1].log()

    def initial_parameters(self) -> Tensor:
        # sum p_k^2 = 1 + START^2 t^2: components that differ, so that they can learn to be different
        polynomials = torch.zeros(self.components, self.degree + 1)
        polynomials[:, 0] = self.components**-0.5
        polynomials[:, 1] = START * self.components**-0.5 * spread(self.components)
        return torch.cat([torch.zeros(1), polynomials.flatten()])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SumOfSquares]]:
        yield "k2", cls(2, 2)
        yield "cubes", cls(3, 3, scale=2.0)
