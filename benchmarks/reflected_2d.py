"""Reflected flow matching beside plain flow matching on data with hard limits (spec continuous-A.8.7).

Data: five heaps of truncated normals (deviation 0.15) near the corners of [-1, 1]^d, d = 2 and 10. Both models: MLP 3 x 64, SiLU, 4,000 Adam
steps, learning rate 2e-3 with a cosine, batches of 256. The reflected flow starts from the uniform law on the box, the plain one from a
standard normal. Reported: the share of 100,000 draws outside, and W2 of 2,000 draws to 2,000 fresh data beside that of two sets of data.

    python benchmarks/reflected_2d.py             # writes benchmarks/results/reflected_2d.md, 10 minutes
    python benchmarks/reflected_2d.py --seeds 1   # only looks
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import torch
from _report import heading, write
from torch import Tensor

from flowkit.core.domain import Box
from flowkit.data import Corners
from flowkit.evaluation import wasserstein
from flowkit.flows import ContinuousFlow, ReflectedFlow
from flowkit.objectives import FlowMatching, ReflectedFlowMatching
from flowkit.training.fit import fit

STEPS, BATCH, RATE = 4000, 256, 2e-3
HIDDEN = (64, 64, 64)
POINTS, DRAWS = 2000, 100_000


class Outcome(NamedTuple):
    """One training.

    Args:
        outside: share of draws outside the box; w2: of draws to fresh data; floor: W2 of two sets of data.
        near, near_data: share of draws and of data within 1e-5 diameters of a wall.
        hits: mirrors met per step of the sampler. seconds: of training, on this machine.
    """

    outside: float
    w2: float
    floor: float
    near: float
    near_data: float
    hits: float
    seconds: float


def model(kind: str, dim: int) -> tuple[Any, Any]:
    """An untrained flow and its objective."""
    if kind == "reflected":
        return ReflectedFlow(Box(-1.0, 1.0, dim), HIDDEN, rtol=1e-3, atol=1e-3), ReflectedFlowMatching()
    return ContinuousFlow(dim, hidden=HIDDEN, activation="silu", rtol=1e-3, atol=1e-3, standardize=False), FlowMatching()


def train_and_judge(kind: str, dim: int, seed: int, draws: int = DRAWS) -> Outcome:
    """Train one model on fresh data and judge its draws."""
    data, box = Corners(dim=dim, train_size=50_000), Box(-1.0, 1.0, dim)
    torch.manual_seed(seed)
    flow, objective = model(kind, dim)
    begun = time.perf_counter()
    fit(flow, data.train.x, objective, max_steps=STEPS, batch_size=BATCH, lr=RATE, optimizer="adam", seed=seed, progress=False)
    seconds = time.perf_counter() - begun
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.cat([flow.sample(20_000, generator=generator) for _ in range(draws // 20_000)])
    first, second = fresh(data, generator), fresh(data, generator)
    hits = flow.sample_with_info(POINTS, generator=generator)[1].hits_per_step if kind == "reflected" else 0.0
    return Outcome(
        float((~box.contains(x)).double().mean()), wasserstein(x[:POINTS], first), wasserstein(first, second),
        near_wall(x, dim), near_wall(data.sample(draws, generator).x, dim), hits, seconds,
    )  # fmt: skip


def fresh(data: Corners, generator: torch.Generator) -> Tensor:
    """Data whose heaps have random shares, as a model's draws have."""
    return data.sample(20 * POINTS, generator).x[torch.randperm(20 * POINTS, generator=generator)[:POINTS]]


def near_wall(x: Tensor, dim: int) -> float:
    """Share of points inside within 1e-5 diameters of a wall."""
    distance = 1 - x.double().abs().amax(1)
    return float(((distance >= 0) & (distance < 1e-5 * 2 * dim**0.5)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    lines = ["| d | model | seed | outside | W2 | floor | W2 - floor | near a wall | data near a wall | hits per step | training, s |", "|" + "---|" * 11]
    means = []
    for dim in (2, 10):
        for kind in ("reflected", "plain"):
            found = [train_and_judge(kind, dim, seed) for seed in range(seeds if kind == "reflected" else 1)]
            for seed, o in enumerate(found):
                lines.append(
                    f"| {dim} | {kind} | {seed} | {o.outside:.4%} | {o.w2:.3f} | {o.floor:.3f} | {o.w2 - o.floor:+.3f} | {o.near:.2e} | {o.near_data:.2e} "
                    f"| {o.hits:.4f} | {o.seconds:.0f} |"
                )
                print(lines[-1], flush=True)
            if kind == "reflected":
                excess = sum(o.w2 - o.floor for o in found) / len(found)
                means.append(f"d = {dim}: W2 above the floor, mean of {len(found)} seeds: {excess:+.3f} (goal: at most 0.08).")
    text = "\n".join([heading("Reflected flow matching beside plain flow matching", ("torch",)), *lines, "", *means, ""])
    if seeds >= 3:
        write("reflected_2d.md", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
