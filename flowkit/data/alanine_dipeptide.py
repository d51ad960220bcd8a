"""Structures of alanine dipeptide from molecular dynamics."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import DataError
from flowkit.core.registry import DATA
from flowkit.core.shapes import positive_number, whole_number
from flowkit.data._dataset import Dataset, Split, _Parts
from flowkit.data._fetch import _write_whole, cache_folder
from flowkit.targets import AlanineDipeptide as Molecule
from flowkit.targets._openmm import is_installed

WARM_UP, STRIDE = 5000, 100  # steps of a femtosecond
AT_ONCE = 5  # picoseconds that are not worth a file
CENTRE = 8  # the alpha carbon


@DATA.register("alanine_dipeptide")
class AlanineDipeptide(Dataset):
    """Structures (22, 3) in nm of alanine dipeptide in implicit solvent at 300 K, the alpha carbon at the origin, as the trajectory has them.

    Made here by replica exchange with OpenMM, see ``fk.targets.AlanineDipeptide``, and kept in the cache (``$FLOWKIT_CACHE``, else
    ``~/.cache/flowkit``): a frame each 0.1 ps at the lowest temperature. The default takes about 40 seconds for each 100 ps on one idle
    core, at most 5 ps are not kept. The last tenth of the trajectory is test, the tenth before it validation. ``molecule`` names the atoms.

    Args:
        picoseconds: of each replica.
        temperatures: of the replicas above 300 K.
        seed: of velocities, noise and exchanges.

    Raises:
        ConfigError: OpenMM is missing, when the data are first looked at. DataError: the cache cannot be written.
    """

    license = "made on this machine; force field files as OpenMM ships them (MIT)"
    source = "molecular dynamics with OpenMM: AMBER99SB-ILDN with OBC solvent"

    def __init__(self, *, picoseconds: float = 500.0, temperatures: Sequence[float] = (370.0, 460.0, 570.0, 700.0), seed: int = 0) -> None:
        self.picoseconds = positive_number(picoseconds, "AlanineDipeptide", "picoseconds")
        self.temperatures, self.seed = tuple(temperatures), whole_number(seed, "AlanineDipeptide", "seed", 0)

    @property
    def at_hand(self) -> bool:
        return self._place.is_file() or (self.picoseconds <= AT_ONCE and is_installed())

    @property
    def target(self) -> Molecule:
        """The energy that the structures are distributed by."""
        return Molecule()

    @property
    def molecule(self) -> dict[str, Any]:
        """Names, elements, residues and bonds of the atoms."""
        return self.target.atoms

    @property
    def _place(self) -> Path:
        """Where the trajectory is kept: a change of what it depends on changes the name."""
        depends = {"picoseconds": float(self.picoseconds), "temperatures": list(self.temperatures), "seed": self.seed, "steps": [WARM_UP, STRIDE]}
        return cache_folder() / "alanine_dipeptide" / f"{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]}.npy"

    def _load(self) -> _Parts:
        x = self._trajectory()
        x = (x - x[:, CENTRE : CENTRE + 1]).float()
        held = max(1, len(x) // 10)
        return _Parts(Split(x[: -2 * held]), Split(x[-2 * held : -held]), Split(x[-held:]))

    def _trajectory(self) -> Tensor:
        if self._place.is_file():
            return torch.from_numpy(np.load(self._place)).double()
        steps = max(1000, round(self.picoseconds * 1000))
        x = self.target.simulate(
            steps, stride=STRIDE, temperatures=self.temperatures, warm_up=min(WARM_UP, steps), seed=self.seed, progress=self.picoseconds > AT_ONCE
        ).float()
        if self.picoseconds <= AT_ONCE:
            return x.double()
        content = io.BytesIO()
        np.save(content, x.numpy())
        try:
            _write_whole(self._place, content.getvalue())
        except OSError as error:
            raise DataError(f"AlanineDipeptide: cannot write {self._place} ({error}). Point $FLOWKIT_CACHE at a folder you may write to.") from None
        return x.double()

    @classmethod
    def examples(cls) -> Iterator[tuple[str, AlanineDipeptide]]:
        yield "short", cls(picoseconds=1, temperatures=(400.0,))
