"""The reference page: every registered name with its line and its paper, written from the docstrings."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from flowkit.core.registry import REGISTRIES
from flowkit.experiment.listing import first_line, paper


def reference_text() -> str:
    """The page as Markdown: a table for each kind that has names."""
    importlib.import_module("flowkit")
    parts = ["# Reference\n\nWritten by `make docs` from the docstrings; `flowkit list KIND` prints the same.\n"]
    for plural, registry in REGISTRIES.items():
        if not len(registry):
            continue
        parts.append(f"\n## {plural}\n\n| name | class | what it is | paper |\n|---|---|---|---|\n")
        for name in registry:
            cls = registry[name]
            cells = (f"`{name}`", f"`{cls.__name__}`", first_line(cls).replace("|", "\\|"), paper(cls))
            parts.append("| " + " | ".join(cells) + " |\n")
    return "".join(parts)


def main(path: str) -> None:
    """Write the page to a file."""
    Path(path).write_text(reference_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
