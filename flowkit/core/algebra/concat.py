"""Direct sums: maps side by side on the parts of one event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.algebra.chain import Chain
from flowkit.core.algebra.contexts import part, shared_context
from flowkit.core.algebra.identity import Identity
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.product import Product
from flowkit.core.domain.real import Real
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, Shape, show, unify, zeros_log_det
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("concat")
class Concat(Bijector):
    """f & g: the first part of event axis 0 goes through f, the rest through g; log_dets add.

    Other axes must agree; the parts share one context.

    Args:
        transforms: bijectors whose event axis 0 has a known size.
    """

    def __init__(self, transforms: Sequence[Bijector]) -> None:
        super().__init__()
        transforms = list(transforms)
        if not transforms:
            raise ConfigError("Concat: expected at least one transform; got none.")
        for step in transforms:
            if not isinstance(step, Bijector):
                raise ConfigError(f"Concat: expected bijectors; got {type(step).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        self.in_sizes, self.in_shape = _joined([step.in_shape for step in transforms])
        self.out_sizes, self.out_shape = _joined([step.out_shape for step in transforms])
        self.context_shape = shared_context("Concat", transforms)
        kinds = {step.traits.jacobian for step in transforms}
        self.traits = combine([step.traits for step in transforms], jacobian=kinds.pop() if len(kinds) == 1 else "dense")

    @property
    def domain(self) -> Domain:
        return _product([step.domain for step in self.transforms], self.in_shape)  # type: ignore[misc]

    @property
    def codomain(self) -> Domain:
        return _product([step.codomain for step in self.transforms], self.out_shape)  # type: ignore[misc]

    def _pieces(self, value: Tensor, inverse: bool) -> list[tuple[Any, Tensor]]:
        sizes, shape = (self.out_sizes, self.out_shape) if inverse else (self.in_sizes, self.in_shape)
        return list(zip(self.transforms, value.split(sizes, dim=-len(shape)), strict=True))

    def _join(self, parts: list[Tensor], inverse: bool) -> Tensor:
        return torch.cat(parts, dim=-len(self.in_shape if inverse else self.out_shape))

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        out, total = [], zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        for step, piece in self._pieces(value, inverse):
            call = step.inverse if inverse else step
            piece, log_det = call(piece, part(context, step), generator=generator)
            out.append(piece)
            total = total + log_det
        return self._join(out, inverse), total

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        out, total = [], zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        inside: Tensor | None = None
        for step, piece in self._pieces(value, inverse):
            piece, log_det, within = step.masked(piece, part(context, step), inverse=inverse, generator=generator)
            out.append(piece)
            total = total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        return self._join(out, inverse), total, inside

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        pieces = self._pieces(value, inverse)
        return self._join([step.initialize(x, part(context, step), inverse=inverse, generator=generator) for step, x in pieces], inverse)

    def push_score(self, z: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self._carry(z, score, context, generator, inverse=False)

    def pull_score(self, x: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self._carry(x, score, context, generator, inverse=True)

    def _carry(self, value: Tensor, score: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        value, context = self._prepare(value, context, inverse)
        score = score.expand_as(value)
        out, scores, total = [], [], zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        pieces = zip(self._pieces(value, inverse), self._pieces(score, inverse), strict=True)
        for (step, piece), (_, piece_score) in pieces:
            carry = step.pull_score if inverse else step.push_score
            piece, log_det, piece_score = carry(piece, piece_score, part(context, step), generator=generator)
            out.append(piece)
            scores.append(piece_score)
            total = total + log_det
        return self._join(out, inverse), total, self._join(scores, inverse)

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Concat) or self.out_sizes != following.in_sizes:
            return None
        pairs = [(first >> second).simplify() for first, second in zip(self.transforms, following.transforms, strict=True)]  # type: ignore[operator]
        if all(isinstance(pair, Identity) for pair in pairs):
            return Identity(self.in_shape)
        return None if any(isinstance(pair, Chain) for pair in pairs) else Concat(pairs)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Concat]]:
        from flowkit.core.build import build

        affine = {"name": "affine", "shape": (2,)}
        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 2}
        yield "affine_coupling", cls([build(affine, Bijector), build(coupling, Bijector)])


def _joined(shapes: list[Shape]) -> tuple[list[int], Shape]:
    sizes, rest = [], shapes[0][1:]
    for shape in shapes:
        if not shape or shape[0] is None:
            raise ShapeError(f"Concat: expected parts whose event axis 0 has a known size; got {show(shape)}.")
        met = unify(rest, shape[1:])
        if met is None:
            raise ShapeError(f"Concat: parts disagree beyond event axis 0: {show(rest)} and {show(shape[1:])}.")
        sizes.append(shape[0])
        rest = met
    return sizes, (sum(sizes), *rest)


def _product(parts: list[Domain], shape: Shape) -> Domain:
    if len(shape) != 1 or all(domain.trivial for domain in parts):
        return Real(shape)
    return Product(parts)
