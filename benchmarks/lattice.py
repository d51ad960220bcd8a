"""Flows of lattice fields trained on their actions alone, against known values (physics-A9 to A13).

phi^4 with the action sum_x [ sum_mu (phi(x + mu) - phi(x))^2 + m2 phi^2 + lam phi^4 ] and U(1) gauge theory with -beta sum cos P, both in two dimensions.
ReverseKL(gradient="path"), Adam with a cosine, a fixed number of steps and a seed, one thread. Judged on 50,000 draws: ess, their effective share in
(0, 1]; log Z by importance weights; for phi^4 the weighted mean of phi^2. Seconds are process-CPU seconds of the training, on this machine.

    python benchmarks/lattice.py             # writes benchmarks/results/lattice.md, 6 CPU-minutes
    python benchmarks/lattice.py --seeds 1   # only looks
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _report import heading, write

from flowkit.flows import GaugeFlow, LatticeFlow
from flowkit.objectives import ReverseKL
from flowkit.sampling import importance
from flowkit.targets import Phi4, U1Lattice
from flowkit.training.fit import fit

DRAWS = 50_000


class Case(NamedTuple):
    """A theory, a flow and a training.

    Args:
        words: the setting, for the table. target, flow: made afresh. steps, batch, lr: of the training.
        log_z, allowed: log Z and how far the estimate may be off. square: <phi^2> and how far that may be off, or None. least: the effective share asked for.
        source: of the values.
    """

    words: str
    target: Callable[[], Any]
    flow: Callable[[], Any]
    steps: int
    batch: int
    lr: float
    log_z: float
    allowed: float
    square: tuple[float, float] | None
    least: float
    source: str = "spec"


class Outcome(NamedTuple):
    """One training: effective share of the draws, log Z with its standard error, <phi^2> or None, CPU seconds of the training, and the flow."""

    ess: float
    log_z: float
    log_z_error: float
    square: float | None
    seconds: float
    flow: Any


CASES: dict[str, Case] = {
    "A9": Case(
        "free field 6 x 6, m2 0.5; spectrum alone", lambda: Phi4(6, 0.5, 0.0), lambda: LatticeFlow((6, 6), 0),
        150, 128, 3e-2, -3.9706527263802673, 1e-3, None, 0.999, "exact",
    ),
    "A10": Case(
        "phi^4 8 x 8, m2 0.5, lam 1; 4 couplings", lambda: Phi4(8, 0.5, 1.0), lambda: LatticeFlow((8, 8), 4), 300, 128, 1e-2, -10.46, 0.03, None, 0.85
    ),
    "A11": Case(
        "phi^4 6 x 6, m2 -4, lam 6.975; 4 couplings", lambda: Phi4(6, -4.0, 6.975), lambda: LatticeFlow((6, 6), 4),
        1000, 128, 1e-2, 6.98, 0.05, (0.161, 0.004), 0.6,
    ),
    "A12": Case(
        "phi^4 8 x 8, m2 -4, lam 8; 6 couplings", lambda: Phi4(8, -4.0, 8.0), lambda: LatticeFlow((8, 8), 6),
        600, 128, 1e-2, 9.29, 0.05, (0.143, 0.004), 0.45,
    ),
    "A13": Case(
        "U(1) 4 x 4, beta 1; 8 gauge couplings", lambda: U1Lattice(4, 1.0), lambda: GaugeFlow(4, 8), 300, 128, 1e-2, 62.5867, 0.05, None, 0.0, "exact"
    ),
}  # fmt: skip


def train(name: str, seed: int = 0, draws: int = DRAWS) -> Outcome:
    """Train one case and judge it."""
    case = CASES[name]
    torch.manual_seed(seed)
    target, flow = case.target(), case.flow()
    begun = time.process_time()
    fit(flow, None, ReverseKL(target), max_steps=case.steps, batch_size=case.batch, lr=case.lr, optimizer="adam", seed=seed, progress=False)
    seconds = time.process_time() - begun
    with torch.no_grad():
        report: Any = importance(flow, target, draws, generator=torch.Generator().manual_seed(100 + seed), progress=False)
    square = None if case.square is None else float(report.mean(lambda x: x.square().mean((-2, -1))))
    return Outcome(float(report.ess), float(report.log_z), float(report.log_z_error), square, seconds, flow)


def holds(name: str, found: Outcome) -> bool:
    """Whether an outcome meets the spec."""
    case = CASES[name]
    near = found.square is None or case.square is None or abs(found.square - case.square[0]) <= case.square[1]
    return found.ess >= case.least and abs(found.log_z - case.log_z) <= case.allowed and near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=tuple(CASES), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| id | setting | steps | seed | ESS | asked | log Z | error bar | known | <phi^2> | known | CPU s | holds |", "|" + "---|" * 13]
    for name in options.only or CASES:
        case = CASES[name]
        for seed in range(options.seeds):
            o = train(name, seed)
            squares = ("", "") if o.square is None or case.square is None else (f"{o.square:.4f}", f"{case.square[0]} +- {case.square[1]}")
            known = f"{case.log_z:.4f} ({case.source}) +- {case.allowed}"
            lines.append(
                f"| {name} | {case.words} | {case.steps} | {seed} | {o.ess:.4f} | {case.least or ''} | {o.log_z:.4f} | {o.log_z_error:.4f} | {known} "
                f"| {squares[0]} | {squares[1]} | {o.seconds:.0f} | {'yes' if holds(name, o) else 'no'} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join([heading("Flows of lattice fields trained on their actions", ("torch",)), *lines, ""])
    if options.seeds >= 3 and not options.only:
        write("lattice.md", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
