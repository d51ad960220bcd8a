"""Monotone rational-quadratic splines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.kernels.rational_quadratic import MIN_WIDTH, UNIT_SLOPE, inverse_spline, spline

Ends = Literal["linear", "bounded", "circular"]


@UNIVARIATES.register("rational_quadratic_spline", "rqs")
class RationalQuadraticSpline(Univariate):
    """Monotone rational-quadratic spline with K bins on an interval.

    Parameters per coordinate: K raw widths, K raw heights, raw slopes (softmax and softplus with floors of 1e-3).
    Slopes: K - 1 inner ones with ``linear`` ends (the identity outside, slope 1 at the ends); K + 1 with ``bounded``
    ends (the interval onto itself); K with ``circular`` ends (the slope at both ends is one number). Where kinds are
    mixed every coordinate takes K + 1. Both directions are closed.

    Args:
        bins: K, at least 2.
        bound: B for the interval [-B, B], or a pair (low, high).
        ends: one kind for all coordinates, or one per coordinate (the last axis of z).

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, section 3; circular ends as in
    Rezende et al. (2020), arXiv:2002.02428, section 3.1.
    """

    traits = Traits(jacobian="diagonal", smooth=False)
    is_linear: Tensor
    is_circular: Tensor

    def __init__(self, bins: int = 8, bound: float | tuple[float, float] = 3.0, *, ends: Ends | Sequence[Ends] = "linear") -> None:
        super().__init__()
        if not isinstance(bins, int) or not 2 <= bins < 1 / MIN_WIDTH:
            raise ConfigError(f"RationalQuadraticSpline: expected 2 <= bins < {1 / MIN_WIDTH:.0f}; got {bins!r}.")
        pair = (-bound, bound) if isinstance(bound, int | float) else tuple(bound)
        if len(pair) != 2 or not pair[0] < pair[1]:
            raise ConfigError(f"RationalQuadraticSpline: expected bound > 0 or a pair low < high; got {bound!r}.")
        self.bins, self.bound, self.ends = bins, bound, ends
        self.left, self.right = float(pair[0]), float(pair[1])
        kinds = {ends} if isinstance(ends, str) else set(ends)
        if not kinds or not kinds <= {"linear", "bounded", "circular"}:
            raise ConfigError(f"RationalQuadraticSpline: expected ends of 'linear', 'bounded', 'circular'; got {ends!r}.")
        self._arrange(kinds.pop() if len(kinds) == 1 else "mixed")

    def _arrange(self, kind: str) -> None:
        """Fix the layout of the parameters: by the one kind of ends, or K + 1 slopes for every coordinate."""
        self.kind = kind
        self.parameter_count = 2 * self.bins + {"linear": self.bins - 1, "circular": self.bins}.get(kind, self.bins + 1)
        closed = kind in ("bounded", "circular")
        self.low, self.high = (self.left, self.right) if closed else (-float("inf"), float("inf"))
        if kind == "mixed":
            self.register_buffer("is_linear", torch.tensor([end == "linear" for end in self.ends], dtype=torch.bool), persistent=False)
            self.register_buffer("is_circular", torch.tensor([end == "circular" for end in self.ends], dtype=torch.bool), persistent=False)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._apply_inside(spline, z, params)

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._apply_inside(inverse_spline, x, params)

    def _apply_inside(self, function: object, value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        if params.shape[-1] != self.parameter_count:
            raise ShapeError(f"RationalQuadraticSpline: expected {self.parameter_count} parameters per coordinate; got {params.shape[-1]}.")
        widths, heights, slopes = params.split([self.bins, self.bins, self.parameter_count - 2 * self.bins], dim=-1)
        # the argument is clamped before the formula, so nothing outside reaches a gradient
        clamped = value.clamp(self.left, self.right)
        out, log_slope = function(clamped, widths, heights, self._knot_slopes(slopes), self.left, self.right)  # type: ignore[operator]
        if self.kind in ("bounded", "circular"):
            return out, log_slope
        inside = (value >= self.left) & (value <= self.right)
        if self.kind == "mixed":
            inside = inside | ~self.is_linear
        return torch.where(inside, out, value), torch.where(inside, log_slope, torch.zeros_like(log_slope))

    def _knot_slopes(self, slopes: Tensor) -> Tensor:
        """Raw slopes at all K + 1 knots."""
        if self.kind == "linear":
            return functional.pad(slopes, (1, 1), value=UNIT_SLOPE)
        if self.kind == "circular":
            return torch.cat([slopes, slopes[..., :1]], dim=-1)
        if self.kind == "bounded":
            return slopes
        first = torch.where(self.is_linear, torch.full_like(slopes[..., 0], UNIT_SLOPE), slopes[..., 0])
        last = torch.where(self.is_linear | self.is_circular, first, slopes[..., -1])
        return torch.cat([first.unsqueeze(-1), slopes[..., 1:-1], last.unsqueeze(-1)], dim=-1)

    def initial_parameters(self) -> Tensor:
        parameters = torch.zeros(self.parameter_count)
        parameters[2 * self.bins :] = UNIT_SLOPE
        return parameters

    def intervals(self, features: int) -> tuple[Tensor, Tensor]:
        if self.kind != "mixed":
            return super().intervals(features)
        if len(self.is_linear) != features:
            raise ShapeError(f"RationalQuadraticSpline: {len(self.is_linear)} kinds of ends for {features} coordinates; give one per coordinate.")
        infinite = torch.full((features,), torch.inf)
        linear = self.is_linear.to(infinite.device)
        return torch.where(linear, -infinite, self.left), torch.where(linear, infinite, self.right)

    def select(self, index: Sequence[int]) -> RationalQuadraticSpline:
        if isinstance(self.ends, str):
            return self
        if max(index, default=-1) >= len(self.ends):
            raise ShapeError(f"RationalQuadraticSpline: ends for {len(self.ends)} coordinates, but coordinate {max(index)} is wanted.")
        if self.kind != "mixed":
            return self
        # the parameters keep the mixed layout even where the selected ends are of one kind
        made = RationalQuadraticSpline(self.bins, self.bound, ends=[self.ends[i] for i in index])
        made._arrange("mixed")
        return made.to(self.is_linear.device)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RationalQuadraticSpline]]:
        yield "k8", cls(8, 3.0)
        yield "k4_bounded", cls(4, (0.0, 1.0), ends="bounded")
        yield "k4_circular", cls(4, 3.14159, ends="circular")
