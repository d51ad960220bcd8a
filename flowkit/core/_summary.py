"""The table behind ``flow.summary()``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from flowkit.core.algebra.chain import Chain
from flowkit.core.algebra.inverse import Inverse
from flowkit.core.shapes import show
from flowkit.core.transform import Bijector

if TYPE_CHECKING:
    from flowkit.core.flow import Flow


def summary(flow: Flow) -> str:
    """One row a map, latent first; parameters shared between maps are counted once in the total."""
    rows = [("base", type(flow.base).__name__, show(flow.base.event_shape), "", _count(flow.base))]
    for label, step in _steps(flow):
        rows.append((label, _name(step), show(step.out_shape), step.traits.inverse, _count(step)))
    header = ("", "map", "shape", "inverse", "parameters")
    cells = [header, *((a, b, c, d, f"{n:,}") for a, b, c, d, n in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = ["  ".join(cell.rjust(w) if i == 4 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    context = "" if flow.context_shape is None else f", context {flow.context_shape}"
    title = f"{type(flow).__name__}: event {show(flow.event_shape)}{context}, density {flow.density}"
    return "\n".join([title, lines[0], rule, *lines[1:], rule, f"{_count(flow):,} parameters"])


def _steps(flow: Flow) -> Iterator[tuple[str, Bijector]]:
    number = 0
    for whole in flow.maps:
        for step in _flat(whole):
            number += 1
            yield str(number), step


def _flat(step: Bijector) -> Iterator[Bijector]:
    if isinstance(step, Chain):
        for part in step:
            yield from _flat(part)
    elif isinstance(step, Inverse) and isinstance(step.bijector, Chain):
        for part in reversed(list(step.bijector)):
            yield from _flat(~part)
    else:
        yield step


def _name(step: Bijector) -> str:
    if isinstance(step, Inverse):
        return f"~{_name(step.bijector)}"
    univariate = getattr(step, "univariate", None)
    return type(step).__name__ + (f"[{type(univariate).__name__}]" if univariate is not None else "")


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
