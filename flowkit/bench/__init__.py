"""Side-by-side benchmarks: every contender is verified on the same data before it is timed. ``flowkit bench`` runs them."""

from flowkit.bench.command import bench
from flowkit.bench.run import SUITES, run
from flowkit.bench.setting import Setting

__all__ = ["SUITES", "Setting", "bench", "run"]
