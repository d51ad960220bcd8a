"""When values are checked: shapes always, domains in eager mode on the CPU or where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from flowkit.core.errors import NonFiniteError

_VALUES: ContextVar[bool | None] = ContextVar("flowkit_checks_values", default=None)
_FINITE: ContextVar[bool] = ContextVar("flowkit_checks_finite", default=False)


@contextmanager
def checks(*, values: bool = True, finite: bool = False) -> Iterator[None]:
    """Turn on value checks on every device: ``with flowkit.checks(): flow.to_latent(x)``.

    Args:
        values: raise DomainError for values outside a map's domain, also on a GPU (costs a synchronisation); False never does.
        finite: raise NonFiniteError, naming the layer, as soon as a layer's output is NaN or infinite.
    """
    tokens = (_VALUES.set(values), _FINITE.set(finite))
    try:
        yield
    finally:
        _VALUES.reset(tokens[0])
        _FINITE.reset(tokens[1])


def runs_eagerly() -> bool:
    """Whether operations run here and now: not in a compiled graph, nor under vmap, grad or jvp of torch.func."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def may_raise(value: Tensor) -> bool:
    """Whether the values of this tensor can be looked at here without breaking a graph or stalling a device."""
    if not runs_eagerly():
        return False
    asked = _VALUES.get()
    return value.device.type == "cpu" if asked is None else asked


def checks_finite() -> bool:
    """Whether every layer's output is looked at here."""
    return runs_eagerly() and _FINITE.get()


def check_finite(who: str, value: Tensor, log_det: Tensor) -> None:
    """Under ``checks(finite=True)``: raise NonFiniteError naming the map that made a value NaN or infinite."""
    if not checks_finite():
        return
    for what, tensor in (("output", value), ("log_det", log_det)):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise NonFiniteError(f"{who}: {bad} of {tensor.numel()} {what} values are NaN or infinite.")
