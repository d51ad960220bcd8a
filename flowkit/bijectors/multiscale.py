"""Multiscale architecture: part of the channels leaves after every stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, as_shape, show, unify, zeros_log_det
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("multiscale")
class Multiscale(Bijector):
    """Latent vector to image: z = (z_1, ..., z_L), one part a stage, finest first; the inverse runs the stages.

    Seen from the image, h_0 = x; stage l gives g = f_l(h_{l-1}); the last floor(c / 2) of the c channels of g leave as z_l,
    the others go on as h_l; all of the last stage's output is z_L. Stages are given in this direction, data to latent:
    ``[Squeeze(3) >> GlowStep(12), Squeeze(6) >> GlowStep(24)]``. Log_dets of the stages add, so the split costs nothing.

    The latent is one flat vector (D,), D = C H W; ``split`` gives its parts as images, one a scale, and ``join`` puts
    them together again, so that nothing has to be kept aside to reconstruct an image.

    Args:
        shape: (C, H, W) of the image.
        stages: bijectors of images, at least one; a context is shared.

    Attributes:
        latent_shapes: (c, h, w) of each part.

    Raises:
        ShapeError: a stage does not fit the image that reaches it, or leaves one channel to split.

    Reference: Dinh et al. (2017), Real NVP, arXiv:1605.08803, section 3.6.
    """

    def __init__(self, shape: Sequence[int], stages: Sequence[Bijector]) -> None:
        super().__init__()
        self.shape, steps = shape, list(stages)
        sizes = as_shape(tuple(shape), "Multiscale")
        if len(sizes) != 3 or None in sizes:
            raise ShapeError(f"Multiscale: expected an image shape (C, H, W) of known sizes; got {show(sizes)}.")
        if not steps or any(not isinstance(step, Bijector) for step in steps):
            raise ConfigError(f"Multiscale: expected at least one stage, all bijectors; got {[type(step).__name__ for step in steps]}.")
        self.stages = nn.ModuleList(steps)
        event = tuple(int(size) for size in sizes if size is not None)
        self.latent_shapes = _latent_shapes(event, steps)
        self.in_shape, self.out_shape = (prod(event),), event
        declared = [step.context_shape for step in steps if step.context_shape is not None]
        if any(other != declared[0] for other in declared):
            raise ShapeError(f"Multiscale: its stages expect different contexts, {declared}. Give all the same context_features.")
        self.context_shape = declared[0] if declared else None
        self.traits = combine([step.traits for step in steps])

    @property
    def codomain(self) -> Domain:
        first: Any = self.stages[0]
        return super().codomain if first.domain.trivial else first.domain

    def split(self, z: Tensor) -> list[Tensor]:
        """The latent vector (*B, D) as one image (*B, c, h, w) a scale, finest first."""
        parts = z.split([prod(shape) for shape in self.latent_shapes], dim=-1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.latent_shapes, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The opposite of ``split``: images (*B, c, h, w), one a scale, to the latent vector (*B, D).

        Raises:
            ShapeError: a part is missing or has another shape.
        """
        got = [tuple(part.shape[-3:]) for part in parts]
        if got != self.latent_shapes:
            raise ShapeError(f"Multiscale.join: expected parts of shapes {self.latent_shapes}; got {got}. Sample the ones that are missing.")
        return torch.cat([part.flatten(-3) for part in parts], dim=-1)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        value, total, _ = self._run(z, context, generator, inverse=False, masked=False)
        return value, total

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        value, total, _ = self._run(x, context, generator, inverse=True, masked=False)
        return value, total

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        return self._run(value, context, generator, inverse=inverse, masked=True)

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, *, inverse: bool, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Every stage once, from the image (inverse) or towards it; ``masked`` as in ``Transform.masked``."""
        total, flags = zeros_log_det(value, self.out_shape if inverse else self.in_shape), []

        def call(step: Any, event: Tensor) -> Tensor:
            nonlocal total
            own = None if step.context_shape is None else context
            if masked:
                event, log_det, inside = step.masked(event, own, inverse=not inverse, generator=generator)
                flags.extend([] if inside is None else [inside])
            else:
                event, log_det = (step if inverse else step.inverse)(event, own, generator=generator)
            if not step.traits.volume_preserving:
                total = total + log_det
            return event

        value = self._through(value, call, inverse)
        inside = torch.stack(flags).all(0) if flags else None
        return value, total, inside

    def _through(self, value: Tensor, call: Any, inverse: bool) -> Tensor:
        """Send an image down the stages (inverse), or a latent vector up."""
        if inverse:
            parts = []
            for step, shape in zip(self.stages[:-1], self.latent_shapes, strict=False):
                value = call(step, value)
                parts.append(value.narrow(-3, value.shape[-3] - shape[0], shape[0]))
                value = value.narrow(-3, 0, value.shape[-3] - shape[0])
            return self.join([*parts, call(self.stages[-1], value)])
        *parts, value = self.split(value)
        value = call(self.stages[-1], value)
        for step, part in zip(reversed(self.stages[:-1]), reversed(parts), strict=True):
            value = call(step, torch.cat([value, part], dim=-3))
        return value

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        total = zeros_log_det(value, self.out_shape if inverse else self.in_shape)

        def call(step: Any, pair: Tensor) -> Tensor:
            nonlocal total
            own = None if step.context_shape is None else context
            event, log_det, carried = (step.push_score if inverse else step.pull_score)(*pair.unbind(0), own, generator=generator)
            total = total + log_det
            return torch.stack([event, carried])

        out, carried = self._through(torch.stack([value, score]), call, inverse).unbind(0)  # point and score are split and joined alike
        return out, total, carried.detach()

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)

        def call(step: Any, event: Tensor) -> Tensor:
            own = None if step.context_shape is None else context
            return step.initialize(event, own, inverse=not inverse, generator=generator)

        return self._through(value, call, inverse)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Multiscale]]:
        squeeze = {"name": "squeeze", "factor": (1, 2), "channels": 2}
        step = {"name": "glow_step", "shape": (4, 2, 1), "hidden": (4,), "activation": "tanh"}
        last = {"name": "glow_step", "shape": 2, "hidden": (4,), "activation": "tanh", "context_features": 2}
        plain = {"name": "act_norm", "shape": (2, None, None)}
        yield "two_stages", cls((2, 2, 2), [build({"name": "chain", "transforms": [squeeze, step]}, Bijector), build(plain, Bijector)])
        yield "conditional", cls((2, 2, 2), [build(squeeze, Bijector), build(last, Bijector)])


def _latent_shapes(event: tuple[int, ...], stages: Sequence[Bijector]) -> list[tuple[int, ...]]:
    """Shape of what every stage gives up."""
    shapes: list[tuple[int, ...]] = []
    for position, step in enumerate(stages):
        if unify(event, step.in_shape) is None:
            raise ShapeError(f"Multiscale: an image of shape {event} reaches stage {position} ({step.who}), which expects {show(step.in_shape)}.")
        event = _after(step, event)
        if len(event) != 3 or (position < len(stages) - 1 and event[0] < 2):
            raise ShapeError(
                f"Multiscale: stage {position} ({step.who}) ends in shape {event}, no image whose channels can be split. Squeeze it in that stage."
            )
        if position == len(stages) - 1:
            return [*shapes, event]
        shapes.append((event[0] // 2, *event[1:]))
        event = (event[0] - event[0] // 2, *event[1:])
    return shapes


@torch.no_grad()
def _after(step: Transform, event: tuple[int, ...]) -> tuple[int, ...]:
    """Event shape after a stage, found on an empty batch where the stage leaves it open."""
    if None not in step.out_shape:
        return tuple(int(size) for size in step.out_shape if size is not None)
    own = next((tensor for tensor in (*step.parameters(), *step.buffers()) if tensor.is_floating_point()), torch.zeros(()))
    return tuple(step(own.new_zeros((0, *event)), _empty_context(step.context_shape, own))[0].shape[1:])


def _empty_context(shape: Any, like: Tensor) -> Any:
    if shape is None:
        return None
    if isinstance(shape, dict):
        return {key: _empty_context(part, like) for key, part in shape.items()}
    if shape == ():  # class labels
        return torch.zeros(0, dtype=torch.int64, device=like.device)
    return like.new_zeros((0, *(1 if size is None else size for size in shape)))
