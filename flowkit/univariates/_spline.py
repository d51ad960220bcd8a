"""What monotone splines on an interval share: their ends, the layout of their parameters, some coordinates of many."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import plain_int
from flowkit.core.tally import tally
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.kernels.bins import MIN_WIDTH, Axis, knots
from flowkit.kernels.op import Op
from flowkit.kernels.spline_ends import knot_count

Ends = Literal["linear", "bounded", "circular"]


def _interval(bound: Any, who: str) -> tuple[float, float]:
    """The ends that ``bound`` stands for."""
    pair = bound if isinstance(bound, list | tuple) else (-bound, bound) if isinstance(bound, numbers.Real) and not isinstance(bound, bool) else ()
    if len(pair) != 2 or not (all(isinstance(end, numbers.Real) and math.isfinite(end) for end in pair) and pair[0] < pair[1]):
        raise ConfigError(f"{who}: expected a finite bound > 0 or a finite pair low < high; got {bound!r}.")
    return float(pair[0]), float(pair[1])


class SplineUnivariate(Univariate):
    """A monotone spline of an interval onto itself; where an end is ``linear``, the identity outside.

    A subclass writes ``_inside`` and ``_inverse_inside`` for values within the interval, and says how many raw numbers
    it has: ``per_bin`` for each bin, then those of ``_knot_parameters``, by default a number for each knot:
    K - 1 inner ones with ``linear`` ends, K with ``circular`` ends (one for both ends), else K + 1.

    Attributes:
        per_bin: raw numbers for each bin.
        sized: how many of those are sizes, widths first.
        fewest_bins: below this the family is empty.
        knot_start: raw number at a knot with which training starts.
        linear_end: raw number that stands at a knot where a linear end begins.
    """

    traits = Traits(jacobian="diagonal", smooth=False)
    per_bin: ClassVar[int]
    sized: ClassVar[int] = 2
    fewest_bins: ClassVar[int] = 2
    knot_start: ClassVar[float] = 0.0
    linear_end: ClassVar[float] = 0.0
    is_linear: Tensor
    is_circular: Tensor

    def __init__(self, bins: int = 8, bound: float | tuple[float, float] = 3.0, *, ends: Ends | Sequence[Ends] = "linear") -> None:
        super().__init__()
        who = type(self).__name__
        count = plain_int(bins)
        if count is None or not self.fewest_bins <= count < 1 / MIN_WIDTH:
            raise ConfigError(f"{who}: expected an int, {self.fewest_bins} <= bins < {1 / MIN_WIDTH:.0f}; got {bins!r}.")
        self.bins, self.bound, self.ends = count, bound, ends
        self.left, self.right = _interval(bound, who)
        kinds = {ends} if isinstance(ends, str) else set(ends)
        if not kinds or not kinds <= {"linear", "bounded", "circular"}:
            raise ConfigError(f"{who}: expected ends of 'linear', 'bounded', 'circular'; got {ends!r}.")
        self._arrange(kinds.pop() if len(kinds) == 1 else "mixed")

    def _arrange(self, kind: str) -> None:
        """Fix the layout of the parameters: by the one kind of ends, or that of bounded ends for every coordinate."""
        self.kind = kind
        self.parameter_count = self.per_bin * self.bins + self._knot_parameters(kind)
        closed = kind in ("bounded", "circular")
        self.low, self.high = (self.left, self.right) if closed else (-float("inf"), float("inf"))
        if kind == "mixed":
            self.register_buffer("is_linear", torch.tensor([end == "linear" for end in self.ends], dtype=torch.bool), persistent=False)
            self.register_buffer("is_circular", torch.tensor([end == "circular" for end in self.ends], dtype=torch.bool), persistent=False)

    def _knot_parameters(self, kind: str) -> int:
        return knot_count(self.bins, kind)

    def _inside(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} defines no _inside.")

    def _inverse_inside(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} defines no _inverse_inside.")

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        self._check(params)
        # the argument is clamped before the formula, so nothing outside reaches a gradient
        return self._outside(z, *self._inside(z.clamp(self.left, self.right), params))

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        self._check(params)
        return self._outside(x, *self._inverse_inside(x.clamp(self.left, self.right), params))

    def _check(self, params: Tensor) -> None:
        if params.shape[-1] != self.parameter_count:
            raise ShapeError(f"{type(self).__name__}: expected {self.parameter_count} parameters per coordinate; got {params.shape[-1]}.")

    def _outside(self, value: Tensor, out: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        """Replace what lies beyond a linear end by the identity."""
        if self.kind in ("bounded", "circular"):
            return out, log_slope
        inside = (value >= self.left) & (value <= self.right)
        if self.kind == "mixed":
            inside = inside | ~self.is_linear
        return torch.where(inside, out, value), torch.where(inside, log_slope, torch.zeros_like(log_slope))

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """``per_bin`` tensors (*S, K), then the rest."""
        return params.split([self.bins] * self.per_bin + [self.parameter_count - self.per_bin * self.bins], dim=-1)

    def _at_knots(self, raw: Tensor) -> Tensor:
        """Raw numbers at all K + 1 knots."""
        if self.kind == "linear":
            return functional.pad(raw, (1, 1), value=self.linear_end)
        if self.kind == "circular":
            return torch.cat([raw, raw[..., :1]], dim=-1)
        if self.kind == "bounded":
            return raw
        first = torch.where(self.is_linear, torch.full_like(raw[..., 0], self.linear_end), raw[..., 0])
        last = torch.where(self.is_linear | self.is_circular, first, raw[..., -1])
        return torch.cat([first.unsqueeze(-1), raw[..., 1:-1], last.unsqueeze(-1)], dim=-1)

    def initial_parameters(self) -> Tensor:
        parameters = torch.zeros(self.parameter_count)
        parameters[self.per_bin * self.bins :] = self.knot_start
        return parameters

    def _axes(self, params: Tensor) -> tuple[Axis, ...]:
        """The bins along x, and along y where their sizes are parameters too."""
        return tuple(knots(raw, self.left, self.right, MIN_WIDTH) for raw in self._split(params)[: self.sized])

    def saturated(self, params: Tensor) -> Tensor:
        """Where a bin has come within twice its least size."""
        floor = 2 * MIN_WIDTH * (self.right - self.left)
        return torch.stack([(axis.size < floor).any(-1) for axis in self._axes(params)]).any(0)

    def bins_of(self, z: Tensor, params: Tensor) -> Tensor:
        number = (z.unsqueeze(-1) >= self._axes(params)[0].left[..., 1:]).sum(-1)
        return torch.where((z < self.left) | (z > self.right), -1, number)

    def intervals(self, features: int) -> tuple[Tensor, Tensor]:
        if self.kind != "mixed":
            return super().intervals(features)
        if len(self.is_linear) != features:
            raise ShapeError(f"{type(self).__name__}: {len(self.is_linear)} kinds of ends for {features} coordinates; give one per coordinate.")
        infinite = torch.full((features,), torch.inf, dtype=torch.float64)
        linear = self.is_linear.to(infinite.device)
        return torch.where(linear, -infinite, self.left), torch.where(linear, infinite, self.right)

    def select(self, index: Sequence[int]) -> Self:
        if isinstance(self.ends, str):
            return self
        if max(index, default=-1) >= len(self.ends):
            raise ShapeError(f"{type(self).__name__}: ends for {len(self.ends)} coordinates, but coordinate {max(index)} is wanted.")
        if self.kind != "mixed":
            return self
        # the parameters keep the mixed layout even where the selected ends are of one kind
        made = type(self)(self.bins, self.bound, ends=[self.ends[i] for i in index])
        made._arrange("mixed")
        return made.to(self.is_linear.device)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Self]]:
        yield "k8", cls(8, 3.0)
        yield "k4_bounded", cls(4, (0.0, 1.0), ends="bounded")
        yield "k4_circular", cls(4, 3.14159, ends="circular")
        yield "k4_mixed", cls(4, 2.0, ends=["linear", "bounded", "circular"])


class SplineOfOps(SplineUnivariate):
    """A spline whose two directions are ops of (value, parameters, bins, low, high, ends); where kinds are mixed, with ``bounded`` ends.

    Attributes:
        ops: forward and inverse.
    """

    ops: ClassVar[tuple[Op, Op]]

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(0, z, params, 0, "none")

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(1, x, params, 0, "none")

    def transform_event(self, z: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        return self._call(0, z, params, event_dims, base)

    def untransform_event(self, x: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        return self._call(1, x, params, event_dims, base)

    def as_op(self, *, inverse: bool) -> tuple[Op, tuple[Any, ...]] | None:
        return None if self.kind == "mixed" else (self.ops[inverse], (self.bins, self.left, self.right, self.kind))

    def _call(self, direction: int, value: Tensor, params: Tensor, event_dims: int, base: str) -> tuple[Tensor, Tensor]:
        self._check(params)
        op = self.ops[direction]
        if self.kind != "mixed":
            return op(value, params, self.bins, self.left, self.right, self.kind, event_dims, base)
        inside = op(value.clamp(self.left, self.right), self._as_bounded(params), self.bins, self.left, self.right, "bounded", 0, "none")
        return tally(*self._outside(value, *inside), event_dims, base)

    def _as_bounded(self, params: Tensor) -> Tensor:
        """Parameters of mixed ends with a number at every knot."""
        *bins, knot_numbers = self._split(params)
        return torch.cat([*bins, self._at_knots(knot_numbers)], dim=-1)
