"""Every registered name with one line about it and its paper, from the docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

from flowkit.core.errors import UnknownNameError, nearest
from flowkit.core.registry import REGISTRIES, Registry
from flowkit.kernels import OPS

_PAPER = re.compile(r"((?:van |von |de |den |der )?[A-ZÀ-Þ][^().;:\n]*?(?: et al\.)?) \((\d{4}[a-z]?)\)")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")


def list_kind(kind: str) -> str:
    """A line for each name of a kind: name and aliases, what it is, its paper.

    Raises:
        UnknownNameError: no registry is called so.
    """
    if kind in ("kernel", "kernels"):
        return list_kernels()
    registry = next((other for plural, other in REGISTRIES.items() if kind in (plural, other.kind)), None)
    if registry is None:
        raise UnknownNameError(f"list: no kind named '{kind}'. {nearest(kind, (*REGISTRIES, 'kernels'))} See them all with: flowkit list")
    rows = [(_names(registry, name), first_line(registry[name]), paper(registry[name])) for name in registry]
    return columns(rows) if rows else f"No {registry.plural} are registered.\n"


def list_kernels() -> str:
    """A line for each op and kind of device: which implementation serves there, and why where it is the reference."""
    return columns((name, device, status) for name, op in sorted(OPS.items()) for device, status in op.status().items())


def list_kinds() -> str:
    """A line for each kind: how many names it has, and the first of them."""
    rows = []
    for plural, registry in REGISTRIES.items():
        names = list(registry)
        if names:
            more = ", ..." if len(names) > 4 else ""
            rows.append((plural, f"{len(names):>3}", ", ".join(names[:4]) + more))
    rows.append(("kernels", f"{len(OPS):>3}", ", ".join(sorted(OPS))))
    return columns(rows) + "\nNames of a kind: flowkit list KIND\n"


def first_line(cls: type) -> str:
    """The first line of a docstring, without its full stop."""
    text = (inspect.getdoc(cls) or "").strip()
    return text.splitlines()[0].rstrip(".") if text else ""


def paper(cls: type) -> str:
    """Authors, year and arXiv number of the first reference in a docstring, or nothing."""
    _, _, after = (inspect.getdoc(cls) or "").partition("Reference:")
    after = " ".join(after.split("\n\n")[0].split())
    found = _PAPER.search(after)
    if found is None:
        return ""
    number = _ARXIV.search(after.split(";")[0])
    return f"{found[1]} {found[2]}" + (f", arXiv:{number[1]}" if number else "")


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns, two blanks apart."""
    cells = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells)


def _names(registry: Registry, name: str) -> str:
    aliases = [alias for alias, meant in registry.aliases().items() if meant == name]
    return f"{name} ({', '.join(sorted(aliases))})" if aliases else name
