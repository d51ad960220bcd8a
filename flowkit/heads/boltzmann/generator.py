"""One call from a molecule to a flow that samples it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors import InternalCoordinates
from flowkit.core.build import build
from flowkit.core.errors import CheckpointError, ConfigError, DataError
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event, positive, positive_sizes, whole_number
from flowkit.flows import MolecularFlow
from flowkit.heads.boltzmann._training import DATA, Energy, Handed, data_stage, energy_stage
from flowkit.heads.boltzmann.basins import FreeEnergyDifference, free_energy_difference
from flowkit.heads.boltzmann.report import GeneratorReport
from flowkit.heads.boltzmann.structure_files import write_pdb, write_xyz
from flowkit.sampling import Weighted, importance
from flowkit.targets import OpenMMTarget
from flowkit.targets._molecular_target import MolecularTarget
from flowkit.training import FitResult, load, save
from flowkit.training.files import write_bytes
from flowkit.training.seeds import forked

MOLECULE = "molecule.json"


class BoltzmannGenerator:
    """A flow for the structures of a molecule at a temperature: trained on data, on the energy, or both, and exact by weights.

    1. Coordinates: a z-matrix along the bonds, torsions on circles, all others standardised about the data, or about the energy's minimum.
    2. Flow: ``MolecularFlow``. 3. Training: maximum likelihood on structures, then an energy objective with path gradients.
    4. Weights p / q make averages over its samples those of exp(-E / kT); samples of the wrong handedness have weight zero.

    Args:
        molecule: a target over OpenMM such as ``fk.targets.AlanineDipeptide()``, the path or text of a PDB, or an openmm.System with bonds.
        z_matrix: rows of the full form; default along the bonds.
        layers, hidden, bins: of ``MolecularFlow``.
        temperature, options: of ``OpenMMTarget``, where the molecule is no target yet.
        seed: of the initial weights.

    Attributes:
        target: the energy; flow: the model, a ``Flow`` over (N, 3) in nm, with all calls of one.

    Raises:
        ConfigError: OpenMM is missing, or the molecule has no bonds and no z-matrix is given.

    Example:
        >>> from flowkit.heads.boltzmann import BoltzmannGenerator  # doctest: +SKIP
        >>> generator = BoltzmannGenerator(fk.targets.AlanineDipeptide(), seed=0)  # doctest: +SKIP
        >>> data = generator.target.simulate(500_000, temperatures=(370.0, 460.0, 570.0, 700.0), progress=True)  # doctest: +SKIP
        >>> generator.fit(data, steps=2000); report = generator.report(20_000, reference=data)  # doctest: +SKIP

    Reference: Noe, Olsson, Koehler and Wu (2019), Boltzmann generators, arXiv:1812.01729; Vaitl et al. (2024), arXiv:2403.15881 (path
    gradients); Midgley et al. (2023), arXiv:2208.01893 (FAB, chirality).
    """

    def __init__(
        self,
        molecule: Any,
        *,
        z_matrix: Sequence[Sequence[int]] | None = None,
        layers: int = 8,
        hidden: Sequence[int] = (128, 128),
        bins: int = 8,
        temperature: float = 300.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        given = isinstance(molecule, MolecularTarget)
        if given and options:
            raise ConfigError(f"BoltzmannGenerator: expected {', '.join(options)} only with a PDB or a System; the target given has its own.")
        self.target: MolecularTarget = molecule if given else OpenMMTarget(molecule, temperature, **options)
        if z_matrix is None and not self.target.bonds:
            raise ConfigError("BoltzmannGenerator: expected a molecule with bonds; got none. Give topology= with a System, or z_matrix=.")
        rows = InternalCoordinates.from_bonds(self.target.bonds).z_matrix if z_matrix is None else z_matrix
        self._rows = tuple(tuple(int(atom) for atom in row) for row in rows)
        self._size = {"layers": positive(layers, self._who, "layers"), "hidden": positive_sizes(hidden, self._who, "hidden"), "bins": bins}
        with forked(torch.device("cpu")):
            if seed is not None:
                torch.manual_seed(seed)
            self.flow = MolecularFlow(self._rows, **self._size)  # type: ignore[arg-type]

    _who = "BoltzmannGenerator"

    # -- training -----------------------------------------------------------------------------------------------

    def prepare(self, data: Any) -> Tensor:
        """Structures as the flow takes them: of the molecule's own handedness, seed atom at the origin, float32: (n, N, 3).

        Raises:
            DataError: none is left, or some are not finite.
        """
        x = torch.as_tensor(data)
        check_event(x, self.flow.event_shape, f"{self._who}.fit")
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"{self._who}.fit: expected finite positions; structure {int((~torch.isfinite(x)).flatten(1).any(1).long().argmax())} has others.")
        x = x[self._handed(x)]
        if len(x) < 2:
            raise DataError(f"{self._who}.fit: expected structures of the molecule's handedness; got {len(x)} of {len(data)}.")
        return self.flow.centred(x.double()).to(next(self.flow.parameters()).dtype)

    def _handed(self, x: Tensor) -> Tensor:
        known = self.target.molecule.positions is not None
        return self.target.same_handedness(x) if known else torch.ones(x.shape[:-2], dtype=torch.bool)

    def fit(
        self,
        data: Any = None,
        *,
        steps: int = 1000,
        energy: Energy | None = None,
        energy_steps: int = 1000,
        batch_size: int = 512,
        energy_batch_size: int = 256,
        lr: float = 2e-3,
        energy_lr: float = 1e-3,
        validation: float = 0.1,
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> list[FitResult]:
        """Train: first on data where there are some, then on the energy where asked for; the results of the stages.

        Args:
            data: structures (n, N, 3) in nm, such as ``target.simulate`` makes; None trains on the energy alone.
            steps: on the data, by maximum likelihood; fewer where ten epochs bring nothing on the rows held out; 0 for none.
            energy: "reverse_kl" (path gradients, own samples), "forward_kl" (path gradients at the data), "both", "fab" (annealed own samples), or None.
            energy_steps, energy_batch_size, energy_lr: of that stage.
            batch_size, lr: on the data.
            validation: share of the data held out, the last rows; best weights on it are kept.
            seed: of batches and samples.
            options: further keywords of ``flowkit.fit`` for both stages.

        Raises:
            ConfigError: neither data nor an energy objective. DataError: the data cannot be used.
        """
        if data is None and energy in (None, *DATA):
            raise ConfigError(f"{self._who}.fit: expected data, or energy='reverse_kl' or 'fab'; got neither.")
        shared = {"seed": seed, "progress": progress, **options}
        x = None if data is None else self.prepare(data)
        results = []
        if x is None:
            self._centre_on_minimum()
        elif whole_number(steps, f"{self._who}.fit", "steps", 0):
            results.append(data_stage(self.flow, x, validation, max_steps=steps, batch_size=batch_size, lr=lr, **shared))
        if energy is not None:
            size = {"max_steps": energy_steps, "batch_size": energy_batch_size, "lr": energy_lr}
            results.append(energy_stage(self.flow, self.target, energy, self._handed, x, **size, **shared))
        return results

    def _centre_on_minimum(self) -> None:
        """Coordinates about the minimum near the molecule's own structure, as wide as at room temperature."""
        if bool(self.flow.fitted):
            return
        centre = self.flow.shape(self.flow.centred(self.target.minimized()).to(next(self.flow.parameters())))
        self.flow.centre_on(centre.detach())

    # -- use ----------------------------------------------------------------------------------------------------

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Structures of the flow, not weighted: (n, N, 3) in nm."""
        with torch.no_grad():
            return self.flow.sample((n,), generator=generator)

    def reweight(self, n: int, *, generator: torch.Generator | None = None, progress: bool = True, **options: Any) -> Weighted:
        """n samples with weights for exp(-E / kT); weight zero for the other handedness. See ``flowkit.sampling.importance``."""
        return importance(self.flow, Handed(self.target, self._handed), n, generator=generator, progress=progress, **options)

    def free_energy_difference(self, inside: Callable[[Tensor], Tensor], weighted: Weighted | int = 20_000) -> FreeEnergyDifference:
        """F(inside) - F(outside) in kT from weighted samples, with its standard error.

        Args:
            inside: structures (n, N, 3) -> booleans (n), e.g. ``lambda x: target.phi_psi(x)[:, 0] > 0``.
            weighted: what ``reweight`` gave, or how many samples to draw.
        """
        found = self.reweight(weighted, progress=False) if isinstance(weighted, int) else weighted
        return free_energy_difference(inside(found.samples), found.weights)

    def report(
        self,
        n: int = 20_000,
        *,
        reference: Any = None,
        angles: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> GeneratorReport:
        """Numbers and figures of n weighted samples, beside reference structures where given.

        Args:
            n: samples; reference: (m, N, 3) structures of the same law, e.g. from dynamics.
            angles: structures -> two dihedrals (n, 2) for Ramachandran maps; default the molecule's phi and psi, where it knows them.
        """
        angles = getattr(self.target, "phi_psi", None) if angles is None else angles
        weighted = self.reweight(n, generator=generator, progress=progress)
        return GeneratorReport.of(self.target, weighted, None if reference is None else torch.as_tensor(reference), angles)

    def write(self, path: str | Path, n: int = 100, *, weighted: Weighted | None = None, generator: torch.Generator | None = None) -> Path:
        """Write n structures to a .pdb or .xyz file: the flow's own, or drawn by weight from what ``reweight`` gave."""
        writers = {".pdb": write_pdb, ".xyz": write_xyz}
        kind = Path(path).suffix.lower()
        if kind not in writers:
            raise ConfigError(f"{path}: cannot write a {kind or 'nameless'} file. Give it one of the endings .pdb, .xyz.")
        x = self.sample(n, generator=generator) if weighted is None else weighted.resample(n, generator=generator)
        return writers[kind](path, self.target, x)

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the flow, as ``flowkit.save`` does, and the description of the molecule.

        Raises:
            ConfigError: the molecule is a raw openmm.System, which cannot be described; save ``flow`` alone with ``flowkit.save``.
        """
        molecule = json.dumps(self.target.describe(), indent=2) + "\n"
        folder = save(self.flow, path)
        write_bytes(folder / MOLECULE, molecule.encode())
        return folder

    @classmethod
    def load(cls, path: str | Path, molecule: MolecularTarget | None = None) -> BoltzmannGenerator:
        """Read what ``save`` wrote; ``molecule`` takes the place of the one described there."""
        flow = load(path)
        if not isinstance(flow, MolecularFlow):
            raise CheckpointError(f"{cls._who}.load: expected a saved MolecularFlow in {path}; got {type(flow).__name__}.")
        if molecule is None:
            try:
                described = json.loads((Path(path) / MOLECULE).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise CheckpointError(f"{cls._who}.load: {Path(path) / MOLECULE} is missing or damaged. Pass molecule=.") from None
            molecule = build(described, TARGETS)
        made = cls(molecule, z_matrix=flow.z_matrix, layers=flow.layers, hidden=flow.hidden, bins=flow.bins)
        made.flow = flow
        return made
