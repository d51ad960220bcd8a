"""One-step sampling in the plane: mean flow, the same with a wrong tangent, and consistency training, normal to moons (continuous-C.10.7).

All train the same average velocity (three layers of 128 SiLUs) on standardised moons of continuous-C.8, batches of 256, averaged weights. W2 is exact
between 2000 samples and 2000 data, in the units of C.8; ``floor`` is that of two draws of data. NLL is that of the ODE with v(t, x) = u(t, t, x).

    python benchmarks/mean_flow_2d.py         # writes benchmarks/results/mean_flow_2d.md
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from _report import heading, write
from torch import Tensor

import flowkit as fk
from flowkit.evaluation import wasserstein
from flowkit.objectives._ends import over_event


class WrongTangent(fk.objectives.MeanFlow):
    """The derivative along (v, 0, 0), time held still: what C.10.7 says must fail."""

    def target(self, field: Any, t: Tensor, r: Tensor, x: Tensor, v: Tensor, context: Any = None, apart: int | None = None) -> Tensor:
        apart = len(x) if apart is None else apart
        t, r, x = t[:apart], r[:apart], x[:apart]
        _, slope = torch.func.jvp(lambda at: field.average_velocity(t, r, at), (x,), (v[:apart],))
        return torch.cat([v[:apart] + over_event(r - t, x) * slope, v[apart:]])


ROWS: dict[str, Any] = {
    "mean_flow": lambda steps: fk.objectives.MeanFlow(),
    "wrong_tangent": lambda steps: WrongTangent(),
    "adaptive_weight": lambda steps: fk.objectives.MeanFlow(power=1.0),
    "consistency": lambda steps: fk.objectives.ConsistencyTraining(growth_steps=steps),
    "flow_matching": lambda steps: fk.objectives.FlowMatching(),
}


class Row(NamedTuple):
    """What one objective reached: W2 by jumps, by jumps with noise mixed in again, by the ODE; NLL in nats."""

    one_step: float
    two_steps: float
    renoised: float
    ode: float
    euler: float  # one Euler step of the velocity
    nll: float
    seconds: float


def moons(n: int, generator: torch.Generator) -> Tensor:
    """The data: (n, 2)."""
    upper = torch.rand(n, 1, generator=generator) < 0.5
    angle = math.pi * torch.rand(n, generator=generator)
    arcs = torch.where(upper, torch.stack([angle.cos(), angle.sin()], 1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1))
    return 3 * (arcs + 0.2 * torch.randn(n, 2, generator=generator)) - 1


def study(seed: int = 0, steps: int = 6000, only: Sequence[str] = tuple(ROWS)) -> dict[str, Any]:
    """Train each objective alike; rows by name, and ``floor``."""
    generator = torch.Generator().manual_seed(seed)
    train, data, other = moons(50_000, generator), moons(2000, generator), moons(2000, generator)
    rows: dict[str, Any] = {"floor": wasserstein(data, other)}
    for name in only:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flow = fk.flows.AverageVelocityFlow(2)
        start = time.monotonic()
        options: dict[str, Any] = {"batch_size": 256, "lr": 1e-3, "optimizer": "adam", "ema": 0.999, "seed": seed, "progress": False, "device": "cpu"}
        fk.fit(flow, train, ROWS[name](steps), max_steps=steps, **options)
        rows[name] = judge(flow, data, other, seed, time.monotonic() - start)
    return rows


def judge(flow: Any, data: Tensor, other: Tensor, seed: int, seconds: float) -> Row:
    """All the ways to sample one flow."""

    def distance(sampler: Any = flow, **options: Any) -> float:
        return wasserstein(data, sampler.sample(len(data), generator=torch.Generator().manual_seed(seed + 100), **options))

    solver = flow.with_solver(solver="rk4", steps=50, per_sample=False)
    with torch.no_grad():
        nll = -float(solver.log_prob(other).mean())
    euler = distance(flow.with_solver(solver="euler", steps=1, per_sample=False))
    return Row(distance(steps=1), distance(steps=2), distance(steps=2, renoise=True), distance(solver), euler, nll, seconds)


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["", f"Two-sample floor of W2: {rows['floor']:.3f}. Wanted of mean_flow: one jump <= floor + 0.35; of wrong_tangent: at least twice as bad.", ""]
    lines.append("| objective | W2, 1 jump | W2, 2 jumps | W2, 2 with renoise | W2, ODE | W2, 1 Euler step | NLL, nats | seconds |")
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        if name != "floor":
            lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row[:-1]) + f" | {row.seconds:.0f} |")
    lines.append("\nFlow matching trains u(t, t, x) only, so its jumps mean nothing. The adaptive weight (power 1) is made for images; here it biases v.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = heading("One-step sampling in the plane: normal to moons") + table(study(**vars(options)))
    print(text, write("mean_flow_2d.md", text))


if __name__ == "__main__":
    main()
