"""Continuous flows in the plane: likelihood, Hutchinson's estimate, kinetic cost, OT-Flow and a learned time span.

Eight Gaussians in FFJORD's scaling (radius 4 / sqrt 2, standard deviation 0.5 / sqrt 2, entropy 2.838 nats), and two moons.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from _report import heading, write
from torch import Tensor

from flowkit.continuous import OTPotentialField
from flowkit.core.objective import Batch
from flowkit.data import TwoMoons
from flowkit.flows import ContinuousFlow
from flowkit.objectives import ContinuousLikelihood, TemporalOptimization

ENTROPY = 2.838


@dataclass
class Trained:
    """A trained flow and what it cost."""

    flow: ContinuousFlow
    objective: ContinuousLikelihood
    seconds: float
    evaluations: float


def eight_gaussians(n: int, generator: torch.Generator) -> Tensor:
    """FFJORD's eight Gaussians (n, 2)."""
    angle = math.pi / 4 * torch.randint(8, (n,), generator=generator)
    centre = 4 / math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.5 / math.sqrt(2) * torch.randn(n, 2, generator=generator)


def train(
    flow: ContinuousFlow,
    objective: ContinuousLikelihood,
    draw: Callable[[int, torch.Generator], Tensor],
    steps: int,
    *,
    batch: int = 256,
    lr: float = 3e-3,
    drop: int | None = None,
    seed: int = 0,
) -> Trained:
    """Adam on fresh draws; ``drop`` divides the rate by ten every so many steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in flow.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, drop or steps + 1, 0.1)
    start, evaluations = time.process_time(), 0.0
    flow.train()
    objective.train()
    for step in range(steps):
        loss = objective.loss(flow, Batch(draw(batch, generator)), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.value.backward()
        optimizer.step()
        schedule.step()
        objective.on_step_end(flow, step)
        evaluations += float(loss.terms["evaluations"])
    flow.eval()
    return Trained(flow, objective, time.process_time() - start, evaluations)


def test_nll(flow: ContinuousFlow, draw: Callable[[int, torch.Generator], Tensor], n: int = 10_000) -> float:
    """Mean negative log-likelihood of fresh draws, in nats."""
    x = draw(n, torch.Generator().manual_seed(99))
    with torch.no_grad():
        return float(-flow.with_solver(rtol=1e-6, atol=1e-6).log_prob(x).mean())


def continuous(seed: int = 0, **options: object) -> ContinuousFlow:
    """Two tanh layers of 64."""
    torch.manual_seed(seed)
    return ContinuousFlow(2, hidden=(64, 64), standardize=False, **options)  # type: ignore[arg-type]


def likelihood(steps: int = 1200, divergence: str = "auto") -> tuple[float, float]:
    """D.8.5: (NLL, seconds)."""
    trained = train(continuous(divergence=divergence), ContinuousLikelihood(), eight_gaussians, steps)
    return test_nll(trained.flow.with_solver(divergence="auto"), eight_gaussians), trained.seconds


def moons(n: int, generator: torch.Generator) -> Tensor:
    """Two moons, standardised."""
    seed = int(torch.randint(2**31, (), generator=generator))
    x = TwoMoons(train_size=n, validation_size=1, test_size=1, seed=seed).train.x
    return (x - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])


def kinetic(weight: float, steps: int = 800) -> tuple[float, float]:
    """D.8.6: (path energy int |v|^2 dt, NLL) on moons."""
    trained = train(continuous(), ContinuousLikelihood(kinetic=weight), moons, steps)
    x = moons(4000, torch.Generator().manual_seed(7))
    with torch.no_grad():
        energy = ContinuousLikelihood(kinetic=1.0).loss(trained.flow, Batch(x)).terms["kinetic"]
    return 4 * float(energy), test_nll(trained.flow, moons, 4000)


def ot_flow(steps: int = 1500) -> tuple[float, float]:
    """D.8.8: (NLL, largest inverse error at 12 steps)."""
    torch.manual_seed(0)
    flow = ContinuousFlow(field=OTPotentialField(2, 32), solver="rk4", steps=8, per_sample=False, standardize=False)
    # OT-Flow weighs energy |v|^2 / 2, without 1 / d, by 1
    objective = ContinuousLikelihood(kinetic=2.0, hjb=1.0, nll_weight=30.0)
    trained = train(flow, objective, eight_gaussians, steps, batch=1000, lr=0.1, drop=500)
    fine = trained.flow.with_solver(steps=12)
    x = eight_gaussians(5000, torch.Generator().manual_seed(3))
    with torch.no_grad():
        error = float((fine.to_data(fine.to_latent(x)) - x).norm(dim=1).max())
        nll = float(-fine.log_prob(x).mean())
    return nll, error


def learned_span(alpha: float, steps: int = 900, *, mode: Literal["coordinate", "off"] = "coordinate") -> tuple[float, float, float]:
    """B.7.6: (T, NLL at the average T, evaluations in all); with mode "off" T stays 1."""
    objective = TemporalOptimization(alpha=alpha, warmup=100, mode=mode)
    trained = train(continuous(rtol=1e-4, atol=1e-4), objective, eight_gaussians, steps)
    objective.use_average(trained.flow)
    span: Tensor = trained.flow.bijector.time_span  # type: ignore[assignment, union-attr]
    return float(span), test_nll(trained.flow, eight_gaussians), trained.evaluations


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    nll, seconds = likelihood()
    rows.append(("D.8.5 exact trace, 1200 steps", f"NLL {nll:.3f} (entropy {ENTROPY})", "<= 2.90", f"{seconds:.0f} s"))
    nll, seconds = likelihood(divergence="hutchinson")
    rows.append(("D.8.5 Hutchinson, 1200 steps", f"NLL {nll:.3f}", "<= 2.95", f"{seconds:.0f} s"))
    plain, straight = kinetic(0.0), kinetic(0.1)
    change = f"energy {plain[0]:.3f} -> {straight[0]:.3f} ({100 * (1 - straight[0] / plain[0]):.0f} % less), NLL {plain[1]:.3f} -> {straight[1]:.3f}"
    rows.append(("D.8.6 kinetic cost 0.1, moons", change, ">= 20 % less at <= 0.05 nats", ""))
    nll, error = ot_flow()
    rows.append(("D.8.8 OT-Flow, m = 32, 8 steps", f"NLL {nll:.3f}, inverse error {error:.1e} at 12 steps", "<= 2.95, <= 1e-3", ""))
    span, nll, evaluations = learned_span(0.0, mode="off")
    rows.append(("B.7.6 fixed span", f"T {span:.3f}, NLL {nll:.3f}, {evaluations / 1000:.1f}k evaluations", "", ""))
    for alpha in (0.0, 0.1, 0.5):
        span, nll, evaluations = learned_span(alpha)
        wanted = {0.0: "|T - 1| < 0.05", 0.5: "T < 0.6, NLL within 0.03 of the fixed span's"}.get(alpha, "")
        rows.append((f"B.7.6 learned span, alpha = {alpha}", f"T {span:.3f}, NLL {nll:.3f}, {evaluations / 1000:.1f}k evaluations", wanted, ""))
    table = "| what | measured | wanted | processor time |\n|---|---|---|---|\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(write("continuous_2d.md", f"{heading('Continuous flows in the plane')}\n{table}"))


if __name__ == "__main__":
    main()
