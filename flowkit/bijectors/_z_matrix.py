"""Reading of z-matrices: which atom is placed from which others, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowkit.core.errors import ConfigError

FORM = "Rows are (atom, bonded), (atom, bonded, angle) or (atom, bonded, angle, dihedral), atoms numbered 0 .. N - 1."


@dataclass(frozen=True)
class ZMatrix:
    """A checked z-matrix.

    Args:
        seed: atoms that keep their Cartesian coordinates, in the order of their coordinates.
        rows: the rows as given.
        levels: numbers of the rows that can be placed together; each level refers to seed atoms and earlier levels only.
    """

    seed: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    levels: tuple[tuple[int, ...], ...]

    @property
    def atoms(self) -> int:
        return len(self.seed) + len(self.rows)


def read(z_matrix: Any, seed: Sequence[int] | None, who: str) -> ZMatrix:
    """Check a z-matrix and sort its rows into levels.

    Raises:
        ConfigError: it is not one; the message names the row.
    """
    rows = tuple(_row(number, row, who) for number, row in enumerate(z_matrix))
    if not rows:
        raise ConfigError(f"{who}: expected a z-matrix of at least one row; got none. {FORM}")
    placed: dict[int, int] = {}
    for number, (atom, *_) in enumerate(rows):
        if atom in placed:
            raise ConfigError(f"{who}: expected each atom once; got atom {atom} in rows {placed[atom]} and {number}. Remove one of them.")
        placed[atom] = number
    kept = _seed(rows, placed, seed, who)
    _check_references(rows, placed, kept, who)
    return ZMatrix(kept, rows, _levels(rows, kept, who))


def _row(number: int, row: Any, who: str) -> tuple[int, ...]:
    entries = tuple(int(index) for index in row)
    if not 2 <= len(entries) <= 4 or min(entries) < 0:
        raise ConfigError(f"{who}: expected row {number} to be 2 to 4 atom numbers >= 0; got {entries}. {FORM}")
    if len(set(entries)) < len(entries):
        raise ConfigError(f"{who}: expected the atoms of row {number} to differ; got {entries}. {FORM}")
    return entries


def _seed(rows: tuple[tuple[int, ...], ...], placed: dict[int, int], seed: Sequence[int] | None, who: str) -> tuple[int, ...]:
    """Atoms in no row, or the seed as given once it is known to be exactly those."""
    if seed is None:
        atoms = max(max(row) for row in rows) + 1
        return tuple(atom for atom in range(atoms) if atom not in placed)
    kept = tuple(int(atom) for atom in seed)
    for atom in kept:
        if atom in placed:
            raise ConfigError(f"{who}: expected seed atoms to be in no row; got atom {atom}, which row {placed[atom]} places. Remove one of them.")
    if sorted((*kept, *placed)) != list(range(len(kept) + len(placed))):
        missing = sorted(set(range(len(kept) + len(placed))) - set(kept) - set(placed))
        raise ConfigError(f"{who}: expected seed and rows to hold each of the atoms 0 .. N - 1 once; got seed {kept}, which leaves out {missing}. {FORM}")
    return kept


def _check_references(rows: tuple[tuple[int, ...], ...], placed: dict[int, int], kept: tuple[int, ...], who: str) -> None:
    known = set(kept) | set(placed)
    for number, row in enumerate(rows):
        strange = [atom for atom in row[1:] if atom not in known]
        if strange:
            raise ConfigError(f"{who}: expected references to atoms 0 .. {len(known) - 1}; got {strange} in row {number}, {row}. {FORM}")


def _levels(rows: tuple[tuple[int, ...], ...], kept: tuple[int, ...], who: str) -> tuple[tuple[int, ...], ...]:
    known, left = set(kept), list(range(len(rows)))
    levels: list[tuple[int, ...]] = []
    while left:
        ready = tuple(number for number in left if known.issuperset(rows[number][1:]))
        if not ready:
            number = left[0]
            raise ConfigError(
                f"{who}: expected atoms that can be placed one after the other from the seed {kept}; got row {number}, {rows[number]}, "
                "which waits, itself or through others, for the atom that it places. Break the circle."
            )
        levels.append(ready)
        known.update(rows[number][0] for number in ready)
        left = [number for number in left if number not in ready]
    return tuple(levels)
