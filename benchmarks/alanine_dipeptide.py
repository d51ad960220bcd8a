"""A Boltzmann generator for alanine dipeptide beside umbrella sampling of the same system (spec physics-D, goal B-4).

System: ACE-ALA-NME, AMBER99SB-ILDN with OBC solvent, no constraints, 300 K, 1 fs. Data: replica exchange of five temperatures, 300 to 700 K.
And 200 ps from a start at phi > 0, where replica exchange has one frame in a hundred. Training: maximum likelihood, then forward plus reverse
KL with path gradients, gated on steps and seed. Reported: effective share of 50,000 samples, divergence of
Ramachandran maps (100 x 100 cells) from the reference, free-energy difference of phi > 0 against phi < 0.
Reference for the maps: umbrella windows along phi, 15 degrees apart, each from two values of psi, joined by MBAR. On the barriers psi hardly turns in
such a window, so the error of its free-energy difference is half of what the two starts differ by. Reference for that difference: replica
exchange, the run that made the data and, where it is in the cache, another with its own seed; errors from ten blocks in time. They cross the
barrier some ten times, so those errors are rough. BAR between the flow and dynamics inside each basin needs no crossing.

    python benchmarks/alanine_dipeptide.py --reference  # umbrella windows and the other replica exchange, into the cache: 35 minutes on an idle core
    python benchmarks/alanine_dipeptide.py --train      # dynamics for the data, training and samples, into the cache: 10 minutes
    python benchmarks/alanine_dipeptide.py              # writes benchmarks/results/alanine_dipeptide.md and .png from them, making what is missing
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _report import RESULTS, heading, write
from matplotlib.figure import Figure
from torch import Tensor

from flowkit.bijectors import InternalCoordinates
from flowkit.data import AlanineDipeptide as Structures
from flowkit.data._fetch import cache_folder
from flowkit.heads.boltzmann import BoltzmannGenerator, FreeEnergyDifference, free_energy_difference, ramachandran_divergence, umbrella
from flowkit.heads.boltzmann.umbrella import unbiased
from flowkit.plots import ramachandran
from flowkit.sampling import Weighted, bar
from flowkit.targets import AlanineDipeptide

WINDOWS, WIDTH, STEPS, STARTS = 24, math.radians(10.0), 750_000, (0.0, math.radians(150.0))
PICOSECONDS, RIGHT, ML_STEPS, PATH_STEPS, BATCH, SAMPLES = 1000, 200_000, 150, 450, 512, 50_000
BLOCKS, OTHER = 10, 2000  # of a trajectory; picoseconds of the replica exchange that made no data
APART = 10  # frames between those that count as independent, 1 ps
STAGES: dict[str, dict[str, Any]] = {
    "likelihood": {"steps": ML_STEPS},
    "then both divergences": {"steps": 0, "energy": "both", "energy_steps": PATH_STEPS},
}


class Reference(NamedTuple):
    """phi and psi of the reference (n, 2), their weights (n,) that sum to 1, the free-energy difference, and picoseconds of each window (W,)."""

    angles: Tensor
    weights: Tensor
    basin: FreeEnergyDifference
    picoseconds: Tensor


def make_reference() -> None:
    """Run the windows from both starts and keep the angles."""
    target = AlanineDipeptide()
    found: dict[str, list[np.ndarray]] = {"angles": [], "centres": [], "starts": []}
    for number, psi in enumerate(STARTS):
        made = umbrella(target, target.PHI, windows=WINDOWS, width=WIDTH, steps=STEPS, start=target.structure(-math.pi + 1e-3, psi), seed=number, progress=True)
        for window, centre in zip(made.samples, made.centres.tolist(), strict=True):
            found["angles"].append(target.phi_psi(window).numpy())
            found["centres"].append(np.full(len(window), centre))
            found["starts"].append(np.full(len(window), number))
    _ = Structures(picoseconds=OTHER, seed=1).train
    place().parent.mkdir(parents=True, exist_ok=True)
    np.savez(place(), angles=np.concatenate(found["angles"]), centres=np.concatenate(found["centres"]), starts=np.concatenate(found["starts"]))


def place() -> Path:
    return cache_folder() / "alanine_dipeptide" / "umbrella_phi.npz"


def read_reference() -> Reference:
    """Weights of all frames by MBAR; windows may differ in length. The error is half of the difference between the two starts."""
    stored = np.load(place())
    angles, centres, starts = (torch.from_numpy(stored[name]) for name in ("angles", "centres", "starts"))
    kinds = centres.unique()
    weights = joined(angles[:, 0], centres, kinds)
    apart = [angles[starts == number, 0] for number in range(len(STARTS))]
    values = [free_energy_difference(phi > 0, joined(phi, centres[starts == number], kinds)).value for number, phi in enumerate(apart)]
    basin = free_energy_difference(angles[:, 0] > 0, weights)._replace(error=abs(values[0] - values[1]) / 2)
    counts = torch.stack([(centres == kind).sum() for kind in kinds])
    return Reference(angles, weights, basin, 0.1 * counts)


def joined(phi: Tensor, centres: Tensor, kinds: Tensor) -> Tensor:
    """Weights of frames pooled over windows."""
    gap = torch.remainder(phi - kinds[:, None] + math.pi, 2 * math.pi) - math.pi
    counts = torch.stack([(centres == kind).sum() for kind in kinds])
    return unbiased(0.5 * gap.square() / WIDTH**2, counts).softmax(0)


class Row(NamedTuple):
    """What one stage of training gives."""

    name: str
    cpu: float
    weighted: Weighted
    angles: Tensor
    numbers: tuple[float, float]
    basin: FreeEnergyDifference


def train() -> None:
    """Train in two stages; keep angles and log-weights of fresh samples after each, and the CPU seconds so far."""
    torch.set_num_threads(1)
    structures = Structures(picoseconds=PICOSECONDS)
    data = torch.cat([structures.train.x, structures.validation.x, structures.test.x])
    # a basin that holds one frame in a hundred is not learned from them; weights take back what is too many
    right = structures.target.simulate(RIGHT, start=structures.target.structure(1.0, 0.6), seed=2)
    data = torch.cat([right.float(), data])
    generator, cpu = BoltzmannGenerator(structures.target, seed=0), 0.0
    for stage, options in STAGES.items():
        begun = time.process_time()
        generator.fit(data, batch_size=BATCH, seed=0, progress=False, **options)
        cpu += time.process_time() - begun
        weighted = generator.reweight(SAMPLES, generator=torch.Generator().manual_seed(1), progress=False)
        angles = structures.target.phi_psi(weighted.samples).double().numpy()
        basins = {f"dynamics_{number}": log_weights_of(generator, frames[::APART]).numpy() for number, frames in enumerate((structures.train.x, right))}
        np.savez(stage_file(stage), cpu=np.array(cpu), angles=angles, log_weights=weighted.log_weights.numpy(), **basins)


def log_weights_of(generator: BoltzmannGenerator, frames: Tensor) -> Tensor:
    """log p - log q of frames of dynamics, those at phi <= 0 first, then minus infinity, then those at phi > 0."""
    x = generator.prepare(frames)
    with torch.no_grad():
        log_w = generator.target.log_density(x.double()) - generator.flow.log_prob(x).double()
    side = generator.target.phi_psi(x.double())[:, 0] > 0
    return torch.cat([log_w[~side], log_w.new_full((1,), -torch.inf), log_w[side]])


def basin_by_basin(stage: str) -> FreeEnergyDifference:
    """F(phi > 0) - F(phi < 0) from each basin's own integral, by BAR between the flow's samples there and dynamics that never left it.

    Z_A = Q_A times the ratio that BAR gives, Q_A the flow's mass of the basin. No barrier has to be crossed. Errors add in squares.
    """
    stored = np.load(stage_file(stage))
    right, log_w = torch.from_numpy(stored["angles"])[:, 0] > 0, torch.from_numpy(stored["log_weights"])
    log_z, errors = [], []
    for name, side in (("dynamics_0", ~right), ("dynamics_1", right)):
        frames = torch.from_numpy(stored[name])
        cut = int(torch.isneginf(frames).nonzero()[0, 0])
        local = frames[:cut] if name == "dynamics_0" else frames[cut + 1 :]
        forward = log_w[side & torch.isfinite(log_w)]
        found = bar(-forward, local)
        log_z.append(math.log(len(forward) / len(log_w)) - found.delta_f)
        errors.append(math.hypot(found.error, len(forward) ** -0.5))
    return FreeEnergyDifference(log_z[0] - log_z[1], math.hypot(*errors), 1 / (1 + math.exp(log_z[0] - log_z[1])))


def stage_file(stage: str) -> Path:
    return place().with_name(f"generator_{stage.replace(' ', '_')}.npz")


def judge(stage: str, reference: Reference) -> Row:
    """Compare a stage's samples with the reference."""
    stored = np.load(stage_file(stage))
    angles = torch.from_numpy(stored["angles"])
    weighted = Weighted(angles, torch.from_numpy(stored["log_weights"]))
    drawn = redrawn(reference)
    numbers = ramachandran_divergence(drawn, angles), ramachandran_divergence(drawn, angles, weighted.weights)
    return Row(stage, float(stored["cpu"]), weighted, angles, numbers, free_energy_difference(angles[:, 0] > 0, weighted.weights))


