"""Checks of the context: required where declared, refused where not, used, broadcast."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from flowkit.core.errors import ShapeError
from flowkit.testing._calls import sides
from flowkit.testing._case import Case
from flowkit.testing._compare import expect, raises, same_call
from flowkit.testing._draws import class_count, draw_context, map_context
from flowkit.testing._suite import register
from flowkit.testing._suites import TRANSFORMS


def conditional(f: Any) -> bool:
    return f.context_shape is not None


def sized_context(f: Any) -> bool:
    return isinstance(f.context_shape, tuple) and len(f.context_shape) > 0


@register(*TRANSFORMS, applies=conditional)
def context_required(f: Any, case: Case) -> None:
    """Without the declared context every direction raises ShapeError."""
    for side in sides(f, case):
        raises(ShapeError, partial(side, f, context=None), f"{side.name} without its context")


@register(*TRANSFORMS, applies=lambda f: not conditional(f))
def context_refused(f: Any, case: Case) -> None:
    """A context that was not declared raises ShapeError."""
    for side in sides(f, case):
        raises(ShapeError, partial(side, f, context=torch.zeros(*case.batch, 2)), f"{side.name} with a context it does not declare")


@register(*TRANSFORMS, applies=sized_context)
def context_shape_checked(f: Any, case: Case) -> None:
    """A context of another trailing shape or of an integer dtype raises ShapeError."""
    for side in sides(f, case):
        wide = torch.cat([side.context, side.context[..., :1]], dim=-1)
        raises(ShapeError, partial(side, f, context=side.context.long()), f"{side.name} with an int64 context")
        if f.context_shape[-1] is not None:
            raises(ShapeError, partial(side, f, context=wide), f"{side.name} with a context of {wide.shape[-1]} features")


@register(*TRANSFORMS, applies=conditional)
def context_used(f: Any, case: Case) -> None:
    """Changing the context changes the value or the log_det."""
    for side in sides(f, case, (8,)):
        value, log_det = side(f)
        other = draw_context(f, (8,), case.but(seed=case.seed + 1))
        changed, changed_log_det = side(f, context=other)
        moved = bool((changed != value).any()) or bool((changed_log_det != log_det).any())
        expect(moved, f"{side.name} ignores its context")


@register(*TRANSFORMS, applies=lambda f: conditional(f) and not f.traits.stochastic)
def context_broadcast(f: Any, case: Case) -> None:
    """Context batches broadcast against event batches: (5, 1) against (3,) is (5, 3); () and (3,) meet either way."""
    for side in sides(f, case, (3,)):
        context = draw_context(f, (5, 1), case)
        value, log_det = side(f, context=context)
        expect(tuple(log_det.shape) == (5, 3), f"{side.name}: context batch (5, 1), batch (3,) gives log_det of shape {tuple(log_det.shape)}")
        rank = len(f.in_shape if side.inverse else f.out_shape)
        expect(tuple(value.shape[: value.dim() - rank]) == (5, 3), f"{side.name}: context batch (5, 1), batch (3,) gives shape {tuple(value.shape)}")
        for i in range(5):
            row = map_context(context, lambda part, i=i: part[i])
            single = side(f, side.value, map_context(row, lambda part: part.expand(3, *part.shape[1:])))
            same_call((value[i], log_det[i]), single, 1e-12, f"{side.name} with a broadcast context")
        one = map_context(row, lambda part: part[0])
        same_call(side(f, context=one), (value[4], log_det[4]), 1e-12, f"{side.name} with one context for a batch")
        event, many = side.value[0], draw_context(f, (3,), case)
        expect(tuple(side(f, event, many)[1].shape) == (3,), f"{side.name}: three contexts for one event")


@register(*TRANSFORMS, applies=lambda f: f.context_shape == () and class_count(f) > 0)
def labels_accepted(f: Any, case: Case) -> None:
    """int64 labels work, -1 stands for none."""
    for side in sides(f, case, (3,)):
        value, log_det = side(f, context=torch.full((3,), -1))
        expect(bool(torch.isfinite(value).all() and torch.isfinite(log_det).all()), f"{side.name} with label -1")
