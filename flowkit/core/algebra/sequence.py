"""What every composition does: run its parts in order and add their log_dets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from flowkit.core.algebra._diagonal import in_runs
from flowkit.core.algebra._recompute import must_recompute, run_recomputing
from flowkit.core.algebra.contexts import part, shared_context
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import Context, Shape, show, unify, zeros_log_det
from flowkit.core.transform import Transform


class TransformSequence(Transform):
    """Parts applied one after the other; the base of ``Chain`` and ``SurjectiveChain``."""

    transforms: nn.ModuleList
    memory = "store"

    def _compose(self, transforms: Sequence[Transform], kinds: tuple[type, ...], expected: str) -> list[Any]:
        """Check the parts and take over their shapes and context."""
        transforms = list(transforms)
        if not transforms:
            raise ConfigError(f"{self.who}: expected at least one transform; got none. Use Identity(shape).")
        for step in transforms:
            if not isinstance(step, kinds):
                raise ConfigError(f"{self.who}: expected {expected}; got {type(step).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        self.in_shape, self.out_shape = _unified(self.who, transforms)
        self.context_shape = shared_context(self.who, transforms)
        return transforms

    @property
    def domain(self) -> Domain:
        return self.transforms[0].domain  # type: ignore[return-value]

    @property
    def codomain(self) -> Domain:
        return self.transforms[-1].codomain  # type: ignore[return-value]

    def parts(self) -> list[Any]:
        return list(self.transforms)

    def _steps(self, inverse: bool) -> list[Any]:
        return list(reversed(self.transforms)) if inverse else list(self.transforms)

    def _run(self, value: Tensor, context: Any, generator: Any, inverse: bool) -> tuple[Tensor, Tensor]:
        if self.memory == "invert" and must_recompute(self, value, context):
            out, total, _ = run_recomputing(self._steps(inverse), value, context, inverse, masked=False)
            return out, total
        total_: Tensor | None = None
        shape = self.out_shape if inverse else self.in_shape
        start = value
        for step in in_runs(self._steps(inverse), inverse):
            call = step.inverse if inverse else step
            value, log_det = call(value, part(context, step), generator=generator)
            if not step.traits.volume_preserving:
                total_ = log_det if total_ is None else total_ + log_det
        return value, zeros_log_det(start, shape) if total_ is None else total_

    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: Any, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.memory == "invert" and must_recompute(self, value, context):
            return run_recomputing(self._steps(inverse), value, context, inverse, masked=True)
        return self._run_masked(in_runs(self._steps(inverse), inverse), value, context, generator, inverse)

    def masked_normal(self, value: Tensor, context: Context = None, *, inverse: bool, generator: Any = None) -> tuple[Tensor, Tensor | None]:
        if self.memory == "invert":
            return super().masked_normal(value, context, inverse=inverse, generator=generator)
        value, context = self._prepare(value, context, inverse)
        *steps, last = in_runs(self._steps(inverse), inverse)
        value, total, inside = self._run_masked(steps, value, context, generator, inverse)
        log_prob, within = last.masked_normal(value, part(context, last), inverse=inverse, generator=generator)
        return log_prob + total, within if inside is None else inside if within is None else inside & within

    def _run_masked(self, steps: list[Any], value: Tensor, context: Context, generator: Any, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        total = zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        inside: Tensor | None = None
        for step in steps:
            value, log_det, within = step.masked(value, part(context, step), inverse=inverse, generator=generator)
            if not step.traits.volume_preserving:
                total = total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        return value, total, inside

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: Any = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        for step in self._steps(inverse):
            value = step.initialize(value, part(context, step), inverse=inverse, generator=generator)
        return value

    def __len__(self) -> int:
        return len(self.transforms)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.transforms)

    def _part(self, index: int | slice) -> list[Any]:
        chosen = list(self.transforms)[index]
        if isinstance(index, slice) and not chosen:
            raise ConfigError(f"{self.who}: slice {index} of a chain of {len(self)} is empty. Use Identity(shape) for no map.")
        return chosen if isinstance(chosen, list) else [chosen]


def _unified(who: str, transforms: list[Any]) -> tuple[Shape, Shape]:
    """Event shapes at both ends; sizes that one part leaves open are filled in from its neighbours."""
    ends = [(step.in_shape, step.out_shape) for step in transforms]
    for order in (range(len(ends)), reversed(range(len(ends)))):
        for i in order:
            before, after = ends[i]
            if i > 0:
                met = unify(ends[i - 1][1], before)
                if met is None:
                    raise ShapeError(
                        f"{who}: part {i - 1} ({transforms[i - 1].who}) ends in {show(ends[i - 1][1])} but part {i} "
                        f"({transforms[i].who}) expects {show(before)}. Put a Reshape between them, or fix the sizes."
                    )
                if transforms[i].in_shape == transforms[i].out_shape:
                    after = met
                if transforms[i - 1].in_shape == transforms[i - 1].out_shape:
                    ends[i - 1] = (met, met)
                ends[i] = (met, after)
    return ends[0][0], ends[-1][1]
