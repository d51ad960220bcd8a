"""The rational-quadratic spline alone, forward and forward with backward, beside nflows, normflows and zuko.

Everything runs in one process, by turns: a round times each path once, in rotated order, and a ratio is the median over rounds of
the ratios within a round, so that what else the machine does falls on all alike. Equal results are verified first.

Run: python benchmarks/spline_op.py [rounds]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _report import heading, write
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline as nflows_spline
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform

from flowkit.kernels import use
from flowkit.kernels.rational_quadratic_spline import rational_quadratic_spline

ROWS, DIM, BINS, BOUND = 4096, 16, 8, 3.0
Call = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def ours(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return rational_quadratic_spline(x, params, BINS, -BOUND, BOUND, "linear")


def reference(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    with use("reference"):
        return ours(x, params)


def nflows(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return nflows_spline(x, *params.split([BINS, BINS, BINS - 1], dim=-1), tails="linear", tail_bound=BOUND)


def zuko(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return MonotonicRQSTransform(*params.split([BINS, BINS, BINS - 1], dim=-1), bound=BOUND).call_and_ladj(x)


def paths() -> dict[str, Call]:
    """The paths to time; normflows where it is installed."""
    found: dict[str, Call] = {"flowkit, fused": ours, "flowkit, reference": reference, "nflows": nflows}
    try:
        from normflows.utils.splines import unconstrained_rational_quadratic_spline as normflows_spline
    except ImportError:
        pass
    else:
        found["normflows"] = lambda x, params: normflows_spline(x, *params.split([BINS, BINS, BINS - 1], dim=-1), tails="linear", tail_bound=BOUND)
    return {**found, "zuko": zuko}


def both(call: Call, x: Tensor, params: Tensor) -> tuple[Tensor, ...]:
    """Forward, row sums of the log-slopes, and the gradients of a sum of both in values and parameters."""
    y, log_slope = call(x, params)
    total = y.sum() + log_slope.sum(-1).sum()
    return y, log_slope, *torch.autograd.grad(total, (x, params))


def forward(call: Call, x: Tensor, params: Tensor) -> tuple[Tensor, ...]:
    """Forward and the row sums of the log-slopes."""
    with torch.no_grad():
        y, log_slope = call(x, params)
        return y, log_slope.sum(-1)


def verify(calls: dict[str, Call], x: Tensor, params: Tensor) -> str:
    """Largest relative differences from the reference in float64; zuko maps the numbers to widths otherwise and is left out."""
    true = both(reference, x.detach().double().requires_grad_(), params.detach().double().requires_grad_())
    rows = []
    for name, call in calls.items():
        if name == "zuko":
            continue
        errors = [
            float((mine.detach().double() - other.detach()).abs().max() / other.detach().abs().max())
            for mine, other in zip(both(call, x, params), true, strict=True)
        ]
        if not max(errors) < 1e-3:
            raise SystemExit(f"{name} differs from the reference by {max(errors):.1e}: nothing is timed.")
        rows.append(f"| {name} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")
    return "| float32 against float64 | y | log-slope | gradient of x | gradient of parameters |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


def idle() -> tuple[float, float]:
    """Idle and total processor time so far."""
    try:
        numbers = [float(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except OSError:
        return 0.0, 1.0
    return numbers[3] + numbers[4], sum(numbers)


def measure(calls: dict[str, Call], run: Callable[..., object], x: Tensor, params: Tensor, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of every path in every round (the best of two calls), and the share of the machine that was idle just before each."""
    names, took, free = list(calls), {name: [] for name in calls}, []
    for _ in range(3):
        for name in names:
            run(calls[name], x, params)
    for number in range(rounds):
        before = idle()
        time.sleep(0.1)
        after = idle()
        free.append((after[0] - before[0]) / max(after[1] - before[1], 1e-9))
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            best = float("inf")
            for _ in range(2):
                start = time.perf_counter()
                run(calls[name], x, params)
                best = min(best, time.perf_counter() - start)
            took[name].append(best)
    return took, free


def table(title: str, took: dict[str, list[float]], kept: list[int]) -> str:
    """Median and quartiles of every path, and how many times slower than ours it is."""
    peers = [name for name in took if not name.startswith("flowkit")]
    lines = [f"| {title} | median, ms | quartiles, ms | fused is faster by | reference is faster by |", "|---|---|---|---|---|"]
    for name, all_times in took.items():
        times = sorted(1e3 * all_times[i] for i in kept)
        ratios = [statistics.median(all_times[i] / took[mine][i] for i in kept) for mine in ("flowkit, fused", "flowkit, reference")]
        shown = " | ".join("" if ratio <= 1 or (name == "flowkit, reference" and i) else f"{ratio:.1f}x" for i, ratio in enumerate(ratios))
        lines.append(f"| {name} | {statistics.median(times):.2f} | {times[len(times) // 4]:.2f} - {times[3 * len(times) // 4]:.2f} | {shown} |")
    for mine in list(took)[:2]:
        best = statistics.median(min(took[peer][i] for peer in peers) / took[mine][i] for i in kept)
        lines.append(f"| best peer over {mine} | | | {best:.1f}x | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, DIM, generator=generator).requires_grad_()
    params = torch.randn(ROWS, DIM, 3 * BINS - 1, generator=generator).requires_grad_()
    calls = paths()
    parts = [verify(calls, x, params)]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        parts.append(f"## Threads: {threads}\n")
        for title, run in (("forward", forward), ("forward and backward", both)):
            took, free = measure(calls, run, x, params, rounds)
            kept = sorted(range(rounds), key=lambda i: -free[i])[: max(rounds // 2, 5)]
            parts.append(
                f"{title.capitalize()}: {rounds} rounds; kept are the {len(kept)} with the idlest machine beforehand "
                f"(idle {100 * min(free[i] for i in kept):.0f} to {100 * max(free):.0f} %; median of all rounds {100 * statistics.median(free):.0f} %).\n\n"
                + table(title, took, kept)
            )
    parts.append("zuko maps the raw numbers to bins otherwise: only its time is compared. Log-slopes are summed over the rows in all.\n")
    packages = ("torch", "nflows", *(["normflows"] if "normflows" in calls else []), "zuko")
    text = f"Shape {ROWS} x {DIM}, {BINS} bins, float32. The machine is shared; load average at the end: {os.getloadavg()[0]:.1f}.\n"
    text += "With 2 threads on 2 busy cores every path waits for its other thread, torch's own at each operation: "
    text += "those rows say something only if the idle share is near 100 %.\n"
    write("spline_op.md", "\n".join([heading("Rational-quadratic spline: the op", packages), text, *parts]))
    sys.stdout.write("\n".join(parts))


if __name__ == "__main__":
    main()
