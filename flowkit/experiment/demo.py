"""``make demo``: train a spline flow on handwritten digits, and say where its samples, pictures and report are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flowkit.core.errors import FlowkitError
from flowkit.experiment.config import read_config
from flowkit.experiment.record import PICTURES, REPORT, SAMPLES, read_run
from flowkit.experiment.run import start
from flowkit.experiment.samples import write_samples

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"
GRID, GRID_FILE = 100, "samples.png"


def demo(config: str | Path = CONFIG, changes: Sequence[tuple[str, str]] = (), *, root: str | Path = "runs") -> dict[str, Path]:
    """Run a config and draw a grid of its samples.

    Args:
        config: a YAML file whose events are pictures.
        changes: dotted overrides.
        root: where runs are kept.

    Returns:
        what there is to look at, by name.
    """
    outcome = start(read_config(config, changes), where=str(config), root=root)
    assert outcome is not None
    folder = outcome.folder
    write_samples(read_run(folder), folder / GRID_FILE, GRID)
    return {"report": folder / REPORT, "pictures": folder / PICTURES, "grid": folder / GRID_FILE, "samples": folder / SAMPLES, "flow": folder / "flow"}


def main() -> int:
    """Run the demo and print where things are."""
    try:
        made = demo()
    except FlowkitError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    sys.stdout.write("".join(f"{name:<10}{path}\n" for name, path in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
