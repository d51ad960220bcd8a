"""Monotone Bernstein polynomials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive_number, whole_number
from flowkit.univariates._iterative import IterativeUnivariate

MIN_SLOPE = 1e-3
UNIT_SLOPE = math.log(math.expm1(1.0 - MIN_SLOPE))  # softplus of it, plus the floor, is 1


@UNIVARIATES.register("bernstein")
class Bernstein(IterativeUnivariate):
    """x = sum_i theta_i C(M, i) t^i (1 - t)^(M - i), t = (z + B) / 2B, with increasing coefficients theta_0 < ... < theta_M.

    ``linear`` ends: the map continues as a straight line outside [-B, B]. Parameters: shift and M - 2 raw increments, each
    0.001 + softplus(raw) times that of the identity, the first and the last one used twice, so that the slope and the
    curvature (zero) are continuous at the ends. ``bounded`` ends: [-B, B] onto itself; M raw increments, a softmax with a
    floor. Evaluated by de Casteljau's rule, value and slope each as convex combinations, so high degrees are safe.

    Forward costs M^2 products; the inverse is iterative, outside [-B, B] a division would do.

    Args:
        degree: M, at least 3.
        bound: B.
        ends: "linear" or "bounded".

    Reference: Sick et al. (2020), Deep transformation models, arXiv:2004.00464, equations 5 and 6; Ramasinghe et al. (2021),
    Robust normalizing flows using Bernstein-type polynomials, arXiv:2102.03509.
    """

    def __init__(self, degree: int = 12, bound: float = 5.0, *, ends: Literal["linear", "bounded"] = "linear") -> None:
        super().__init__()
        degree, bound = whole_number(degree, "Bernstein", "degree", 3, 1 / MIN_SLOPE), positive_number(bound, "Bernstein", "bound")
        if ends not in ("linear", "bounded"):
            raise ConfigError(f"Bernstein: expected ends of 'linear', 'bounded'; got {ends!r}.")
        self.degree, self.bound, self.ends = degree, bound, ends
        self.parameter_count = degree if ends == "bounded" else degree - 1
        if ends == "bounded":
            self.low, self.high = -bound, bound

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        """Slopes M (theta_{i+1} - theta_i) / 2B, the control values of dx/dz (*S, M), and the control values theta (*S, M + 1)."""
        if self.ends == "bounded":
            slopes = MIN_SLOPE + (1 - MIN_SLOPE) * self.degree * torch.softmax(params, dim=-1)
            start = torch.full_like(params[..., :1], -self.bound)
        else:
            inner = MIN_SLOPE + functional.softplus(params[..., 1:])
            slopes = torch.cat([inner[..., :1], inner, inner[..., -1:]], dim=-1)
            # the middle of the image, not its lower end, is what the shift moves
            start = params[..., :1] - self.bound * slopes.mean(-1, keepdim=True)
        return slopes, torch.cat([start, start + 2 * self.bound / self.degree * slopes.cumsum(-1)], dim=-1)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        slopes, values = coefficients
        inside = z.clamp(-self.bound, self.bound)
        t = (inside / (2 * self.bound) + 0.5).unsqueeze(-1)
        slope, value = _de_casteljau(slopes, t), _de_casteljau(values, t)
        return (value if self.ends == "bounded" else value + slope * (z - inside)), slope.log()

    def initial_parameters(self) -> Tensor:
        parameters = torch.full((self.parameter_count,), UNIT_SLOPE)
        parameters[0] = UNIT_SLOPE if self.ends == "bounded" else 0.0
        return parameters

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Bernstein]]:
        yield "degree5", cls(5, 3.0)
        yield "bounded", cls(4, 2.0, ends="bounded")


def _de_casteljau(points: Tensor, t: Tensor) -> Tensor:
    """The polynomial with these control values (*S, n) at t (*S, 1): (*S)."""
    for _ in range(points.shape[-1] - 1):
        points = (1 - t) * points[..., :-1] + t * points[..., 1:]
    return points.squeeze(-1)
