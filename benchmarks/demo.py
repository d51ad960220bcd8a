"""What ``make demo`` reaches, over seeds (spine-F1): the flow against the Gaussian mixture chosen by BIC, on the same test rows."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from _report import heading, write

from flowkit.experiment.config import read_config
from flowkit.experiment.run import start

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    names = ["digits"]
    if Path(os.environ.get("FLOWKIT_DATA", ""), "uci", "power-plant.txt").is_file():
        names.append("uci_power_plant")
    rows = []
    for name in names:
        for seed in range(options.seeds):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as root:
                outcome = start(read_config(CONFIGS / f"{name}.yaml", [("seed", str(seed)), ("training.progress", "false")]), root=root)
            assert outcome is not None
            m = outcome.metrics
            bits = f"{m['bits_per_dim']:.3f} / {m['baseline_bits_per_dim']:.3f}" if "bits_per_dim" in m else "-"
            gain = -m["difference"] / m["difference_error"]
            cells = (name, seed, f"{m['nll']:.3f}", f"{m['baseline_nll']:.3f}", f"{gain:.1f}", bits, m["steps"], f"{time.monotonic() - began:.0f}")
            rows.append("| " + " | ".join(map(str, cells)) + " |")
            print(rows[-1], flush=True)
    columns = ("config", "seed", "test NLL", "mixture NLL", "gain in paired s.e.", "bits/dim flow / mixture", "steps", "seconds in all")
    table = f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    print(write("demo.md", heading("What the demo reaches", ("torch", "scikit-learn")) + table + "\n".join(rows) + "\n"))


if __name__ == "__main__":
    main()
