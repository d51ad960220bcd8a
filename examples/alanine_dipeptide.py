"""A Boltzmann generator for alanine dipeptide, from nothing: dynamics, training on data and on the energy, weights, free energy, files.

python examples/alanine_dipeptide.py              # 6 minutes on one core; needs pip install "flowkit[molecules]"
python examples/alanine_dipeptide.py --quick      # a minute, to see it run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import flowkit as fk
from flowkit.heads.boltzmann import BoltzmannGenerator


def main(folder: Path, *, quick: bool) -> None:
    """Train a generator and write its report, figures and structures to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    structures = fk.data.AlanineDipeptide(picoseconds=20 if quick else 500)  # made by replica exchange the first time, then from the cache
    molecule = structures.target
    data = torch.cat([structures.train.x, structures.validation.x, structures.test.x])
    # phi > 0 holds one frame or two in a hundred, too few to learn from; what a start there adds too many of, weights take back
    extra = molecule.simulate(20_000 if quick else 200_000, start=molecule.structure(1.0, 0.6), seed=2).float()

    generator = BoltzmannGenerator(molecule, seed=0)
    generator.fit(torch.cat([extra, data]), steps=50 if quick else 150, energy="both", energy_steps=5 if quick else 400)
    report = generator.report(1000 if quick else 20_000, reference=data, generator=torch.Generator().manual_seed(0))
    print(report)

    def right(x: torch.Tensor) -> torch.Tensor:
        return molecule.phi_psi(x)[:, 0] > 0

    weighted = generator.free_energy_difference(right, report.weighted)
    share = float(right(data).double().mean())
    print(f"F(phi > 0) - F(phi < 0): {weighted.value:.2f} ± {weighted.error:.2f} kT; P(phi > 0): {weighted.share:.4f} by weights, {share:.4f} in the data")

    for name, figure in report.figures().items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    generator.write(folder / "samples.pdb", 50, weighted=report.weighted)
    generator.save(folder / "generator")
    print(f"figures, 50 structures and the generator are in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/alanine_dipeptide"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    main(options.folder, quick=options.quick)
