"""Umbrella sampling: molecular dynamics held near each place along a torsion, joined by MBAR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import check_event, positive, positive_number, whole_number
from flowkit.sampling import mbar
from flowkit.targets._geometry import dihedral
from flowkit.targets._molecular_dynamics import Plan, Replica
from flowkit.targets._molecular_target import MolecularTarget
from flowkit.targets._openmm import require

STRONG = 10.0  # times the stiffness, while a structure is pulled to its window


@dataclass(frozen=True)
class Umbrella:
    """Structures of windows w with energies U(x) + k / 2 (angle - centre_w)^2, the difference on the circle.

    Args:
        samples: (W, n, N, 3) in nm, in the order of time within a window.
        angles: (W, n), of the torsion.
        centres: (W,) radians; stiffness: k in kT / radian^2.
    """

    samples: Tensor
    angles: Tensor
    centres: Tensor
    stiffness: float

    def bias(self) -> Tensor:
        """The bias of every window at every sample, in kT: (W, W n)."""
        gap = self.angles.reshape(1, -1) - self.centres[:, None]
        gap = torch.remainder(gap + math.pi, 2 * math.pi) - math.pi
        return 0.5 * self.stiffness * gap.square()

    def log_weights(self) -> Tensor:
        """Log-weights of the samples for the molecule without bias, up to a constant: (W n), by MBAR."""
        return unbiased(self.bias(), torch.full((len(self.centres),), self.angles.shape[1]))


def unbiased(bias: Tensor, counts: Tensor) -> Tensor:
    """Log-weights -log sum_k N_k exp(f_k - bias_k(x_n)) of samples pooled over windows; f by MBAR: (n,).

    Args:
        bias: of every window at every sample, in kT: (W, n); counts: samples of each window, (W,).
    """
    free = mbar(bias, counts).delta_f[0]
    return -torch.logsumexp(free[:, None] - bias + counts.double().log()[:, None], 0)


def umbrella(
    target: MolecularTarget,
    torsion: Sequence[int],
    *,
    windows: int = 24,
    width: float = math.radians(10.0),
    steps: int = 100_000,
    stride: int = 100,
    warm_up: int = 20_000,
    start: Tensor | None = None,
    time_step: float = 1.0,
    friction: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> Umbrella:
    """Langevin dynamics in windows evenly along a torsion. Each window starts where the one before it ended.

    What turns slowly beside the torsion is not helped: the psi of a peptide hardly changes in windows on the barriers of phi, and the weights
    between basins are then those of where it started. Run it from several structures and compare, or use ``simulate`` with temperatures.

    Args:
        target: the molecule; torsion: its four atoms.
        windows: their number; width: standard deviation of the angle that the bias alone would leave, radians; a window's distance is a good one.
        steps: of each window; stride: between frames; warm_up: steps to go to the window's place, and as many again to settle.
        start: (N, 3); default the molecule's own structure.
        time_step: fs; friction: 1 / ps; seed: of velocities and noise.
        progress: show a bar.

    Reference: Torrie and Valleau (1977), J. Computational Physics 23, 187; Shirts and Chodera (2008), J. Chemical Physics 129, 124105.
    """
    who = "umbrella"
    atoms = tuple(whole_number(atom, who, "torsion", 0, target._sizes[0]) for atom in torsion)
    if len(set(atoms)) != 4:
        raise ConfigError(f"{who}: expected a torsion of four different atoms; got {tuple(torsion)}.")
    count, first = positive(windows, who, "windows"), (target._start() if start is None else start).detach().double().cpu()
    check_event(first, target.event_shape, who)
    if first.dim() != 2:
        raise ShapeError(f"{who}: expected one structure (N, 3) to start from; got shape {tuple(first.shape)}.")
    plan = Plan(positive(steps, who, "steps"), warm_up, positive(stride, who, "stride"), time_step, friction, 1, seed)
    stiffness = 1 / positive_number(width, who, "width") ** 2
    here = float(dihedral(first, atoms))
    centres = here + 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    replica = _biased(target, atoms, here, plan, first.numpy(), who)
    kept = []
    with progress_bar("umbrella", count, show=progress) as advance:
        for centre in centres.tolist():
            replica.context.setParameter("centre", centre)
            for strength in (STRONG, 1.0):
                replica.context.setParameter("k", strength * stiffness * target.thermal_energy)
                replica.run(warm_up)
            frames = []
            for _ in range(plan.steps // plan.stride):
                replica.run(plan.stride)
                frames.append(replica.positions())
            kept.append(np.stack(frames))
            advance(1)
    samples = torch.from_numpy(np.stack(kept))
    return Umbrella(samples, dihedral(samples, atoms), torch.remainder(centres + math.pi, 2 * math.pi) - math.pi, stiffness)


def _biased(target: MolecularTarget, atoms: tuple[int, ...], centre: float, plan: Plan, start: np.ndarray, who: str) -> Replica:
    """A trajectory of the molecule with a harmonic bias on a torsion."""
    openmm = require(who)
    system = openmm.XmlSerializer.deserialize(target.molecule.system)
    terms = ("0.5 * k * gap^2", "gap = min(off, turn - off)", "off = abs(theta - near)", "near = centre - turn * floor(centre / turn + 0.5)")
    force = openmm.CustomTorsionForce("; ".join((*terms, f"turn = {2 * math.pi!r}")))
    force.addGlobalParameter("k", 0.0)
    force.addGlobalParameter("centre", centre)
    force.addTorsion(*atoms, [])
    system.addForce(force)
    return Replica(system, target.platform, target.temperature, start, plan, plan.seed, who)
