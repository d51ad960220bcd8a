"""Dihedral angles, chiral centres and the handedness of structures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Bonds = Sequence[tuple[int, int]]


def neighbours(bonds: Bonds, atoms: int) -> list[list[int]]:
    """The atoms bonded to each atom, by number."""
    found: list[list[int]] = [[] for _ in range(atoms)]
    for first, second in bonds:
        found[first].append(second)
        found[second].append(first)
    return [sorted(near) for near in found]


def chiral_centres(elements: Sequence[str], bonds: Bonds) -> list[tuple[int, int, int, int]]:
    """(centre, a, b, c) for each atom with four neighbours no two of which are alike: three of them, hydrogen last to be taken.

    Atoms are alike if no walk along bonds tells them apart (colour refinement).
    """
    near = neighbours(bonds, len(elements))
    colour: list[int] = _numbered([(symbol,) for symbol in elements])
    for _ in elements:
        finer = _numbered([(colour[atom], *sorted(colour[other] for other in near[atom])) for atom in range(len(elements))])
        if len(set(finer)) == len(set(colour)):
            break
        colour = finer
    centres = []
    for atom, around in enumerate(near):
        if len(around) == 4 and len({colour[other] for other in around}) == 4:
            a, b, c = sorted(around, key=lambda other: (elements[other] == "H", other))[:3]
            centres.append((atom, a, b, c))
    return centres


def handedness(x: Tensor, centres: Tensor) -> Tensor:
    """Sign of (a - centre) . ((b - centre) x (c - centre)) at each centre: (*B, N, 3), (K, 4) -> (*B, K)."""
    points = x[..., centres, :]
    a, b, c = (points[..., i, :] - points[..., 0, :] for i in (1, 2, 3))
    return (a * torch.linalg.cross(b, c)).sum(-1).sign()


def dihedral(x: Tensor, atoms: Sequence[int]) -> Tensor:
    """Dihedral angle of four atoms in (-pi, pi], cis is 0, with IUPAC's sign: (*B, N, 3) -> (*B)."""
    a, b, c = (x[..., atoms[i + 1], :] - x[..., atoms[i], :] for i in range(3))
    normal = torch.linalg.cross(b, c)
    return torch.atan2(torch.linalg.vector_norm(b, dim=-1) * (a * normal).sum(-1), (torch.linalg.cross(a, b) * normal).sum(-1))


def _numbered(keys: Sequence[tuple[object, ...]]) -> list[int]:
    names = {key: number for number, key in enumerate(sorted(set(keys), key=repr))}
    return [names[key] for key in keys]
