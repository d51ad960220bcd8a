"""The table behind ``flow.summary()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from flowkit.core.layers import layers
from flowkit.core.shapes import show

if TYPE_CHECKING:
    from flowkit.core.flow import Flow


def summary(flow: Flow) -> str:
    """One row a map, latent first; parameters shared between maps are counted once in the total."""
    rows = [("base", type(flow.base).__name__, show(flow.base.event_shape), "", _count(flow.base))]
    for number, (name, step) in enumerate(layers(flow), 1):
        rows.append((str(number), name, show(step.out_shape), step.traits.inverse, _count(step)))
    header = ("", "map", "shape", "inverse", "parameters")
    cells = [header, *((a, b, c, d, f"{n:,}") for a, b, c, d, n in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = ["  ".join(cell.rjust(w) if i == 4 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    context = "" if flow.context_shape is None else f", context {flow.context_shape}"
    title = f"{type(flow).__name__}: event {show(flow.event_shape)}{context}, density {flow.density}"
    return "\n".join([title, lines[0], rule, *lines[1:], rule, f"{_count(flow):,} parameters"])


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
