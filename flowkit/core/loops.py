"""Loops that end when every element is done, in eager mode, in a compiled graph and under vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.checks import runs_eagerly

State = tuple[Tensor, ...]


def may_branch(value: Tensor) -> bool:
    """Whether a loop may stop early: values cannot be looked at in a compiled graph or under vmap, and meta tensors have none."""
    return runs_eagerly() and not value.is_meta


def repeat_until_done(step: Callable[..., State], state: State, most: int, *, most_blind: int | None = None) -> State:
    """Apply ``step`` to ``state`` until its last part, a mask, is True everywhere, at most ``most`` times; no graph is built.

    A compiled graph holds the step once, in a loop of its own. Where nothing can be looked at (vmap, meta tensors) the step is
    applied ``most_blind`` times (default ``most``).

    Args:
        step: takes the parts of the state, returns them anew, shapes and dtypes unchanged.
        state: tensors, the last one bool.
    """
    with torch.no_grad():
        if torch.compiler.is_compiling():
            return _compiled(step, state, most)
        looking = may_branch(state[-1])
        for _ in range(most if looking or most_blind is None else most_blind):
            state = step(*state)
            if looking and bool(state[-1].all()):
                break
        return state


def _compiled(step: Callable[..., State], state: State, most: int) -> State:
    from torch._higher_order_ops.while_loop import while_loop

    def unfinished(count: Tensor, *parts: Tensor) -> Any:
        return (count < most) & ~parts[-1].all()

    def body(count: Tensor, *parts: Tensor) -> Any:
        # what leaves the loop must not be what entered it
        return (count + 1, *(part.clone(memory_format=torch.contiguous_format) for part in step(*parts)))

    start = tuple(part.detach().clone(memory_format=torch.contiguous_format) for part in state)
    count = torch.zeros((), dtype=torch.int64)
    return tuple(while_loop(unfinished, body, (count, *start)))[1:]
