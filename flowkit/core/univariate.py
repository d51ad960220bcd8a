"""The contract of the scalar maps used inside coupling and autoregression."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowkit.core.build.describe import brief_arguments
from flowkit.core.registry import UNIVARIATES, Registry
from flowkit.core.tally import tally
from flowkit.core.traits import Traits

FORMULAS = frozenset(("transform", "untransform", "transform_event", "untransform_event"))


class Univariate(nn.Module):
    """A monotone scalar map whose parameters come from elsewhere: a conditioner, or a learned table.

    Implement ``parameter_count``, ``transform``, ``untransform`` and ``initial_parameters``; register with
    ``@UNIVARIATES.register("name")`` and yield small instances from ``examples``.

    Attributes:
        parameter_count: numbers per coordinate.
        low, high: the interval the map lives on (and maps to); infinite for maps of the whole line.
    """

    registries: ClassVar[tuple[Registry, ...]] = (UNIVARIATES,)
    parameter_count: int
    low: float = -float("inf")
    high: float = float("inf")
    traits: Traits = Traits(jacobian="diagonal")

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        formula = next(i for i, base in enumerate(cls.__mro__) if not FORMULAS.isdisjoint(vars(base)))
        if not any("as_op" in vars(base) for base in cls.__mro__[: formula + 1]):  # what it inherits stands for another formula
            cls.as_op = Univariate.as_op  # type: ignore[method-assign]

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Map values elementwise.

        Args:
            z: (*S); params: (*S, parameter_count).

        Returns:
            x (*S) and log|dx/dz| (*S).
        """
        raise NotImplementedError

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``transform``: z (*S) and log|dz/dx| (*S)."""
        raise NotImplementedError

    def transform_event(self, z: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        """``transform``, its log-derivatives added up over the last ``event_dims`` axes: x (*B, *event) and log_det (*B).

        Args:
            z: (*B, *event); params: (*B, *event, parameter_count).
            event_dims: number of axes of an event.
            base: "normal" adds log N(x; 0, I) to the sum, "none" nothing.
        """
        return tally(*self.transform(z, params), event_dims, base)

    def untransform_event(self, x: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        """The inverse of ``transform_event``: z (*B, *event) and log_det (*B)."""
        return tally(*self.untransform(x, params), event_dims, base)

    def as_op(self, *, inverse: bool) -> tuple[Any, tuple[Any, ...]] | None:
        """The one op of ``flowkit.kernels`` that ``transform_event`` calls (``untransform_event`` with ``inverse``), with its constants.

        None for a map that is made of more than that. Layers over it may run a kernel that has the map inside.
        """
        return None

    def carry_score(self, value: Tensor, params: Tensor, score: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``transform`` (``untransform`` with ``inverse``), and a score carried along: s' = (s - d log|x'| / dz) / x'.

        Override with a closed form; this one differentiates.

        Args:
            value: (*S); params: (*S, parameter_count), recorded for differentiation; score: (*S), a constant.

        Returns:
            out (*S), log|slope| (*S), s' (*S) and d (s' out + log|slope|) / d params (*S, parameter_count), the last two constants.
        """
        value = value if value.requires_grad else value.detach().requires_grad_()
        out, log_slope = (self.untransform if inverse else self.transform)(value, params)
        ones, bent = torch.ones_like(log_slope), log_slope.requires_grad  # not where the slope is the same everywhere
        bend = torch.autograd.grad(log_slope, value, ones, retain_graph=True, materialize_grads=True)[0] if bent else 0.0
        carried = ((score - bend) * torch.exp(-log_slope.detach())).to(score.dtype)
        outputs, cotangents = ((out, log_slope), (carried, ones)) if bent else ((out,), (carried,))
        (by_params,) = torch.autograd.grad(outputs, params, cotangents, retain_graph=True, materialize_grads=True)
        return out, log_slope, carried, by_params

    def initial_parameters(self) -> Tensor:
        """Parameters (parameter_count,) at which the map is the identity, or closest to it: where training starts."""
        return torch.zeros(self.parameter_count)

    def intervals(self, features: int) -> tuple[Tensor, Tensor]:
        """Ends of the interval of each of ``features`` coordinates: (features,), (features,); finite ones in float64."""
        # infinities are exact in any precision, and not every device has float64
        dtype = torch.float64 if math.isfinite(self.low) or math.isfinite(self.high) else None
        return torch.full((features,), self.low, dtype=dtype), torch.full((features,), self.high, dtype=dtype)

    def saturated(self, params: Tensor) -> Tensor | None:
        """Where parameters have come so near a limit of theirs that their gradient fades: (*S, parameter_count) -> (*S) bool.

        None for a map whose parameters have no limits. ``diagnose`` counts these.
        """
        return None

    def bins_of(self, z: Tensor, params: Tensor) -> Tensor | None:
        """For a map made of pieces: the piece each value falls in, from 0, and -1 for none (a tail): (*S) int64. Else None."""
        return None

    def select(self, index: Sequence[int]) -> Univariate:
        """The same map for some coordinates only; differs from ``self`` where options are given per coordinate."""
        return self

    def describe(self) -> dict[str, Any]:
        """``{name: <registered>, **arguments}``."""
        from flowkit.core.build import describe

        return describe(self)

    def extra_repr(self) -> str:
        return brief_arguments(self)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Univariate]]:
        """Small labelled instances."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
