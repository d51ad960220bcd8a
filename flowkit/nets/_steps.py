"""Which masked networks may be evaluated as their inputs become known, and under which name they keep the order."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from flowkit.kernels.steps import Layer, Levels, Run, Stack, Steps
from flowkit.nets._masked_linear import MaskedLinear

__all__ = ["Layer", "Levels", "Run", "Stack", "Steps", "can_be_stepped", "name_of"]


def name_of(levels: Levels) -> str:
    """A key for ``nn.ModuleDict``: one net may serve several maps, which solve their coordinates in different orders."""
    return "_".join("-".join(map(str, level)) for level in levels)


def can_be_stepped(net: nn.Module, layers: Iterable[nn.Module | None], others: Iterable[nn.Module | None] = ()) -> bool:
    """Whether a net may be read instead of called: none of its masked layers was replaced, and no hook waits for a call of any part."""
    linear = [layer for layer in layers if layer is not None]
    for part in (net, *linear, *others):
        if part is not None and (part._forward_hooks or part._forward_pre_hooks):
            return False
    return all(isinstance(layer, MaskedLinear) for layer in linear)
