"""Checks of what is refused and what is declared: shapes, dtypes, domains."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra import Identity
from flowkit.core.errors import DomainError, ShapeError
from flowkit.testing._calls import DRAWS, Side, call, has_inverse, mixed, sides, tolerance
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, raises, scale_of
from flowkit.testing._draws import map_context, points_outside
from flowkit.testing._suite import register
from flowkit.testing._suites import BIJECTOR, TRANSFORMS


def bounded(f: Any) -> bool:
    """Whether some direction has a domain that can be left."""
    return not f.traits.stochastic and (not f.domain.trivial or (has_inverse(f) and not f.codomain.trivial))


@register(*TRANSFORMS)
def wrong_input(f: Any, case: Case) -> None:
    """A wrong trailing shape, an integer dtype and a list raise ShapeError."""
    for side in sides(f, case):
        shape = f.out_shape if side.inverse else f.in_shape
        raises(ShapeError, partial(side, f, torch.ones_like(side.value, dtype=torch.int64)), f"{side.name} of int64")
        raises(ShapeError, partial(side, f, side.value.tolist()), f"{side.name} of a list")
        for axis in (i for i, size in enumerate(shape) if size is not None):
            dim = side.value.dim() - len(shape) + axis
            longer = torch.cat([side.value, side.value.narrow(dim, 0, 1)], dim=dim)
            raises(ShapeError, partial(side, f, longer), f"{side.name} of trailing shape {tuple(longer.shape[1:])}")
        if shape:
            raises(ShapeError, partial(side, f, torch.zeros((), dtype=case.dtype)), f"{side.name} of a scalar")


@register(*TRANSFORMS, drawn=True)
def domain_to_codomain(f: Any, case: Case) -> None:
    """forward takes the declared domain into the declared codomain, inverse the codomain into the domain; all finite."""
    for side in sides(f, case):
        value, log_det = side(f)
        finite(value, f"{side.name} of points of its domain, value")
        finite(log_det, f"{side.name} of points of its domain, log_det")
        target = f.domain if side.inverse else f.codomain
        inside = target.contains(value, tol=1e-9 * target.scale)
        expect(bool(inside.all()), f"{side.name} leaves the declared {'domain' if side.inverse else 'codomain'} {target} for {int((~inside).sum())} events")


def _outside(f: Any, side: Side, case: Case) -> Tensor | None:
    domain = f.codomain if side.inverse else f.domain
    return None if domain.trivial else points_outside(domain, side.value, case)


def _context_rows(side: Side, count: int) -> Any:
    return map_context(side.context, lambda part: part[:1].expand(count, *part.shape[1:]))


@register(BIJECTOR, applies=bounded)
def domain_error(f: Any, case: Case) -> None:
    """A value outside the domain raises DomainError in eager mode on the CPU; so does NaN."""
    for side in sides(f, case):
        outside = _outside(f, side, case)
        if outside is None:
            continue
        raises(DomainError, partial(side, f, outside, _context_rows(side, len(outside))), f"{side.name} outside the domain")
        one = side.value.clone()
        one[0] = torch.nan
        raises(DomainError, partial(side, f, one), f"{side.name} of NaN")


@register(BIJECTOR, applies=lambda f: bounded(f) and f.traits.vmaps)
def domain_nan(f: Any, case: Case) -> None:
    """Under vmap, where nothing can be raised, a value outside the domain gives NaN and only there."""
    for side in sides(f, case):
        outside = _outside(f, side, case)
        if outside is None:
            continue
        points = torch.cat([side.value[:1], outside[:1]])
        context = _context_rows(side, 2)
        if context is None:
            value, log_det = torch.func.vmap(lambda x, side=side: call(f, x, None, inverse=side.inverse))(points)
        else:
            value, log_det = torch.func.vmap(lambda x, c, side=side: call(f, x, c, inverse=side.inverse))(points, context)
        finite(value[0], f"{side.name} under vmap of a point inside")
        marked = bool(torch.isnan(value[1]).any()) or bool(torch.isnan(log_det[1]))
        expect(marked, f"{side.name} under vmap of a point outside the domain is not NaN")


@register(BIJECTOR)
def masked(f: Any, case: Case) -> None:
    """masked never raises: it flags what lies outside, keeps values and gradients finite, and is the plain call inside."""
    for side in sides(f, case):
        outside = _outside(f, side, case)
        points = side.value if outside is None else torch.cat([side.value, outside])
        context = side.context if outside is None else _context_rows(side, len(points))
        points = points.detach().clone().requires_grad_()
        value, log_det, inside = f.masked(points, context, inverse=side.inverse, generator=torch.Generator().manual_seed(DRAWS))
        wanted = torch.arange(len(points)) < len(side.value)
        if outside is None and inside is None:
            inside = torch.ones(len(points), dtype=torch.bool)
        expect(inside is not None and bool((inside == wanted).all()), f"masked {side.name}: wrong flags {None if inside is None else inside.tolist()}")
        finite(value, f"masked {side.name}, value")
        finite(log_det, f"masked {side.name}, log_det")
        gradients = torch.autograd.grad(mixed(value, log_det), [points, *(p for p in f.parameters() if p.requires_grad)], allow_unused=True)
        for gradient in gradients:
            if gradient is not None:
                finite(gradient, f"masked {side.name}, gradient")
        count = len(side.value)
        plain, plain_log_det = call(f, side.value, None if context is None else _context_head(context, count), inverse=side.inverse)
        close(value[:count], plain, 1e-12 * scale_of(plain), f"masked {side.name} inside the domain, value")
        close(log_det[:count], plain_log_det, 1e-12 * scale_of(plain_log_det), f"masked {side.name} inside the domain, log_det")


def _context_head(context: Any, count: int) -> Any:
    return map_context(context, lambda part: part[:count])


@register(BIJECTOR, applies=lambda f: bounded(f) and has_inverse(f))
def law_masked(f: Any, case: Case) -> None:
    """In a chain, side by side and on part of an event, masked flags exactly the events that f itself would refuse."""
    for side in sides(f, case):
        outside = _outside(f, side, case)
        if outside is None:
            continue
        points = torch.cat([side.value, outside])
        context = _context_rows(side, len(points))
        wanted = torch.arange(len(points)) < len(side.value)
        first = ~f if side.inverse else f
        value = call(first, side.value, _context_rows(side, len(side.value)))[0]
        _flags(first >> ~first >> first, points, context, wanted, value, "f >> ~f >> f")
        _flags(~(~first >> first >> ~first), points, context, wanted, value, "~(~f >> f >> ~f)")
        if len(first.in_shape) != 1 or len(first.out_shape) != 1 or None in (*first.in_shape, *first.out_shape):
            continue
        frame = torch.zeros((len(points), 1), dtype=case.dtype)
        end = frame[: len(value)]
        _flags(first & Identity((1,)), torch.cat([points, frame], -1), context, wanted, torch.cat([value, end], -1), "f & identity")
        _flags((first & first), torch.cat([points[:1].expand_as(points), points], -1), context, wanted, None, "f & f")
        if first.in_shape == first.out_shape:
            size = first.in_shape[0]
            placed = first.on(slice(1, size + 1), shape=size + 1)
            _flags(placed, torch.cat([frame, points], -1), context, wanted, torch.cat([end, value], -1), "f.on(index)")


def _flags(f: Any, points: Tensor, context: Any, wanted: Tensor, value: Tensor | None, what: str) -> None:
    got, log_det, inside = f.masked(points, context, inverse=False)
    expect(inside is not None and bool((inside == wanted).all()), f"masked {what}: wrong flags {None if inside is None else inside.tolist()}")
    finite(got, f"masked {what}, value")
    finite(log_det, f"masked {what}, log_det")
    if value is not None:
        close(got[: len(value)], value, max(1e-7, 100 * tolerance(f, 0.0)) * scale_of(value), f"masked {what} inside the domain")
