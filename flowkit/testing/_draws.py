"""Seeded inputs: points of a domain, points outside it, contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.domain import Box, Product
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import DomainError
from flowkit.core.shapes import Context, Shape
from flowkit.testing._case import Case

OPEN_SIZE = 4  # stands for an event axis of any size
MARGIN = 1e-3  # of a finite side, kept free at both ends


def concrete(shape: Shape) -> tuple[int, ...]:
    """An event shape with every open size filled in."""
    return tuple(OPEN_SIZE if size is None else size for size in shape)


def draw(domain: Domain, batch: Sequence[int], event: Sequence[int], case: Case, offset: int = 0) -> Tensor:
    """Points inside a domain: (*batch, *event)."""
    generator = case.generator(offset)
    count = int(torch.Size(batch).numel())
    return _events(domain, count, tuple(event), case, generator).reshape((*batch, *event))


def _events(domain: Domain, count: int, event: tuple[int, ...], case: Case, generator: torch.Generator) -> Tensor:
    normal = 1.5 * case.spread * torch.randn((count, *event), generator=generator, dtype=torch.float64)
    if domain.trivial:
        return normal.to(case.dtype)
    if isinstance(domain, Box):
        return _in_box(domain, normal).to(case.dtype)
    if isinstance(domain, Product):
        sizes = domain.sizes
        parts = [_events(part, count, (size,), case, generator) for part, size in zip(domain.domains, sizes, strict=True)]  # type: ignore[arg-type]
        return torch.cat(parts, dim=-1)
    try:
        return domain.uniform(count, generator).to(case.dtype).reshape(count, *event)
    except DomainError:
        return _by_rejection(domain, normal.to(case.dtype), generator)


def _in_box(box: Box, normal: Tensor) -> Tensor:
    """Normal numbers squeezed into a box, side by side."""
    low, high = box.low_buffer.to(normal), box.high_buffer.to(normal)
    both = torch.isfinite(low) & torch.isfinite(high)
    width = torch.where(both, high - low, torch.ones_like(low))
    start = torch.where(torch.isfinite(low), low, torch.zeros_like(low))
    end = torch.where(torch.isfinite(high), high, torch.zeros_like(high))
    inner = start + width * (MARGIN + (1 - 2 * MARGIN) * torch.special.ndtr(normal))
    above, below = start + normal.abs() + MARGIN, end - normal.abs() - MARGIN
    return torch.where(both, inner, torch.where(torch.isfinite(low), above, torch.where(torch.isfinite(high), below, normal)))


def _by_rejection(domain: Domain, steps: Tensor, generator: torch.Generator) -> Tensor:
    """Normal steps from a safe point, drawn again until they land inside."""
    centre = domain.safe_point(steps)
    steps = _along(domain, centre, steps)
    for attempt in range(200):
        point = centre + steps
        outside = ~domain.contains(point)
        if not bool(outside.any()):
            return point
        again = _along(domain, centre, torch.randn(steps.shape, generator=generator, dtype=steps.dtype) * 0.97**attempt)
        steps = torch.where(outside.reshape(-1, *([1] * (steps.dim() - 1))), again, steps)
    raise AssertionError(f"{domain}: no points inside found by rejection; give the domain a uniform law")


def _along(domain: Any, centre: Tensor, steps: Tensor) -> Tensor:
    """Steps within the tangent space of a set of lower dimension than its coordinates; steps as they are elsewhere."""
    if not hasattr(domain, "tangent_basis") or not len(steps):
        return steps
    basis = domain.tangent_basis(centre)
    return (basis @ (basis.mT @ steps.flatten(1).unsqueeze(-1))).squeeze(-1).reshape(steps.shape)


def points_outside(domain: Domain, inside: Tensor, case: Case) -> Tensor | None:
    """Events clearly outside a domain, (k, *event) with k >= 1, or None if none was found."""
    rank = len(domain.event_shape)
    events = inside.reshape(-1, *inside.shape[inside.dim() - rank :])
    generator = case.generator(77)
    for spread in (3.0, 30.0, 1000.0):
        moved = events + spread * domain.scale * torch.randn(events.shape, generator=generator, dtype=events.dtype)
        outside = ~domain.contains(moved, tol=1e-2 * domain.scale)
        if bool(outside.any()):
            return moved[outside]
    return None


def draw_context(module: Any, batch: Sequence[int], case: Case, offset: int = 50) -> Context:
    """A context for a module that declares one, else None: (*batch, *context_shape), or a dict of parts."""
    return _context(module, module.context_shape, tuple(batch), case, offset)


def _context(module: Any, shape: Any, batch: tuple[int, ...], case: Case, offset: int) -> Any:
    if shape is None:
        return None
    if isinstance(shape, dict):
        return {key: _context(module, part, batch, case, offset + i + 1) for i, (key, part) in enumerate(shape.items())}
    classes = class_count(module)
    if shape == () and classes:
        return torch.randint(classes, batch, generator=case.generator(offset))
    return torch.randn((*batch, *concrete(shape)), generator=case.generator(offset), dtype=torch.float64).to(case.dtype)


def class_count(module: nn.Module) -> int:
    """Number of classes that an int context may take: the first positive attribute ``classes`` in the module's tree."""
    for part in module.modules():
        count = getattr(part, "classes", 0)
        if isinstance(count, int) and count > 0:
            return count
    return 0


def map_context(context: Any, change: Any) -> Any:
    """Apply a function to every tensor of a context."""
    if context is None:
        return None
    if isinstance(context, dict):
        return {key: map_context(part, change) for key, part in context.items()}
    return change(context)


def join_context(first: Any, second: Any) -> Any:
    """Two contexts one after the other along their first batch axis."""
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: join_context(part, second[key]) for key, part in first.items()}
    return torch.cat([first, second])
