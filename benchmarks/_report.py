"""What every committed table carries: machine, versions, command, date."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def cpu_name() -> str:
    """The processor's own name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def heading(title: str, packages: tuple[str, ...] = ("torch",)) -> str:
    """Title and circumstances as Markdown."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return (
        f"# {title}\n\nMachine: {cpu_name()}, {os.cpu_count()} cores. Python {platform.python_version()}, {versions}.\n"
        f"Command: `{command}`. Date: {datetime.date.today()}.\n"
    )


def write(name: str, text: str) -> Path:
    """Write a table to ``benchmarks/results``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / name
    path.write_text(text)
    return path
