"""What a generator's samples are worth: numbers and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowkit.heads.boltzmann.basins import ramachandran_divergence
from flowkit.plots import energies, ramachandran
from flowkit.sampling import Weighted
from flowkit.targets._molecular_target import MolecularTarget

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GeneratorReport:
    """Weighted samples of a generator beside a reference.

    Args:
        weighted: the samples with their weights.
        energy: E / kT of each sample (n,); reference_energy: of the reference (m,), or None.
        angles: two dihedrals of each sample (n, 2) in radians, or None; reference_angles: of the reference.
        numbers: name -> value: samples, ess, k_hat, log_z and its error, handed (share of the right handedness), mean energies, and with a
            reference the divergence of its Ramachandran map from the flow's and from the weighted one.
    """

    weighted: Weighted
    energy: Tensor
    reference_energy: Tensor | None
    angles: Tensor | None
    reference_angles: Tensor | None
    numbers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, target: MolecularTarget, weighted: Weighted, reference: Tensor | None, angles: Callable[[Tensor], Tensor] | None) -> GeneratorReport:
        """Evaluate energies and angles, and compare."""
        energy = target.potential_energy(weighted.samples) / target.thermal_energy
        there = None if reference is None else target.potential_energy(reference) / target.thermal_energy
        own = None if angles is None else angles(weighted.samples).double().cpu()
        other = None if angles is None or reference is None else angles(reference).double().cpu()
        return cls(weighted, energy, there, own, other, _numbers(weighted, energy, there, own, other))

    def figures(self) -> dict[str, Figure]:
        """Name -> figure: ``energies``, and ``ramachandran`` where there are angles."""
        weight = self.weighted.weights.cpu().numpy()
        known = {} if self.reference_energy is None else {"reference": self.reference_energy}
        made = {"energies": energies({**known, "flow": self.energy, "weighted": self.energy}, weights={"weighted": weight})}
        if self.angles is not None:
            maps: dict[str, Any] = {} if self.reference_angles is None else {"Reference": self.reference_angles}
            made["ramachandran"] = ramachandran({**maps, "Flow": self.angles, "Weighted": self.angles}, weights={"Weighted": weight})
        return made

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value:.6g}" for name, value in self.numbers.items())


def _numbers(weighted: Weighted, energy: Tensor, there: Tensor | None, own: Tensor | None, other: Tensor | None) -> dict[str, float]:
    weights = weighted.weights.double().cpu()
    known = torch.isfinite(energy) & (weights > 0)
    found = {
        "samples": float(len(energy)),
        "ess": weighted.ess,
        "k_hat": weighted.k_hat,
        "log_z": weighted.log_z,
        "log_z_error": weighted.log_z_error,
        "handed": float((~torch.isneginf(weighted.log_weights)).double().mean()),
        "median_energy": float(energy.nanmedian()),
        "weighted_energy": float((weights[known] * energy[known]).sum() / weights[known].sum()),
    }
    if there is not None:
        found["reference_energy"] = float(there.mean())
    if own is not None and other is not None:
        half = len(other) // 2
        found["ramachandran_divergence"] = ramachandran_divergence(other, own)
        found["weighted_ramachandran_divergence"] = ramachandran_divergence(other, own, weights)
        found["reference_halves_divergence"] = ramachandran_divergence(other[:half], other[half:])
    return found
