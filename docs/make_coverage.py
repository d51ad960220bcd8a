"""Write docs/coverage.md from docs/coverage.yaml and the registries: ``python docs/make_coverage.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import REGISTRIES

HERE = Path(__file__).parent


def rows() -> list[dict[str, Any]]:
    """The entries of docs/coverage.yaml."""
    return yaml.safe_load((HERE / "coverage.yaml").read_text(encoding="utf-8"))


def text() -> str:
    """The page: one row a feature, class names from the registries."""
    lines = [
        "# What the other libraries have, and where it is here\n",
        "Written by `make docs` from `docs/coverage.yaml`. Every class named here is registered, takes part in the property suite with all its",
        "examples, and each row is compared with another library or a closed form by the tests named last.\n",
        "| feature | best version elsewhere | here | compared in |",
        "|---|---|---|---|",
    ]
    for row in rows():
        found = [f"{kind}: " + ", ".join(f"`{REGISTRIES[kind][name].__name__}`" for name in names) for kind, names in row["classes"].items()]
        found += [row["elsewhere"].replace("|", "\\|")] if "elsewhere" in row else []
        files = sorted({test.split("::")[0] for test in row["tests"]})
        lines.append(f"| {row['feature']} | {row['best_elsewhere']} | {'; '.join(found)} | {', '.join(f'`tests/{name}`' for name in files)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "coverage.md").write_text(text(), encoding="utf-8")
