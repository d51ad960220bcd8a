"""Annealing and free energies against exact values (physics-D5, D6, D9, D12).

D5: mean weight of annealed importance sampling from N(0, 1) to 3 exp(-(x - 2)^2 / 0.5), ten densities in between, 20,000 chains, eight seeds:
mean of (mean weight - Z) over seeds in its own standard errors. D6: log Z of ManyWell(8) from N(0, 2^2), 4096 particles, temperatures and step
sizes from a pilot of 512: root mean square error beside the mean of the errors reported. D9: harmonic oscillators of springs 1 and 4, centres 0
and 1: share of intervals of 1.96 errors that hold the exact difference. D12: mean squared length of pairs of noise and LJ13 in batches of 64.

    python benchmarks/annealing.py             # writes benchmarks/results/annealing.md, 2 minutes; D12 with FLOWKIT_DATA
    python benchmarks/annealing.py --seeds 2   # only looks
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _report import heading, write
from torch import Tensor

from flowkit.distributions import DiagonalNormal, MeanFreeNormal
from flowkit.numerics.annealing import annealed
from flowkit.numerics.transitions import transition
from flowkit.objectives._pairings import Pairing
from flowkit.sampling import Annealed, bar, mbar, smc
from flowkit.sampling import annealed as ais
from flowkit.targets import ManyWell

STEPS = {"hmc": 0.3, "mala": 0.1, "ula": 0.1, "random_walk": 0.7}
EXACT = 3 * math.sqrt(2 * math.pi * 0.25)
COUNTS = ((1000, 1000), (500, 4000), (4000, 200))
CENTRES, SPRINGS = (0.0, 1.0), (1.0, 4.0)


def mean_weight(kernel: str, seeds: int) -> str:
    """One row of D5."""
    means = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
        run = annealed(
            lambda x: -0.5 * x.square().sum(-1) - 0.5 * math.log(2 * math.pi),
            lambda x: math.log(3) - 2 * (x - 2).square().sum(-1),
            x,
            betas=10,
            kernel=transition({"name": kernel, "step_size": STEPS[kernel]}, "benchmark"),
            generator=generator,
        )
        means.append(float(run.log_weights.exp().mean()))
    values = torch.tensor(means, dtype=torch.float64)
    error = float(values.std()) / math.sqrt(len(values))
    return f"| {kernel} | {float(values.mean()):.4f} | {EXACT:.4f} | {error:.4f} | {(float(values.mean()) - EXACT) / error:+.1f} |"


def many_well(method: str, kernel: str, seeds: int) -> str:
    """One row of D6."""
    wide, target = DiagonalNormal((8,), scale=2.0), ManyWell(8)
    gaps, errors, begun = [], [], time.process_time()
    assert target.log_normalizer is not None
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        run: Annealed
        if method == "SMC":
            run = smc(wide, target, 4096, kernel=kernel, generator=generator, progress=False)
        else:
            run = ais(wide, target, 4096, betas=None, kernel=kernel, steps=2, generator=generator, progress=False)
        gaps.append(run.log_z - target.log_normalizer)
        errors.append(run.log_z_error)
    gap = torch.tensor(gaps, dtype=torch.float64)
    seconds = (time.process_time() - begun) / seeds
    cells = [float(gap.square().mean().sqrt()), float(gap.abs().max()), sum(errors) / seeds]
    return f"| {method}, {kernel} | {len(run.betas) - 2} | " + " | ".join(f"{cell:.3f}" for cell in cells) + f" | {run.ess:.2f} | {seconds:.1f} |"


def coverage(counts: tuple[int, int], repetitions: int) -> str:
    """One row of D9."""
    generator, exact = torch.Generator().manual_seed(counts[0]), 0.5 * math.log(SPRINGS[1] / SPRINGS[0])

    def energy(state: int, x: Tensor) -> Tensor:
        return 0.5 * SPRINGS[state] * (x - CENTRES[state]).square()

    gaps: dict[str, list[float]] = {"BAR": [], "MBAR": []}
    hits = {"BAR": 0, "MBAR": 0}
    for _ in range(repetitions):
        x, y = (c + torch.randn(n, generator=generator, dtype=torch.float64) / math.sqrt(k) for n, c, k in zip(counts, CENTRES, SPRINGS, strict=True))
        one, both = bar(energy(1, x) - energy(0, x), energy(0, y) - energy(1, y)), torch.cat([x, y])
        many = mbar(torch.stack([energy(0, both), energy(1, both)]), list(counts))
        for name, value, error in (("BAR", one.delta_f, one.error), ("MBAR", float(many.delta_f[0, 1]), float(many.error[0, 1]))):
            gaps[name].append(value - exact)
            hits[name] += abs(value - exact) < 1.96 * error
    cells = [f"{sum(gaps[name]) / repetitions:+.4f} | {100 * hits[name] / repetitions:.1f} %" for name in gaps]
    return f"| {counts[0]}, {counts[1]} | " + " | ".join(cells) + " |"


def pairs(batches: int) -> str:
    """The row of D12, or why there is none."""
    path = Path(os.environ.get("FLOWKIT_DATA", ".")) / "particles" / "val_split_LJ13-1000.npy"
    if not path.is_file():
        return "No particles/val_split_LJ13-1000.npy under $FLOWKIT_DATA.\n"
    generator, base = torch.Generator().manual_seed(0), MeanFreeNormal(13, 3)
    clusters = torch.from_numpy(np.load(path)[: 64 * batches]).reshape(-1, 13, 3).float()
    costs: dict[str, list[float]] = {"independent": [], "ot": [], "equivariant_ot": []}
    for x1 in clusters.split(64):
        x0 = base.sample((64,), generator=generator)
        for name, found in costs.items():
            pairing = Pairing.of(name, "benchmark")
            rows = pairing.rows(x0, x1, None, generator)
            near = pairing.aligned(x0 if rows.noise is None else x0[rows.noise], x1)
            found.append(float((near - x1).square().sum((1, 2)).mean()))
    ordered = sum(a >= b >= c for a, b, c in zip(*costs.values(), strict=True))
    means = " | ".join(f"{sum(found) / batches:.2f}" for found in costs.values())
    return f"| independent | OT | equivariant OT | batches in order |\n|---|---|---|---|\n| {means} | {ordered} of {batches} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=0, help="only look, with this many seeds and batches")
    options = parser.parse_args()
    seeds, repetitions, batches = options.seeds or 8, 50 * options.seeds or 400, options.seeds or 20
    text = heading("Annealing and free energies against exact values") + "\n## D5: mean weight\n\n"
    text += "| kernel | mean of exp(lw) | Z | error | off, in errors |\n|---|---|---|---|---|\n"
    text += "".join(mean_weight(kernel, seeds) + "\n" for kernel in STEPS)
    text += f"\n## D6: log Z of ManyWell(8), {seeds} seeds (gate: 0.1)\n\n"
    text += "| method | temperatures | rms error | largest | mean reported error | ESS, last seed | CPU seconds a run |\n|---|---|---|---|---|---|---|\n"
    text += "".join(many_well(method, kernel, seeds) + "\n" for method in ("SMC", "AIS") for kernel in STEPS)
    text += f"\n## D9: free-energy differences, {repetitions} repetitions (gates: 0.01, 90 to 99 %)\n\n"
    text += "| n_F, n_R | BAR: mean error | BAR: covered | MBAR: mean error | MBAR: covered |\n|---|---|---|---|---|\n"
    text += "".join(coverage(counts, repetitions) + "\n" for counts in COUNTS)
    text += "\n## D12: mean squared length of pairs\n\n" + pairs(batches)
    sys.stdout.write(text)
    if not options.seeds:
        write("annealing.md", text)


if __name__ == "__main__":
    main()
