"""Alanine between caps, ACE-ALA-NME: the 22 atoms in the order of AMBER's templates, and a structure for any phi and psi."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESIDUES = (("ACE", 6), ("ALA", 10), ("NME", 6))
NAMES = ("HH31", "CH3", "HH32", "HH33", "C", "O", "N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3", "C", "O", "N", "H", "C", "H1", "H2", "H3")
ELEMENTS = tuple(name[0] for name in NAMES)
BONDS = (
    *((0, 1), (1, 2), (1, 3), (1, 4), (4, 5), (4, 6), (6, 7), (6, 8), (8, 9), (8, 10), (10, 11)),
    *((10, 12), (10, 13), (8, 14), (14, 15), (14, 16), (16, 17), (16, 18), (18, 19), (18, 20), (18, 21)),
)
PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)

# (atom, bonded, angle, dihedral, length in nm, angle and dihedral in degrees); None: phi, psi
_CAPS = (((1, 4, 6), (0, 2, 3)), ((10, 8, 6), (11, 12, 13)), ((18, 16, 14), (19, 20, 21)))  # methyl carbons with references, and hydrogens
_METHYLS = tuple((atom, *near, 0.109, 109.5, turn) for near, atoms in _CAPS for atom, turn in zip(atoms, (60.0, 180.0, -60.0), strict=True))
_ROWS: tuple[tuple[int, int, int, int, float, float, float | str], ...] = (
    (10, 8, 6, 14, 0.153, 110.0, -121.5),
    (9, 8, 6, 14, 0.109, 109.0, 118.0),
    (4, 6, 8, 14, 0.134, 122.0, "phi"),
    (16, 14, 8, 6, 0.134, 116.5, "psi"),
    (7, 6, 8, 4, 0.101, 118.0, 180.0),
    (15, 14, 8, 16, 0.123, 120.5, 180.0),
    (5, 4, 6, 8, 0.123, 122.0, 0.0),
    (1, 4, 6, 8, 0.152, 116.5, 180.0),
    (18, 16, 14, 8, 0.145, 122.0, 180.0),
    (17, 16, 14, 18, 0.101, 119.0, 180.0),
    *_METHYLS,
)


def structure(phi: float, psi: float) -> Array:
    """The L form with standard lengths and angles, both peptide bonds trans: (22, 3) in nm.

    Args:
        phi, psi: backbone dihedrals in radians.
    """
    x = np.zeros((22, 3))
    corner = math.radians(110.0)
    x[6], x[14] = (0.146, 0.0, 0.0), (0.1525 * math.cos(corner), 0.1525 * math.sin(corner), 0.0)
    for atom, p, q, r, length, angle, turn in _ROWS:
        t = {"phi": phi, "psi": psi}[turn] if isinstance(turn, str) else math.radians(turn)
        x[atom] = _placed(x[p], x[q], x[r], length, math.radians(angle), t)
    return x


def _placed(p: Array, q: Array, r: Array, length: float, angle: float, turn: float) -> Array:
    """The atom at a length from p, an angle at p to q, and a dihedral about p-q to r."""
    along = (q - p) / np.linalg.norm(q - p)
    normal = np.cross(r - q, along)
    third = normal / np.linalg.norm(normal)
    second = np.cross(along, third)
    placed: Array = p + length * (math.cos(angle) * along + math.sin(angle) * (math.cos(turn) * second + math.sin(turn) * third))
    return placed
