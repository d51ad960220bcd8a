"""Cost of a training step of ReverseKL with path gradients over one with the total derivative.

    python benchmarks/path_gradients.py --threads 1 --repeats 20

All estimators take turns in one process; a figure is the median over the repeats of the ratio to the "total" step of the same
turn, in process CPU time. "path" carries the score along the sampling pass, "path_two_pass" takes the inverse: for gauge
couplings that is a search for a root, differentiated implicitly.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _report import heading, write

import flowkit as fk
from flowkit.core.objective import Batch

ESTIMATORS = ("total", "path", "path_two_pass")
BARS = {("affine", 64): 1.8, ("affine", 1024): 1.6, ("spline", 64): 2.0, ("spline", 1024): 2.0, ("U(1)", 64): 2.3, ("U(1)", 1024): 2.3}


def cases() -> dict[str, tuple[str, Callable[[], fk.Flow], object]]:
    """Label -> (kind, flow, target)."""
    well, links = fk.targets.ManyWell(dim=32), fk.targets.U1Lattice(8, 2.0)
    return {
        "RealNVP, 32 dimensions, hidden (64, 64)": ("affine", lambda: fk.flows.RealNVP(32, hidden=(64, 64)), well),
        "RealNVP, 32 dimensions, hidden (256, 256)": ("affine", lambda: fk.flows.RealNVP(32, hidden=(256, 256)), well),
        "NeuralSplineFlow, 32 dimensions, hidden (64, 64)": ("spline", lambda: fk.flows.NeuralSplineFlow(32, hidden=(64, 64)), well),
        "NeuralSplineFlow, 32 dimensions, hidden (256, 256)": ("spline", lambda: fk.flows.NeuralSplineFlow(32, hidden=(256, 256)), well),
        "GaugeFlow, 8 x 8 links": ("U(1)", lambda: fk.flows.GaugeFlow(8), links),
    }


def stirred(flow: fk.Flow) -> fk.Flow:
    """The flow with its parameters moved off the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return flow


def ratios(flow: fk.Flow, target: object, batch: int, repeats: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of a "total" step, and the other estimators' cost over it."""
    objectives = {name: fk.objectives.ReverseKL(target, gradient=name) for name in ESTIMATORS}  # type: ignore[arg-type]
    times: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for turn in range(repeats + 3):
        for name, objective in objectives.items():
            flow.zero_grad()
            generator = torch.Generator().manual_seed(turn)
            start = time.process_time()
            objective.loss(flow, Batch(size=batch), generator).value.backward()
            spent = time.process_time() - start
            if turn >= 3:
                times[name].append(spent)
    over = {name: statistics.median(a / b for a, b in zip(times[name], times["total"], strict=True)) for name in ESTIMATORS[1:]}
    return 1e3 * statistics.median(times["total"]), over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [heading("Cost of path gradients"), f"\n{__doc__.split(chr(10) * 2)[2]}\n"]
    lines.append("\n| flow | batch | total, ms | path | path_two_pass | bar for path |\n|---|---|---|---|---|---|")
    for label, (kind, make, target) in cases().items():
        torch.manual_seed(0)
        flow = stirred(make())
        for batch in (64, 1024):
            spent, over = ratios(flow, target, batch, options.repeats)
            lines.append(f"| {label} | {batch} | {spent:.1f} | {over['path']:.2f} | {over['path_two_pass']:.2f} | {BARS[kind, batch]} |")
            print(lines[-1], flush=True)
    print(write("path_gradients.md", "\n".join(lines) + "\n"))


if __name__ == "__main__":
    main()
