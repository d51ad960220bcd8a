"""Structures as files that molecular viewers read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from flowkit.core.shapes import check_event
from flowkit.targets._molecular_target import MolecularTarget
from flowkit.targets._openmm import require, topology_of
from flowkit.training.files import write_bytes

ANGSTROM = 10.0  # in a nanometre


class PDBModels:
    """A PDB file written model by model.

    Args:
        file: to write to; atoms: names, elements, residues and bonds, as ``MolecularTarget.atoms`` gives; several: number the models.
    """

    def __init__(self, file: TextIO, atoms: Mapping[str, Any], *, several: bool) -> None:
        self.file, self.several, self.count = file, several, 0
        self.openmm = require("write_pdb")
        self.topology = topology_of(atoms["names"], atoms["elements"], atoms["residues"], atoms["bonds"])
        self.openmm.app.PDBFile.writeHeader(self.topology, file)

    def write(self, frame: Tensor) -> None:
        """One structure (N, 3) in nm."""
        self.count += 1
        positions = frame.detach().cpu().double().numpy() * self.openmm.unit.nanometer
        self.openmm.app.PDBFile.writeModel(self.topology, positions, self.file, modelIndex=self.count if self.several else None)

    def close(self) -> None:
        """The end of the file's text; the file stays open."""
        self.openmm.app.PDBFile.writeFooter(self.topology, self.file)


def write_pdb(path: str | Path, molecule: MolecularTarget, x: Tensor) -> Path:
    """Write structures as models of one PDB file, with the names and bonds of the molecule: (N, 3) or (n, N, 3) in nm.

    Raises:
        ConfigError: OpenMM is missing. ShapeError: structures of another molecule.
    """
    frames, text = _frames(molecule, x, "write_pdb"), io.StringIO()
    models = PDBModels(text, molecule.atoms, several=len(frames) > 1)
    for frame in frames:
        models.write(frame)
    models.close()
    return _whole(path, text)


def write_xyz(path: str | Path, molecule: MolecularTarget, x: Tensor) -> Path:
    """Write structures as frames of one XYZ file, element and position in angstroms: (N, 3) or (n, N, 3) in nm."""
    text = io.StringIO()
    for number, frame in enumerate(_frames(molecule, x, "write_xyz")):
        write_xyz_frame(text, molecule.atoms["elements"], frame, f"frame {number}")
    return _whole(path, text)


def write_xyz_frame(file: TextIO, elements: Sequence[str], frame: Tensor, comment: str) -> None:
    """One frame (N, 3), in nm."""
    file.write(f"{len(elements)}\n{comment}\n")
    for symbol, (x, y, z) in zip(elements, (ANGSTROM * frame).tolist(), strict=True):
        file.write(f"{symbol or 'X':<2s} {x:14.8f} {y:14.8f} {z:14.8f}\n")


def _frames(molecule: MolecularTarget, x: Tensor, who: str) -> Tensor:
    check_event(x, molecule.event_shape, who)
    return x.detach().reshape(-1, *x.shape[-2:]).to("cpu", torch.float64)


def _whole(path: str | Path, text: io.StringIO) -> Path:
    write_bytes(Path(path), text.getvalue().encode())
    return Path(path)
