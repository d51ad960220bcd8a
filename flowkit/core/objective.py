"""The contract of objectives: what the one training loop minimises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowkit.core.build.describe import brief_arguments
from flowkit.core.registry import OBJECTIVES, Registry


@dataclass
class Batch:
    """What a step works on.

    Args:
        x: data (B, *event), or None when the objective draws its own samples.
        context: conditions (B, *context) or a dict of them.
        size: number of samples wanted when ``x`` is None; otherwise B.
        index: row numbers in the source (B,), for objectives that keep state per row.
        extra: further tensors by name, batch first; ``weight`` is used by ``MaximumLikelihood``.
    """

    x: Tensor | None = None
    context: Any = None
    size: int | None = None
    index: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Loss:
    """A scalar to minimise, and named numbers worth watching."""

    value: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Phase:
    """A set of parameters with an optimiser of their own.

    Args:
        name: passed back to ``loss`` as ``phase``.
        parameters: what the phase trains.
        lr_scale: multiplies the learning rate.
        every: the phase is due on steps divisible by this.
        weight_decay: overrides ``fit``'s.
        lr_scales: a further factor for each of ``parameters``, in their order.
    """

    name: str
    parameters: list[nn.Parameter]
    lr_scale: float = 1.0
    every: int = 1
    weight_decay: float | None = None
    lr_scales: Sequence[float] | None = None


class Objective(nn.Module):
    """A loss for a model. Implement ``loss``; declare in ``requires`` what must be there.

    Attributes:
        requires: subset of {"data", "target", "context"}; an objective without "data" can run with ``source=None``.
    """

    registries: ClassVar[tuple[Registry, ...]] = (OBJECTIVES,)
    requires: frozenset[str] = frozenset({"data"})

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        """The loss of a batch, its value a scalar that is differentiable in the phase's parameters."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        """Sets of parameters to train in turn; one for all of the model and the objective by default."""
        return (Phase("main", [p for p in (*model.parameters(), *self.parameters()) if p.requires_grad]),)

    def on_step_end(self, model: nn.Module, step: int) -> None:
        """Called after every optimiser step (projections, schedules, buffers)."""

    def extra_repr(self) -> str:
        return brief_arguments(self)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Objective, nn.Module, Batch]]:
        """Labelled toy problems: ``(label, objective, small model, batch)``; ten steps must lower the loss."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
