"""A z-matrix from the bonds of a molecule."""

from __future__ import annotations

from collections.abc import Sequence

from flowkit.core.errors import ConfigError

Row = tuple[int, ...]


def rows_of(bonds: Sequence[Sequence[int]], root: int | None, who: str) -> list[Row]:
    """Rows of the full form: the root is the seed, each atom is placed from atoms bonded before it.

    The first atom about a bond gets the torsion of that bond, to the atom before it; the others about the same bond are placed by their
    improper dihedral to the first, which hardly moves when the torsion turns. First is the one with most atoms behind it.

    Args:
        bonds: pairs of atoms, which must hold the molecule together.
        root: the seed; default an atom in the middle.
        who: named in errors.
    """
    near = _neighbours(bonds, who)
    start = _middle(near) if root is None else root
    if not 0 <= start < len(near):
        raise ConfigError(f"{who}: expected root to be one of the atoms 0 .. {len(near) - 1}; got {root}.")
    tree = _Tree(near, start, who)
    return tree.rows


def is_torsion(rows: Sequence[Row]) -> list[bool]:
    """For each row of four: whether its dihedral is a torsion, free to turn, and not an improper to an atom about the same bond."""
    places = {row[0]: row for row in rows}
    found = []
    for _, bonded, angle, reference in (row for row in rows if len(row) == 4):
        other = places.get(reference, (reference,))
        found.append(not (len(other) > 2 and other[1] == bonded and other[2] == angle))
    return found


class _Tree:
    """The spanning tree that atoms are placed along, breadth first."""

    def __init__(self, near: list[list[int]], root: int, who: str) -> None:
        self.near = near
        self.parent: dict[int, int] = {root: root}
        order = [root]
        for atom in order:
            for other in near[atom]:
                if other not in self.parent:
                    self.parent[other] = atom
                    order.append(other)
        if len(order) < len(near):
            lost = min(set(range(len(near))) - set(order))
            raise ConfigError(f"{who}: expected bonds that hold all atoms together; got none from atom {root} to atom {lost}. Treat molecules one by one.")
        behind = dict.fromkeys(order, 1)
        for atom in reversed(order[1:]):
            behind[self.parent[atom]] += behind[atom]
        self.children = {atom: sorted((o for o in near[atom] if self.parent[o] == atom and o != root), key=lambda o: (-behind[o], o)) for atom in order}
        self.root = root
        self.rows: list[Row] = []
        queue = [root]
        for atom in queue:
            self.rows += self._around(atom)
            queue += self.children[atom]

    def _around(self, atom: int) -> list[Row]:
        """Rows of the atoms bonded to one that has its place."""
        if not self.children[atom]:
            return []
        first, *others = self.children[atom]
        if atom == self.root:
            rows: list[Row] = [(first, atom)]
            for number, other in enumerate(others):
                rows.append((other, atom, first) if number == 0 else (other, atom, first, others[0]))
            return rows
        before = self.parent[atom]
        towards = next((o for o in (self.parent[before], *self.children[before]) if o not in (atom, before)), None)
        rows = [(first, atom, before) if towards is None else (first, atom, before, towards)]
        return rows + [(other, atom, before, first) for other in others]


def _neighbours(bonds: Sequence[Sequence[int]], who: str) -> list[list[int]]:
    pairs = [tuple(int(atom) for atom in bond) for bond in bonds]
    if not pairs or any(len(pair) != 2 or pair[0] == pair[1] or min(pair) < 0 for pair in pairs):
        raise ConfigError(f"{who}: expected bonds, pairs of different atoms >= 0; got {[*bonds][:4]}.")
    near: list[set[int]] = [set() for _ in range(max(map(max, pairs)) + 1)]
    for first, second in pairs:
        near[first].add(second)
        near[second].add(first)
    return [sorted(others) for others in near]


def _middle(near: list[list[int]]) -> int:
    """The atom with the shortest way to the one furthest from it; of several the one with most bonds."""

    def reach(root: int) -> int:
        far = {root: 0}
        queue = [root]
        for atom in queue:
            for other in near[atom]:
                if other not in far:
                    far[other] = far[atom] + 1
                    queue.append(other)
        return max(far.values())

    return min(range(len(near)), key=lambda atom: (reach(atom), -len(near[atom]), atom))
