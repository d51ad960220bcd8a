"""Molecules by bond lengths, angles and dihedral angles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._bond_tree import is_torsion, rows_of
from flowkit.bijectors._reference_frames import ReferenceFrames, length_floor, safe_length
from flowkit.bijectors._z_matrix import read
from flowkit.core.domain.box import Box
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import sum_event
from flowkit.core.transform import Bijector


@BIJECTORS.register("internal_coordinates")
class InternalCoordinates(Bijector):
    """Internal coordinates (3N,) to Cartesian coordinates (N, 3) along a z-matrix.

    Internal event, with k seed atoms and M = N - k rows: the seed's Cartesian coordinates (3k), then bond lengths d > 0 (M),
    angles a in (0, pi) (M) and dihedral angles t in (-pi, pi] (M), each in the order of the rows.

    1. Row (atom, p, q, r) places x = x_p + d (cos a e_1 + sin a cos t e_2 + sin a sin t e_3), e_1 the unit vector from p to q,
       e_2 the unit vector across it on the side of r, e_3 = e_2 x e_1. So a is the angle x-p-q and t the dihedral x-p-q-r: 0 in
       cis, with IUPAC's sign.
    2. These are polar coordinates about x_p in a frame that x does not move, and seed atoms pass unchanged. Ordered by depth
       the Jacobian is block triangular, so log_det = sum over rows of (2 log d + log sin a), in the inverse with minus.

    Mixed form: three seed atoms and rows of four. Full form: one seed atom, then rows (atom, p), (atom, p, q) and rows of four.
    A short row measures from axes fixed in space (q a unit above p in z; r a unit from q, in x for (atom, p) and in z for
    (atom, p, q)). The seed's position, the angle u and dihedral of (atom, p) and the dihedral of (atom, p, q) are then the six
    rigid-body numbers, and the other 3N - 6 describe the shape. For a density that rigid motions leave alone, fix the six at
    any values and take log_det - log sin u, which does not depend on them: the volume element of shapes, d_1^2 d_2^2 sin a for
    the first three atoms times d^2 sin a for each other; add log(8 pi^2) to count all orientations as well.

    Numerical limits: lengths below eps^2 and sines of frames below 4 eps count as zero. There (atoms that coincide, references on
    a line) the map is no bijection; constant axes and clamped logarithms keep values and gradients finite.
    Cost: the forward takes one step per level of depth, all atoms of a level together; the inverse takes one step.

    Args:
        z_matrix: rows (atom, bonded, angle, dihedral), or shorter as above, in any order in which none waits for itself.
        seed: atoms in no row, in the order of their coordinates; default those in no row, by number.

    Raises:
        ConfigError: an atom missing, met twice, or waiting for itself; the message names the row.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import InternalCoordinates
        >>> f = InternalCoordinates([(1, 0), (2, 1, 0), (3, 2, 1, 0)])  # full form of a chain of four
        >>> x, log_det = f(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 1.0, 1.6, 1.6, 1.6, 0.0, 0.5, 3.0]))
        >>> tuple(x.shape), round(float(log_det), 4)
        ((4, 3), 1.385)

    Reference: Parsons et al. (2005), Practical conversion from torsion space to Cartesian space for in silico protein synthesis,
    J. Computational Chemistry 26, 1063; Noe et al. (2019), Boltzmann generators, arXiv:1812.01729, supplement (mixed form).
    """

    order: Tensor
    restore: Tensor
    seed_atoms: Tensor
    row_atoms: Tensor

    def __init__(self, z_matrix: Sequence[Sequence[int]], *, seed: Sequence[int] | None = None) -> None:
        super().__init__()
        self.z_matrix, self.seed = z_matrix, seed
        matrix = read(z_matrix, seed, "InternalCoordinates")
        self.seeds, self.rows, self.atoms = len(matrix.seed), len(matrix.rows), matrix.atoms
        self.in_shape, self.out_shape = (3 * self.atoms,), (self.atoms, 3)
        free = 3 * self.seeds
        low = [-math.inf] * free + [0.0] * (2 * self.rows) + [-math.pi] * self.rows
        high = [math.inf] * (free + self.rows) + [math.pi] * (2 * self.rows)
        self._domain = Box(low, high)
        order = [number for level in matrix.levels for number in level]
        slots = [*matrix.seed, *(matrix.rows[number][0] for number in order)]  # atoms in the order in which they are placed
        where = {atom: slot for slot, atom in enumerate(slots)}
        self.sizes = [len(level) for level in matrix.levels]
        self.levels = nn.ModuleList(ReferenceFrames([[where[atom] for atom in matrix.rows[n][1:]] for n in level]) for level in matrix.levels)
        self.frames = ReferenceFrames([row[1:] for row in matrix.rows])
        self._index("order", order)
        self._index("restore", [where[atom] for atom in range(self.atoms)])
        self._index("seed_atoms", list(matrix.seed))
        self._index("row_atoms", [row[0] for row in matrix.rows])

    @classmethod
    def from_bonds(cls, bonds: Sequence[Sequence[int]], *, root: int | None = None) -> InternalCoordinates:
        """The full form along a tree of the bonds: one torsion for each bond that turns, improper dihedrals for the other atoms about it.

        Args:
            bonds: pairs of atoms 0 .. N - 1, which must hold the molecule together.
            root: the seed atom; default one in the middle.

        Raises:
            ConfigError: the bonds leave an atom out.
        """
        return cls(rows_of(bonds, root, "InternalCoordinates.from_bonds"))

    @property
    def torsions(self) -> tuple[bool, ...]:
        """For each row of four: whether its dihedral is a torsion about a bond, and not an improper to another atom placed about it."""
        return tuple(is_torsion([tuple(int(atom) for atom in row) for row in self.z_matrix]))

    def _index(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        start, bond, angle, turn = z.split([3 * self.seeds, self.rows, self.rows, self.rows], dim=-1)
        sine, floor = angle.sin(), length_floor(z.dtype)
        local = torch.stack([bond * angle.cos(), bond * sine * turn.cos(), bond * sine * turn.sin()], dim=-1).index_select(-2, self.order)
        x = start.unflatten(-1, (self.seeds, 3))
        for frames, part in zip(self.levels, local.split(self.sizes, dim=-2), strict=True):
            origin, axes = frames(x)
            x = torch.cat([x, origin + (part.unsqueeze(-1) * axes).sum(-2)], dim=-2)
        log_det = 2 * bond.clamp(min=floor).log() + sine.clamp(min=floor).log()
        return x.index_select(-2, self.restore), sum_event(log_det, 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        origin, axes = self.frames(x)
        local = (axes * (x.index_select(-2, self.row_atoms) - origin).unsqueeze(-2)).sum(-1)
        along, across = local[..., 0], local[..., 1:]
        bond, radius = safe_length(local), safe_length(across)
        aside = torch.where((radius > 0).unsqueeze(-1), across, torch.ones_like(across))  # on the axis the dihedral is anything
        turn = torch.where(radius > 0, torch.atan2(aside[..., 1], aside[..., 0]), 0.0)
        angle = torch.atan2(radius, torch.where(bond > 0, along, 1.0))
        floor = length_floor(x.dtype)
        log_det = bond.clamp(min=floor).log() + radius.clamp(min=floor).log()  # d^2 sin a is d times the distance from the axis
        start = x.index_select(-2, self.seed_atoms).flatten(-2)
        return torch.cat([start, bond, angle, turn], dim=-1), -sum_event(log_det, 1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, InternalCoordinates]]:
        yield "mixed", cls([(3, 2, 1, 0)])
        yield "full", cls([(1, 0), (2, 1, 0), (3, 2, 1, 0)])
        yield "branched", cls([(0, 4, 1, 5), (1, 5, 3, 2), (4, 5, 1, 2)], seed=(5, 2, 3))  # two levels; row 0 waits for row 2
