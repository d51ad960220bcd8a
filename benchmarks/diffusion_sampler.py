"""Diffusion samplers on the mixture of nine: sub-trajectory balance at two rates (physics-C5, C6), other objectives beside it.

Target: nine normals of equal weight on {-5, 0, 5}^2, variance 0.3, log Z = 0. Sampler: N = 50 steps, T = 5, sigma = 1, width 64. Training: 900
steps of Adam at a constant rate, batch 128, log F and log Z at ten times the rate, weight decay 1e-7. Judged by 20,000 importance weights at the end
of training, never the best on the way; beside it the mean of the last five looks at 2,000, one every 100 steps.

    python benchmarks/diffusion_sampler.py             # writes benchmarks/results/diffusion_sampler.md, 10 minutes of one free core
    python benchmarks/diffusion_sampler.py --seeds 1   # only looks
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import torch
from _report import heading, write

import flowkit as fk
from flowkit.flows import DiffusionSampler
from flowkit.targets import GaussianMixture

STEPS, BATCH, SAMPLES, LOOK = 900, 128, 20_000, 2_000
OPTIONS: dict[str, dict[str, Any]] = {"PathIntegral": {"score": "stopped"}}  # as published
OTHERS = ("DetailedBalance", "TrajectoryBalance", "LogVariance", "PathIntegral")
RUNS = (("SubtrajectoryBalance", 1e-3), ("SubtrajectoryBalance", 1e-4), *((name, 1e-3) for name in OTHERS))
GATES = {1e-3: "C5: abs(log Z) <= 0.1, ESS >= 0.35, every mode >= 3 %", 1e-4: "C6: abs(log Z) <= 0.15, ESS >= 0.15"}


class Outcome(NamedTuple):
    """One training.

    Args:
        log_z, error: by importance sampling, the truth being 0, and its standard error; late: mean over the last five looks.
        elbo: mean log weight; ess: share; smallest_mode: least share of samples at one of the nine (a ninth is 11.1 %).
        seconds: CPU seconds of training.
    """

    log_z: float
    error: float
    late: float
    elbo: float
    ess: float
    smallest_mode: float
    seconds: float


def train_and_judge(objective: str, rate: float, seed: int) -> Outcome:
    """Train one sampler and weigh what it draws."""
    target = GaussianMixture.grid9()
    torch.manual_seed(seed)
    flow, looks = DiffusionSampler(target, steps=50, sigma=1.0, duration=5.0), []

    def look(progress: Any) -> None:
        looks.append(fk.sampling.importance(flow, target, LOOK, generator=torch.Generator().manual_seed(progress.step), progress=False).log_z)

    begun = time.process_time()
    made = getattr(fk.objectives, objective)(target, **OPTIONS.get(objective, {}))
    fk.fit(
        flow, None, made, max_steps=STEPS, batch_size=BATCH, lr=rate, optimizer="adam", schedule="constant", clip=None, weight_decay=1e-7,
        seed=seed, progress=False, callbacks=(look,),
    )  # fmt: skip
    seconds = time.process_time() - begun
    report = fk.sampling.importance(flow, target, SAMPLES, generator=torch.Generator().manual_seed(1000 + seed), progress=False)
    smallest = int(target.mode_counts(report.samples).min()) / SAMPLES
    return Outcome(report.log_z, report.log_z_error, sum(looks[-5:]) / len(looks[-5:]), report.elbo, report.ess, smallest, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="of sub-trajectory balance; the others have one")
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    names = ("objective", "learning rate", "seed", "log Z (truth 0)", "its error", "mean of last 5", "ELBO", "ESS", "smallest mode", "CPU s")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for objective, rate in RUNS:
        for seed in range(seeds if objective == "SubtrajectoryBalance" else 1):
            o = train_and_judge(objective, rate, seed)
            figures = f"{o.log_z:+.4f} | {o.error:.4f} | {o.late:+.4f} | {o.elbo:+.3f} | {o.ess:.3f} | {o.smallest_mode:.2%} | {o.seconds:.0f}"
            lines.append(f"| {objective} | {rate:g} | {seed} | {figures} |")
            print(lines[-1], flush=True)
    gates = [f"{gate} (SubtrajectoryBalance at {rate:g})." for rate, gate in GATES.items()]
    text = "\n".join([heading("Diffusion samplers on the mixture of nine", ("torch",)), *lines, "", *gates, ""])
    if seeds >= 2:
        write("diffusion_sampler.md", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
