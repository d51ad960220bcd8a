"""Composition: the maps of a chain one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.algebra._context import part, shared_context
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, Shape, show, unify, zeros_log_det
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("chain")
class Chain(Bijector):
    """Composition x = f_n(... f_2(f_1(z))); log_dets add.

    Shapes are unified when the chain is built. Parts that declare a context all declare the same one and share it.
    ``chain[i]`` is a part, ``chain[i:j]`` a chain of parts (same modules, not copies). ``domain`` and ``codomain`` are those of
    the first and the last part; what parts between leave out is found when they are called.

    Args:
        transforms: bijectors in the order ``forward`` applies them, at least one.

    Raises:
        ShapeError: two neighbours do not fit, or two parts want different contexts.
    """

    def __init__(self, transforms: Sequence[Bijector]) -> None:
        super().__init__()
        transforms = list(transforms)
        if not transforms:
            raise ConfigError("Chain: expected at least one transform; got none. Use Identity(shape).")
        for step in transforms:
            if not isinstance(step, Bijector):
                raise ConfigError(f"Chain: expected bijectors; got {type(step).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        self.in_shape, self.out_shape = _unified(transforms)
        self.context_shape = shared_context("Chain", transforms)
        diagonal = all(step.traits.jacobian in ("diagonal",) for step in transforms)
        constant = all(step.traits.jacobian == "constant" for step in transforms)
        self.traits = combine([step.traits for step in transforms], jacobian="diagonal" if diagonal else "constant" if constant else "dense")

    @property
    def domain(self) -> Domain:
        return self.transforms[0].domain  # type: ignore[return-value]

    @property
    def codomain(self) -> Domain:
        return self.transforms[-1].codomain  # type: ignore[return-value]

    def _steps(self, inverse: bool) -> list[Any]:
        return list(reversed(self.transforms)) if inverse else list(self.transforms)

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        shape = self.out_shape if inverse else self.in_shape
        start = value
        for step in self._steps(inverse):
            call = step.inverse if inverse else step
            value, log_det = call(value, part(context, step), generator=generator)
            if not step.traits.volume_preserving:
                total = log_det if total is None else total + log_det
        return value, zeros_log_det(start, shape) if total is None else total

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        total = zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        inside: Tensor | None = None
        for step in self._steps(inverse):
            value, log_det, within = step.masked(value, part(context, step), inverse=inverse, generator=generator)
            if not step.traits.volume_preserving:
                total = total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        return value, total, inside

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        for step in self._steps(inverse):
            value = step.initialize(value, part(context, step), inverse=inverse, generator=generator)
        return value

    def push_score(self, z: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self._carry(z, score, context, generator, inverse=False)

    def pull_score(self, x: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self._carry(x, score, context, generator, inverse=True)

    def _carry(self, value: Tensor, score: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        value, context = self._prepare(value, context, inverse)
        score = score.expand_as(value)
        total = zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        for step in self._steps(inverse):
            carry = step.pull_score if inverse else step.push_score
            value, log_det, score = carry(value, score, part(context, step), generator=generator)
            total = total + log_det
        return value, total, score

    def merge(self, following: Transform) -> Transform | None:
        return None

    def __len__(self) -> int:
        return len(self.transforms)

    def __iter__(self) -> Iterator[Bijector]:
        return iter(self.transforms)  # type: ignore[arg-type]

    def __getitem__(self, index: int | slice) -> Bijector:
        steps = list(self.transforms)
        if isinstance(index, slice):
            chosen = steps[index]
            if not chosen:
                raise ConfigError(f"Chain: slice {index} of a chain of {len(steps)} is empty. Use Identity(shape) for no map.")
            return Chain(chosen)  # type: ignore[arg-type]
        return steps[index]  # type: ignore[return-value]

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Chain]]:
        from flowkit.core.build import build

        affine = {"name": "affine", "shape": (3,)}
        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 2}
        yield "affine_coupling", cls([build(affine, Bijector), build(coupling, Bijector)])
        yield "permuted", cls([build({"name": "permutation", "order": (1, 0, 2)}, Bijector), build(affine, Bijector)])


def _unified(transforms: list[Bijector]) -> tuple[Shape, Shape]:
    """Event shapes at both ends; sizes that one part leaves open are filled in from its neighbours."""
    ends = [(step.in_shape, step.out_shape) for step in transforms]
    for order in (range(len(ends)), reversed(range(len(ends)))):
        for i in order:
            before, after = ends[i]
            if i > 0:
                met = unify(ends[i - 1][1], before)
                if met is None:
                    raise ShapeError(
                        f"Chain: part {i - 1} ({transforms[i - 1].who}) ends in {show(ends[i - 1][1])} but part {i} "
                        f"({transforms[i].who}) expects {show(before)}. Put a Reshape between them, or fix the sizes."
                    )
                if transforms[i].in_shape == transforms[i].out_shape:
                    after = met
                if transforms[i - 1].in_shape == transforms[i - 1].out_shape:
                    ends[i - 1] = (met, met)
                ends[i] = (met, after)
    return ends[0][0], ends[-1][1]
