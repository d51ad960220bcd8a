"""Effective sample size at equal CPU time for three gradients of the reverse KL divergence (issue B-2).

Problems: phi^4 on 8 x 8 sites (m2 = 0.5, lam = 1) with a free field of learned spectrum and 4 convolutional couplings; ManyWell(32) with affine couplings
(RealNVP, 8 layers of 64, 64) and with splines (4 layers of 64, 64, 8 bins). Batches of 128, Adam, learning rate 3e-3 (lattice) and 1e-3 with a cosine.
Steps are calibrated per gradient, once a problem, to the same process-CPU time on one thread; the trainings are then run for these steps.
Reported after training, 20,000 draws each: ess, the effective share of the flow's samples; elbo and the importance estimate of log Z less its true or best
value (the bias of modes missed shows there); for many-well ess_p = 1 / (mean w mean 1/w) over exact samples, which missed modes send to 0.

    python benchmarks/energy_ess.py                 # writes benchmarks/results/energy_ess.md
    python benchmarks/energy_ess.py --seconds 2 --seeds 1   # only looks
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _report import heading, write

from flowkit.flows import LatticeFlow, NeuralSplineFlow, RealNVP
from flowkit.objectives import ReverseKL
from flowkit.sampling import importance
from flowkit.targets import ManyWell, Phi4
from flowkit.training.fit import fit

KINDS = ("total", "path_two_pass", "path")
BATCH, DRAWS = 128, 20_000


class Problem(NamedTuple):
    """A target, an untrained flow, the learning rate, and log Z where it is known."""

    name: str
    target: Any
    flow: Callable[[], Any]
    rate: float
    log_z: float


PROBLEMS = (
    Problem("phi^4 8x8", Phi4(8, 0.5, 1.0), lambda: LatticeFlow((8, 8), layers=4), 3e-3, -10.46),
    Problem("many-well 32, RealNVP", ManyWell(32), lambda: RealNVP(32, layers=8, hidden=(64, 64)), 1e-3, 164.6957),
    Problem("many-well 32, splines", ManyWell(32), lambda: NeuralSplineFlow(32, layers=4, hidden=(64, 64), bins=8), 1e-3, 164.6957),
)


class Outcome(NamedTuple):
    """One training: steps, CPU seconds they took, and what 20,000 draws say."""

    steps: int
    seconds: float
    ess: float
    elbo: float
    log_z: float
    ess_p: float


def train(problem: Problem, kind: Any, steps: int, seed: int) -> tuple[Any, float]:
    """A trained flow and the CPU seconds of its training."""
    torch.manual_seed(seed)
    flow = problem.flow()
    begun = time.process_time()
    fit(
        flow, None, ReverseKL(problem.target, gradient=kind), max_steps=steps, batch_size=BATCH, lr=problem.rate, optimizer="adam", clip=100.0, seed=seed,
        non_finite="skip", progress=False,
    )  # fmt: skip
    return flow, time.process_time() - begun


def step_seconds(problem: Problem, rounds: int = 3, steps: int = 30) -> dict[str, float]:
    """CPU seconds of a step by gradient: medians over rounds in which the gradients take turns."""
    for kind in KINDS:
        train(problem, kind, 3, 0)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            found[kind].append((train(problem, kind, steps + 2, 0)[1] - train(problem, kind, 2, 0)[1]) / steps)
    return {kind: statistics.median(values) for kind, values in found.items()}


def judge(problem: Problem, flow: Any, steps: int, seconds: float, seed: int) -> Outcome:
    """What the draws of a trained flow say."""
    generator, ess_p = torch.Generator().manual_seed(1000 + seed), float("nan")
    report = importance(flow, problem.target, DRAWS, progress=False, generator=generator)
    if problem.target.can_sample:
        x = problem.target.sample(DRAWS, generator=generator)
        with torch.no_grad():
            log_w = (problem.target.log_density(x) - flow.log_prob(x)).double()
        ess_p = DRAWS**2 * float((-log_w.logsumexp(0) - (-log_w).logsumexp(0)).exp())
    return Outcome(steps, seconds, float(report.ess), float(report.elbo), float(report.log_z), ess_p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of process CPU per training")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs = {problem.name: step_seconds(problem) for problem in PROBLEMS}
    found: dict[tuple[str, str], list[Outcome]] = {}
    for seed in range(options.seeds):
        for problem in PROBLEMS:
            for kind in KINDS:
                steps = max(10, round(options.seconds / costs[problem.name][kind]))
                found.setdefault((problem.name, kind), []).append(outcome := judged(problem, kind, steps, seed))
                print(problem.name, kind, seed, outcome, flush=True)
    text = "\n".join([heading("Effective sample size at equal CPU time: total, two-pass and fast path gradients"), *tables(found, costs, options.seconds), ""])
    if options.seeds >= 3:
        write("energy_ess.md", text)
    else:
        print(text)


def tables(found: dict[tuple[str, str], list[Outcome]], costs: dict[str, dict[str, float]], seconds: float) -> list[str]:
    """Lines of Markdown: what is shown, means by problem and gradient, every training."""
    what = (
        f"Batches of {BATCH}; about {seconds:g} CPU seconds a training on one thread, in steps calibrated once per gradient.\n"
        f"ess: effective share of {DRAWS} draws of the flow; ess_p: of exact samples, which modes missed send to 0. A reverse divergence may settle on few\n"
        "of many-well's 65,536 modes: its ess says nothing of the others, and log Z by weights is then too low. phi^4: log Z = -10.46 +- 0.03 (physics-A10).\n"
    )
    means = ["| problem | gradient | ms a step | over total | steps | ess, mean | ess, seeds |", "|" + "---|" * 7]
    each = ["", "| problem | gradient | seed | CPU s | ess | elbo - log Z | log Z by weights - log Z | ess_p |", "|" + "---|" * 8]
    log_z = {problem.name: problem.log_z for problem in PROBLEMS}
    for (name, kind), outcomes in found.items():
        cost, shares = costs[name], [o.ess for o in outcomes]
        means.append(
            f"| {name} | {kind} | {1e3 * cost[kind]:.1f} | {cost[kind] / cost['total']:.2f} | {outcomes[0].steps} | {statistics.mean(shares):.3f} "
            f"| {', '.join(f'{share:.3f}' for share in shares)} |"
        )
        each += [
            f"| {name} | {kind} | {seed} | {o.seconds:.1f} | {o.ess:.3f} | {o.elbo - log_z[name]:+.3f} | {o.log_z - log_z[name]:+.3f} | {shown(o.ess_p)} |"
            for seed, o in enumerate(outcomes)
        ]
    return [what, *means, *each]


def shown(value: float) -> str:
    """A number, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.2g}"


def judged(problem: Problem, kind: str, steps: int, seed: int) -> Outcome:
    """Train one flow and judge it."""
    flow, seconds = train(problem, kind, steps, seed)
    return judge(problem, flow, steps, seconds, seed)


if __name__ == "__main__":
    main()
