"""FAB beside the reverse KL divergence: modes, effective samples and log Z of flows trained against energies alone (physics-D8, issue B-3).

Cases: ManyWell(6), 8 modes; ManyWell(32), 65,536 modes; GMM-40. Each flow is trained by FAB and, from the same start and for as many steps, by
ReverseKL(gradient="path"), Adam with a cosine, one thread. Judged on 50,000 draws: ess, the effective share of the flow's own draws, which sees
only the modes that the flow has; ess_p, 1 / (mean_p w mean_p 1/w) over exact draws of the target, which a missed mode takes to 0, and so does a
single draw in 50,000 where q is far too small; KL(p|q) in nats over the same draws, in which that one counts little. A mode counts as found at 0.3
of its true mass or more; for ManyWell(32) these are the 32 single wells, and beside them stands how many of the 65,536 joint modes the draws visit,
and as many exact draws. The error of log Z is the paper's: the mean of |log Z - exact| over 10 estimates from 2,000 draws each.

    python benchmarks/fab.py                            # writes benchmarks/results/fab.md, 7 CPU-minutes
    python benchmarks/fab.py --only many_well_6/fab     # one row; the table keeps the others, whose numbers are in fab.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from _report import RESULTS, heading, write
from torch import Tensor

from flowkit.core.objective import Objective
from flowkit.flows import NeuralSplineFlow, RealNVP
from flowkit.objectives import FAB, ReverseKL
from flowkit.sampling import importance
from flowkit.targets import GaussianMixture, ManyWell
from flowkit.training.fit import fit

DRAWS, FOUND, PUBLISHED_DRAWS = 50_000, 0.3, 2000
NOTE = """
Published: mean absolute error of log Z over 5 seeds, from the README of the authors' fab-jax. Many-well: RealNVP of 10 layers, width 10 x 32, batch 2048, a
buffer of 65,536 to 512,000 points, 4 densities in between, HMC of 5 leapfrog steps, 8 steps a pass, learning rate 3e-4. GMM-40: RealNVP of 15 layers, batch
128, 1 density in between, Metropolis with step 5, 4 steps a pass, learning rate 1e-4. Here: one seed, one CPU thread, one or two minutes a row. The rows of
many_well_32 with RealNVP are far too short to compare with the published ones; the spline couplings are another flow, which bends one coordinate into two
wells in a single layer. The flow for gmm40 starts as a normal of deviation 25, for both objectives. On the many-wells the ess of reverse_kl is high because a
flow in one mode sees nothing else; KL(p|q) and the modes show it. Rows are kept when others are made again with --only; each has its date.
"""


@dataclass
class Outcome:
    """One training.

    Args:
        ess, ess_p: see the module. modes, of: found, and there are. least: smallest ratio of a mode's mass to its true mass.
        visited, visited_exact: joint modes that the draws visit, and exact draws.
        error: of log Z, as in the paper. seconds: CPU time of the training. steps, seed, date: of it. forward_kl: KL(p|q) in nats.
    """

    ess: float
    ess_p: float
    modes: int
    of: int
    least: float
    visited: int
    visited_exact: int
    error: float
    seconds: float
    steps: int
    seed: int
    date: str
    forward_kl: float | None = None


@dataclass
class Case:
    """A target with a flow and, by objective, how it is trained.

    Args:
        target, flow: made afresh. mode: which joint mode points are in, (N, D) -> (N,). shares: of points in each mode that is counted, (N, D) -> (M,).
        trainings: objective by name, with steps, batch size and learning rate. words: the setting, for the table. published: FAB's error of log Z.
    """

    target: Callable[[], Any]
    flow: Callable[[], Any]
    mode: Callable[[Tensor], Tensor]
    shares: Callable[[Tensor], Tensor]
    trainings: dict[str, tuple[Callable[[Any], Objective], int, int, float]]
    words: str
    published: str


def wells(x: Tensor) -> Tensor:
    """Which wells the points are in, as a number."""
    right = (x[:, ::2] > 0).long()
    return (right << torch.arange(right.shape[1])).sum(1)


def joint_wells(x: Tensor) -> Tensor:
    return torch.bincount(wells(x), minlength=2 ** (x.shape[1] // 2)) / len(x)


def single_wells(x: Tensor) -> Tensor:
    right = (x[:, ::2] > 0).double().mean(0)
    return torch.cat([right, 1 - right])


def nearest_of_40(x: Tensor) -> Tensor:
    return torch.cdist(x, GaussianMixture.gmm40().modes().to(x)).argmin(1)


def shares_of_40(x: Tensor) -> Tensor:
    return torch.bincount(nearest_of_40(x), minlength=40) / len(x)


def wide_spline() -> Any:
    """A spline flow that starts as a normal of deviation 25, about the region of the 40 modes."""
    flow = NeuralSplineFlow(2, layers=4, hidden=(32, 32), bins=12)
    flow.set_standardizer([torch.tensor([[-25.0, -25.0], [25.0, 25.0]])])
    return flow


def reverse_kl(target: Any) -> Objective:
    return ReverseKL(target)


def walks(target: Any) -> Objective:
    return FAB(target, intermediates=1, transition="metropolis", step_size=5.0, acceptance=None, updates_per_pass=4)


CASES = {
    "many_well_6": Case(
        lambda: ManyWell(6),
        lambda: RealNVP(6, layers=8, hidden=(40, 40)),
        wells,
        joint_wells,
        {"fab": (FAB, 4000, 256, 1e-3), "reverse_kl": (reverse_kl, 4000, 256, 1e-3)},
        "RealNVP, 8 layers, 2 x 40",
        "",
    ),
    "many_well_32": Case(
        lambda: ManyWell(32),
        lambda: RealNVP(32, layers=10, hidden=(96, 96)),
        wells,
        single_wells,
        {"fab": (FAB, 1200, 256, 1e-3), "reverse_kl": (reverse_kl, 1200, 256, 1e-3)},
        "RealNVP, 10 layers, 2 x 96",
        "0.0316",
    ),
    "many_well_32_splines": Case(
        lambda: ManyWell(32),
        lambda: NeuralSplineFlow(32, layers=4, hidden=(64,), bins=8),
        wells,
        single_wells,
        {"fab": (FAB, 1500, 256, 1e-3)},
        "spline coupling, 4 layers, 64, 8 bins",
        "0.0316",
    ),
    "gmm40": Case(
        GaussianMixture.gmm40,
        wide_spline,
        nearest_of_40,
        shares_of_40,
        {"fab": (walks, 6000, 256, 2e-3), "reverse_kl": (reverse_kl, 6000, 256, 2e-3)},
        "spline coupling, 4 layers, 2 x 32, 12 bins",
        "0.00269",
    ),
}


def train_and_judge(case: Case, name: str, seed: int = 0) -> Outcome:
    """Train a flow from its start and judge it."""
    target = case.target()
    torch.manual_seed(seed)
    flow = case.flow()
    make, steps, batch, rate = case.trainings[name]
    begun = time.process_time()
    fit(flow, None, make(target), max_steps=steps, batch_size=batch, lr=rate, optimizer="adam", seed=seed, progress=False)
    seconds = time.process_time() - begun
    generator = torch.Generator().manual_seed(1000 + seed)
    exact = target.sample(DRAWS, generator=generator)
    report = importance(flow, target, DRAWS, exact=exact, generator=generator, progress=False)
    ratio = case.shares(report.samples) / case.shares(target.sample(400_000, generator=generator))
    visited, visited_exact = (len(case.mode(x).unique()) for x in (report.samples, exact))
    errors = [importance(flow, target, PUBLISHED_DRAWS, exact=exact[:2], generator=generator, progress=False).log_z - target.log_normalizer for _ in range(10)]
    error = sum(abs(e) for e in errors) / len(errors)
    return Outcome(
        report.ess, share_of_p(flow, target, exact), int((ratio >= FOUND).sum()), len(ratio), float(ratio.min()), visited, visited_exact,
        error, seconds, steps, seed, str(datetime.date.today()), report.eubo - target.log_normalizer,
    )  # fmt: skip


@torch.no_grad()
def share_of_p(flow: Any, target: Any, exact: Tensor) -> float:
    """1 / (mean_p w mean_p 1/w), w = p / q."""
    log_w = (target.log_density(exact) - flow.log_prob(exact)).double()
    n = math.log(len(log_w))
    return math.exp(2 * n - float(torch.logsumexp(log_w, 0)) - float(torch.logsumexp(-log_w, 0)))


def many_well_six(name: str, seed: int) -> Outcome:
    """The training of physics-D8."""
    return train_and_judge(CASES["many_well_6"], name, seed)


def table(rows: dict[str, Any]) -> str:
    """The rows so far, in the order of the cases."""
    judged = ["ess", "ess_p", "KL(p\\|q)", "modes found", "least mass", "visited (exact)", "error of log Z", "published"]
    names = ["target, flow", "objective", "seed", "steps x batch", *judged, "CPU s", "date"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for label, case in CASES.items():
        for name, (_, _, batch, _) in case.trainings.items():
            for row in rows.get(f"{label}/{name}", []):
                o = Outcome(**row)
                cells = [
                    f"{label.removesuffix('_splines')}, {case.words}", name, str(o.seed), f"{o.steps} x {batch}", f"{o.ess:.3f}", f"{o.ess_p:.3g}",
                    "" if o.forward_kl is None else f"{o.forward_kl:.3f}",
                    f"{o.modes} of {o.of}", f"{o.least:.2f}", f"{o.visited} ({o.visited_exact})", f"{o.error:.4f}", case.published if name == "fab" else "",
                    f"{o.seconds:.0f}", o.date,
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=None, help="rows, as case/objective")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "fab.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for key in arguments.only or [f"{label}/{name}" for label, case in CASES.items() for name in case.trainings]:
        label, name = key.split("/")
        for seed in arguments.seeds:
            outcome = asdict(train_and_judge(CASES[label], name, seed))
            rows[key] = sorted([row for row in rows.get(key, []) if row["seed"] != seed] + [outcome], key=lambda row: row["seed"])
            print(key, outcome, flush=True)
            write("fab.json", json.dumps(rows, indent=1) + "\n")
            write("fab.md", "\n".join([heading("FAB beside the reverse KL divergence", ("torch",)), table(rows), NOTE]))


if __name__ == "__main__":
    main()
