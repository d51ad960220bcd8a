"""Maps side by side on the parts of one event: what Concat, Split and Stack share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.algebra.contexts import part, shared_context
from flowkit.core.algebra.joint_domains import PartsDomain
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context, Shape, plain_int, zeros_log_det
from flowkit.core.traits import Jacobian, combine
from flowkit.core.transform import Bijector


class Parallel(Bijector):
    """One bijector for each part of the event; log_dets add, the context is shared. A subclass says what the parts are."""

    def __init__(self, transforms: Sequence[Bijector]) -> None:
        super().__init__()
        transforms = list(transforms)
        if not transforms:
            raise ConfigError(f"{self.who}: expected at least one bijector; got none.")
        for step in transforms:
            if not isinstance(step, Bijector):
                raise ConfigError(f"{self.who}: expected bijectors; got {type(step).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        self.context_shape = shared_context(self.who, transforms)
        self.traits = combine([step.traits for step in transforms], jacobian=side_by_side([step.traits.jacobian for step in transforms]))

    def _place(self, inverse: bool) -> tuple[Shape, int, list[int] | None]:
        """Event shape, event axis and sizes of the parts (None: slices) where this direction starts."""
        raise NotImplementedError

    def _domain_at(self, inverse: bool) -> Domain | None:
        domains = [step.codomain if inverse else step.domain for step in self.transforms]
        return None if all(domain.trivial for domain in domains) else PartsDomain(domains, *self._place(inverse))  # type: ignore[union-attr, arg-type]

    @property
    def domain(self) -> Domain:
        return self._domain_at(False) or super().domain

    @property
    def codomain(self) -> Domain:
        return self._domain_at(True) or super().codomain

    def _take(self, value: Tensor, inverse: bool) -> list[tuple[Any, Tensor]]:
        shape, axis, sizes = self._place(inverse)
        dim = value.dim() - len(shape) + axis
        return list(zip(self.transforms, value.unbind(dim) if sizes is None else value.split(sizes, dim), strict=True))

    def _join(self, pieces: list[Tensor], inverse: bool) -> Tensor:
        """Pieces after a call in this direction as one event."""
        shape, axis, sizes = self._place(not inverse)
        if sizes is None:
            return torch.stack(pieces, pieces[0].dim() - (len(shape) - 1) + axis)
        return torch.cat(pieces, pieces[0].dim() - len(shape) + axis)

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        out, total = [], zeros_log_det(value, self._place(inverse)[0])
        for step, piece in self._take(value, inverse):
            call = step.inverse if inverse else step
            piece, log_det = call(piece, part(context, step), generator=generator)
            out.append(piece)
            if not step.traits.volume_preserving:
                total = total + log_det
        return self._join(out, inverse), total

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        out, total = [], zeros_log_det(value, self._place(inverse)[0])
        inside: Tensor | None = None
        for step, piece in self._take(value, inverse):
            piece, log_det, within = step.masked(piece, part(context, step), inverse=inverse, generator=generator)
            out.append(piece)
            total = total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        return self._join(out, inverse), total, inside

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        pieces = self._take(value, inverse)
        return self._join([step.initialize(piece, part(context, step), inverse=inverse, generator=generator) for step, piece in pieces], inverse)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        out, scores, total = [], [], zeros_log_det(value, self._place(inverse)[0])
        pairs = zip(self._take(value, inverse), self._take(score, inverse), strict=True)
        for (step, piece), (_, piece_score) in pairs:
            carry = step.pull_score if inverse else step.push_score
            piece, log_det, piece_score = carry(piece, piece_score, part(context, step), generator=generator)
            out.append(piece)
            scores.append(piece_score)
            total = total + log_det
        return self._join(out, inverse), total, self._join(scores, inverse)


def side_by_side(kinds: Sequence[Jacobian]) -> Jacobian:
    """Structure of a block-diagonal Jacobian; putting parts together along an axis keeps the order within each part."""
    if set(kinds) <= {"diagonal", "triangular"}:
        return "triangular" if "triangular" in kinds else "diagonal"
    return "constant" if set(kinds) == {"constant"} else "dense"


def event_axis(axis: int, rank: int, who: str) -> int:
    """An axis of an event of that rank, counted from 0; negative ones count from its end."""
    place = plain_int(axis)
    if place is None or not -rank <= place < rank:
        raise ConfigError(f"{who}: expected axis to be an int from {-rank} to {rank - 1} for events of {rank} axes; got {axis!r}.")
    return place % rank
