"""``make demo``: train a spline flow on real data, and say where checkpoint, samples, pictures and report are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flowkit.core.errors import FlowkitError
from flowkit.experiment.config import read_config
from flowkit.experiment.record import PICTURES, REPORT, SAMPLES, read_run
from flowkit.experiment.run import start
from flowkit.experiment.samples import write_samples

GRID, GRID_FILE = 100, "samples.png"


def demo(config: str | Path, changes: Sequence[tuple[str, str]] = (), *, root: str | Path = "runs") -> dict[str, str]:
    """Run a config, and draw a grid of samples where events are pictures.

    Args:
        config: a YAML file; changes: dotted overrides; root: where runs are kept.

    Returns:
        how good the flow is and what there is to look at, by name.
    """
    outcome = start(read_config(config, changes), where=str(config), root=root)
    assert outcome is not None
    folder, metrics = outcome.folder, outcome.metrics
    made = {"test NLL": f"{metrics['nll']:.3f} nats; Gaussian mixture {metrics['baseline_nll']:.3f}"}
    gain = -metrics["difference"] / metrics["difference_error"]
    made["gain"] = f"{-metrics['difference']:.3f} nats per event, {gain:.1f} paired standard errors"
    made |= {"checkpoint": str(folder / "flow"), "samples": str(folder / SAMPLES), "pictures": str(folder / PICTURES), "report": str(folder / REPORT)}
    run = read_run(folder)
    if run.units.levels is not None:
        made["bits/dim"] = f"{metrics['bits_per_dim']:.3f}; Gaussian mixture {metrics['baseline_bits_per_dim']:.3f}"
        write_samples(run, folder / GRID_FILE, GRID)
        made["grid"] = str(folder / GRID_FILE)
    return made


def main(config: str) -> int:
    """Run the demo and print what came of it."""
    try:
        made = demo(config)
    except FlowkitError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    sys.stdout.write("".join(f"{name:<12}{text}\n" for name, text in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
