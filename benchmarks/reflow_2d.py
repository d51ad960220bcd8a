"""Rectified flow from eight Gaussians to moons: straightness and few-step W2 before and after reflow, and distilled to one step (continuous-C.10.6).

Setting of continuous-C.8: centres on the circle of radius 5 with standard deviation 0.562, moons of noise 0.2 scaled by 3 less 1, an MLP of three
layers of 64 SELUs, Adam at 2e-3 with a cosine, batches of 256. W2 is exact between 2000 samples and 2000 data; ``floor`` is that of two draws of data.

    python benchmarks/reflow_2d.py            # writes benchmarks/results/reflow_2d.md
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from typing import Any, NamedTuple

import torch
from _report import heading, write
from torch import Tensor

import flowkit as fk
from flowkit.evaluation import wasserstein

ROWS = ("rectified", "reflowed", "distilled")


class Row(NamedTuple):
    """What one model reached."""

    straightness: float
    one_step: float  # W2 after Euler steps
    five_steps: float
    ode: float  # W2 by RK4 with 50 steps
    seconds: float


def eight_gaussians() -> fk.distributions.GaussianMixture:
    """The noise, fixed."""
    base = fk.distributions.GaussianMixture(2, 8, covariance="spherical")
    angle = torch.arange(8) * math.pi / 4
    with torch.no_grad():
        base.means.copy_(5 * torch.stack([angle.cos(), angle.sin()], 1))
        base.log_scale.fill_(math.log(0.562))
    return base.requires_grad_(False)


def moons(n: int, generator: torch.Generator) -> Tensor:
    """The data: (n, 2)."""
    upper = torch.rand(n, 1, generator=generator) < 0.5
    angle = math.pi * torch.rand(n, generator=generator)
    arcs = torch.where(upper, torch.stack([angle.cos(), angle.sin()], 1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1))
    return 3 * (arcs + 0.2 * torch.randn(n, 2, generator=generator)) - 1


def judge(flow: Any, data: Tensor, seed: int, seconds: float) -> Row:
    """Straightness of the flow's own trajectories, and W2 of its samples by three solvers."""

    def distance(**solver: Any) -> float:
        x = flow.with_solver(per_sample=False, **solver).sample(len(data), generator=torch.Generator().manual_seed(seed + 100))
        return wasserstein(data, x)

    straightness = fk.objectives.Reflow.straightness(flow, 2000, generator=torch.Generator().manual_seed(seed + 200))
    one, five = distance(solver="euler", steps=1), distance(solver="euler", steps=5)
    return Row(straightness, one, five, distance(solver="rk4", steps=50), seconds)


def study(seed: int = 0, steps: int = 4000, reflow_steps: int = 3000, distill_steps: int = 1500) -> dict[str, Any]:
    """Train in turn; rows by name, and ``floor``."""
    generator = torch.Generator().manual_seed(seed)
    train, data, other = moons(50_000, generator), moons(2000, generator), moons(2000, generator)
    rows: dict[str, Any] = {"floor": wasserstein(data, other)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = eight_gaussians()
        flow = fk.flows.ContinuousFlow(2, hidden=(64, 64, 64), activation="selu", base=base, standardize=False)
    options: dict[str, Any] = {"batch_size": 256, "lr": 2e-3, "optimizer": "adam", "seed": seed, "progress": False, "device": "cpu"}
    for name, objective, length in (("rectified", None, steps), ("reflowed", {}, reflow_steps), ("distilled", {"distill": 1}, distill_steps)):
        start = time.monotonic()
        if objective is None:
            fk.fit(flow, train, fk.objectives.FlowMatching(), max_steps=length, **options)
        else:
            teacher = flow.with_solver(solver="rk4", steps=12, per_sample=False)
            flow = copy.deepcopy(flow)
            fk.fit(flow, None, fk.objectives.Reflow(teacher, **objective), max_steps=length, **options)
        rows[name] = judge(flow, data, seed, time.monotonic() - start)
    return rows


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["", f"Two-sample floor of W2: {rows['floor']:.3f}.", ""]
    lines += ["| model | straightness S | W2, 1 Euler step | W2, 5 Euler steps | W2, RK4-50 | seconds |", "|---|---|---|---|---|---|"]
    for name in ROWS:
        row = rows[name]
        lines.append(f"| {name} | {row.straightness:.3f} | {row.one_step:.3f} | {row.five_steps:.3f} | {row.ode:.3f} | {row.seconds:.0f} |")
    first, second = rows["rectified"], rows["reflowed"]
    lines.append(f"\nReflow: straightness falls {first.straightness / second.straightness:.1f}-fold (wanted 5), one-step W2 by ")
    return "\n".join(lines) + f"{100 * (1 - second.one_step / first.one_step):.0f} % (wanted 30).\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--reflow-steps", type=int, default=3000)
    parser.add_argument("--distill-steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = heading("Reflow in the plane: eight Gaussians to moons") + table(study(**vars(options)))
    print(text, write("reflow_2d.md", text))


if __name__ == "__main__":
    main()