def redrawn(reference: Reference, seed: int = 0) -> Tensor:
    """Frames of equal weight, as many as the generator's samples."""
    rows = torch.multinomial(reference.weights, SAMPLES, replacement=True, generator=torch.Generator().manual_seed(seed))
    return reference.angles[rows]


def volume_error() -> float:
    """Largest difference of the log-det of internal coordinates from the autograd Jacobian, on perturbed structures (D4: 1e-8)."""
    target = AlanineDipeptide()
    noise = 0.02 * torch.randn((3, 22, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, worst = target.structure(-1.4, 2.6) + noise, 0.0
    for f in (InternalCoordinates.from_bonds(target.bonds).double(), InternalCoordinates(target.Z_MATRIX, seed=target.SEED).double()):
        for row in x:
            matrix = torch.autograd.functional.jacobian(lambda at: f.inverse(at)[0], row).reshape(66, 66)  # noqa: B023
            worst = max(worst, abs(float(torch.linalg.slogdet(matrix).logabsdet - f.inverse(row)[1])))
    return worst


def supplied() -> Tensor | None:
    """phi and psi of 60 ns from elsewhere, where FLOWKIT_DATA has them: a picture to compare with."""
    path = Path(os.environ.get("FLOWKIT_DATA", "")) / "alanine_dipeptide" / "phipsi_60ns_implicit.npz"
    return torch.from_numpy(np.concatenate([*np.load(path).values()])).double() if path.is_file() else None


def exchanged(picoseconds: float, seed: int) -> FreeEnergyDifference:
    """The free-energy difference in a replica exchange."""
    made = Structures(picoseconds=picoseconds, seed=seed)
    phi = made.target.phi_psi(torch.cat([made.train.x, made.validation.x, made.test.x]).double())[:, 0]
    return free_energy_difference(phi > 0, blocks=BLOCKS)


def main() -> None:
    if not place().is_file():
        make_reference()
    if not all(stage_file(stage).is_file() for stage in STAGES):
        train()
    reference = read_reference()
    rows = [judge(stage, reference) for stage in STAGES]
    others = {
        "basin by basin: BAR of the flow against dynamics within each": basin_by_basin([*STAGES][-1]),
        f"umbrella along phi, {len(STARTS)} starts": reference.basin,
        f"replica exchange, {PICOSECONDS} ps (the data)": exchanged(PICOSECONDS, 0),
    }
    if Structures(picoseconds=OTHER, seed=1).at_hand:
        others[f"replica exchange, {OTHER} ps (another seed)"] = exchanged(OTHER, 1)
    write("alanine_dipeptide.md", table(rows, reference, others))
    picture(rows[-1], reference).savefig(RESULTS / "alanine_dipeptide.png", dpi=110)


def table(rows: list[Row], reference: Reference, others: dict[str, FreeEnergyDifference]) -> str:
    span = reference.picoseconds
    floor = ramachandran_divergence(redrawn(reference, 1), redrawn(reference, 2))
    lines = [
        heading("A Boltzmann generator for alanine dipeptide", ("torch", "openmm")),
        f"Data: {PICOSECONDS} ps of each of five replicas, and {RIGHT // 1000} ps from a start at phi > 0, a frame each 0.1 ps at 300 K. Training:",
        f"{ML_STEPS} steps of maximum likelihood on {BATCH} rows, then {PATH_STEPS} steps of forward plus reverse KL with path gradients on 256 rows and 256",
        f"samples. CPU: of training so far, one thread. {SAMPLES:,} weighted samples.\n",
        f"Reference: umbrella sampling along phi, {len(span)} windows of {span.min():.0f} to {span.max():.0f} ps, {span.sum() / 1000:.1f} ns in all, MBAR.",
        "Divergence: KL(reference || model) of Ramachandran maps,",
        f"100 x 100 cells; two draws of {SAMPLES:,} frames of the reference have {floor:.3f}.\n",
        "| | CPU, s | ESS | k | log Z | divergence, flow | divergence, weighted | F(phi > 0) - F(phi < 0), kT | P(phi > 0) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        w, b = row.weighted, row.basin
        lines.append(
            f"| {row.name} | {row.cpu:.0f} | {w.ess:.3f} | {w.k_hat:.2f} | {w.log_z:.3f} ± {w.log_z_error:.3f} | {row.numbers[0]:.3f} | {row.numbers[1]:.3f} | "
            f"{b.value:.2f} ± {b.error:.2f} | {b.share:.4f} |"
        )
    lines += [f"| {name} | | | | | | | {found.value:.2f} ± {found.error:.2f} | {found.share:.4f} |" for name, found in others.items()]
    lines.append(f"\nLog-det of internal coordinates against the autograd Jacobian, two z-matrices, float64: {volume_error():.1e} at most (limit 1e-8).")
    other = supplied()
    if other is not None:
        lines.append(
            f"A picture, not a gate: 60 ns from another force field or code have F = {free_energy_difference(other[:, 0] > 0).value:.2f} kT, and a divergence "
            f"of {ramachandran_divergence(other, rows[-1].angles, rows[-1].weighted.weights):.3f} from the weighted samples."
        )
    return "\n".join(lines) + "\n"


def picture(row: Row, reference: Reference) -> Figure:
    maps = {"Reference (umbrella, MBAR)": reference.angles, "Flow": row.angles, "Flow, weighted": row.angles}
    weights = {"Reference (umbrella, MBAR)": reference.weights, "Flow, weighted": row.weighted.weights}
    other = supplied()
    if other is not None:
        maps["60 ns from elsewhere"] = other
    return ramachandran(maps, weights=weights)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", action="store_true", help="run the umbrella windows")
    parser.add_argument("--train", action="store_true", help="train and sample")
    asked = parser.parse_args()
    if asked.reference:
        make_reference()
    elif asked.train:
        train()
    else:
        main()
