"""The maps of a molecular flow, and which of its numbers is what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flowkit.bijectors import Affine, Chain, CircularShift, Concat, Cosine, Coupling, Elementwise, Identity, InternalCoordinates, LULinear, Permutation
from flowkit.bijectors._conditioning import start_at
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, DataError
from flowkit.core.transform import Bijector
from flowkit.distributions import Product, StandardNormal, UniformBox
from flowkit.flows._torsion_net import TorsionNet
from flowkit.univariates import RationalQuadraticSpline

B = TypeVar("B", bound=Bijector)
SplineEnd = Literal["linear", "bounded", "circular"]
REACH = 5.0  # standard deviations of a local coordinate that splines shape; beyond they are the identity
ROOM = 8.0  # standard deviations that must lie in a coordinate's domain
WIDTHS = (0.004, 0.07, 0.12)  # nm, radians: of lengths, angles and improper dihedrals at room temperature
TURN = 2.4  # radians that torsions are turned by between layers, to begin with: multiples of it spread over the circle
WHO = "MolecularFlow"


class Layout:
    """Which internal coordinates describe the shape, and in what order the latent vector holds them.

    Latent: lengths and angles, then dihedrals that stay near their centre, then torsions, then the rigid numbers (seed's position, angle and
    dihedral of the row of two, dihedral of the row of three).

    Args:
        internal: a z-matrix of the full form.
        circular: for each dihedral of the shape, whether it is a torsion; None: as the rows say.
    """

    def __init__(self, internal: InternalCoordinates, circular: Sequence[bool] | None) -> None:
        rows = [tuple(row) for row in internal.z_matrix]
        lengths = [len(row) for row in rows]
        if internal.seeds != 1 or lengths.count(2) != 1 or lengths.count(3) != min(len(rows) - 1, 1):
            raise ConfigError(f"{WHO}: expected a z-matrix of the full form: one seed atom, one row of two, one of three. Use InternalCoordinates.from_bonds.")
        count, first, last = len(rows), 3 + len(rows), 3 + 2 * len(rows)
        fours = [number for number, length in enumerate(lengths) if length == 4]
        flags = internal.torsions if circular is None else tuple(bool(flag) for flag in circular)
        if len(flags) != len(fours):
            raise ConfigError(f"{WHO}: expected circular to say yes or no for each of {len(fours)} dihedrals; got {len(flags)}.")
        bonds, angles = [3 + i for i in range(count)], [first + i for i, length in enumerate(lengths) if length > 2]
        dihedrals = [last + number for number in fours]
        self.shape = [*bonds, *angles, *dihedrals]  # where the numbers of the shape are in the internal event
        self.rigid = [0, 1, 2, *(first + i for i, n in enumerate(lengths) if n == 2), *(last + i for i, n in enumerate(lengths) if n < 4)]
        straight, self.bonds = len(bonds) + len(angles), len(bonds)
        self.linear = list(range(straight))  # the three kinds, by their places in the shape
        self.near = [straight + i for i, flag in enumerate(flags) if not flag]
        self.turning = [straight + i for i, flag in enumerate(flags) if flag]
        self.local = [*self.linear, *self.near]
        latent = [*(self.shape[i] for i in (*self.local, *self.turning)), *self.rigid]
        self.order = torch.tensor(latent).argsort().tolist()
        self.high = torch.tensor([math.inf] * len(bonds) + [math.pi] * len(angles))

    @property
    def count(self) -> int:
        """3N - 6, numbers of the shape."""
        return len(self.shape)

    @property
    def circular(self) -> list[bool]:
        """For each latent number of the shape, whether it is on the circle."""
        return [False] * len(self.local) + [True] * len(self.turning)

    def defaults(self) -> tuple[Tensor, Tensor]:
        """Centres and scales until data are seen."""
        sizes = (self.bonds, len(self.linear) - self.bonds, self.count - len(self.linear))
        centre = torch.cat([torch.full((size,), value) for size, value in zip(sizes, (0.12, 1.9, 0.0), strict=True)])
        return centre, torch.cat([torch.full((size,), value) for size, value in zip(sizes, WIDTHS, strict=True)])

    def measure(self, chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of shapes (n, 3N - 6), those of dihedrals on the circle; scales small enough for their domain."""
        shapes = torch.cat([chunk.double() for chunk in chunks])
        bend = len(self.linear)
        turn = torch.atan2(shapes[:, bend:].sin().mean(0), shapes[:, bend:].cos().mean(0))
        centre = torch.cat([shapes[:, :bend].mean(0), turn])
        off = shapes - centre
        off[:, bend:] = torch.remainder(off[:, bend:] + math.pi, 2 * math.pi) - math.pi
        scale = torch.minimum(off.square().mean(0).sqrt(), self.widest(centre))
        lost = ~(torch.isfinite(scale) & (scale > 1e-7))
        if len(shapes) < 2 or bool(lost.any()):
            raise DataError(f"{WHO}: expected structures whose {self.count} lengths, angles and dihedrals vary; number {int(lost.long().argmax())} does not.")
        return centre, scale

    def widest(self, centre: Tensor) -> Tensor:
        """The largest scales that have room about the centres."""
        bend, room = len(self.linear), torch.full_like(centre, math.pi)
        room[:bend] = torch.minimum(centre[:bend], self.high.to(centre) - centre[:bend])
        return 0.99 * room / ROOM

    def check(self, centre: Tensor, scale: Tensor) -> None:
        """Raise unless lengths and angles eight standard deviations off are lengths and angles."""
        for name, value in (("centre", centre), ("scale", scale)):
            if tuple(value.shape) != (self.count,) or not bool(torch.isfinite(value).all()):
                raise ConfigError(f"{WHO}: expected {name} to be {self.count} finite numbers, 3N - 6; got shape {tuple(value.shape)}.")
        spread = ROOM * scale
        middle, width = centre[self.linear], spread[self.linear]
        bad = (middle - width <= 0) | (middle + width >= self.high.to(middle))
        near, turned = spread[self.near] >= math.pi, centre[len(self.linear) :].abs() > math.pi * (1 + 1e-6)
        if bool((scale <= 0).any() or bad.any() or near.any() or turned.any()):
            which = next((f"number {int(i)}" for i in bad.nonzero().flatten()), "a scale or a dihedral")
            raise ConfigError(f"{WHO}: expected scales > 0, and {ROOM:.0f} of them about each centre within the domain of lengths and angles; not so: {which}.")


def base_of(layout: Layout, box: float) -> Distribution:
    """Normal, uniform on circles, and uniform over rigid motions."""
    half, free = box / 2, len(layout.rigid) - 4
    rigid = UniformBox([-half] * 3 + [-1.0] + [-math.pi] * free, [half] * 3 + [1.0] + [math.pi] * free)
    parts: list[Distribution] = [StandardNormal((len(layout.local),)), rigid]
    if layout.turning:
        parts.insert(1, UniformBox(-math.pi, math.pi, len(layout.turning)))
    return Product(parts)


def shape_maps(layout: Layout, layers: int, hidden: Sequence[int], bins: int) -> Bijector:
    """Couplings and mixing of the latent numbers of the shape; local ones come standard normal and leave with 5 sigma at pi."""
    ends: list[SplineEnd] = ["circular" if flag else "linear" for flag in layout.circular]
    spline = RationalQuadraticSpline(bins, math.pi, ends=ends)
    steps: list[Bijector] = [_beside(fixed(Affine((len(layout.local),), scale=math.pi / REACH)), layout)]
    for number in range(layers if layout.count > 1 else 0):
        mask = _mask(layout, number)
        mapped = [i for i, flag in enumerate(mask) if flag]
        chosen = spline.select(mapped)
        net = TorsionNet([flag for i, flag in enumerate(layout.circular) if not mask[i]], len(mapped) * chosen.parameter_count, hidden)
        start_at(net, chosen, len(mapped), WHO)
        turn = CircularShift((len(layout.turning),), shift=TURN) if layout.turning else None
        mixed = LULinear(len(layout.local))
        steps += [Coupling(layout.count, spline, hidden, mask, conditioner=net), Concat([mixed, turn]) if turn is not None else mixed]
    return Chain([*steps, Elementwise((layout.count,), spline)])


class CoordinateMaps:
    """From latent numbers to internal coordinates in their order: ``chain``. Centres and scales are constants that may be set later.

    Args:
        layout: of the numbers; centre, scale: (3N - 6), checked.
    """

    def __init__(self, layout: Layout, centre: Tensor, scale: Tensor) -> None:
        self.layout = layout
        near, turning = (len(layout.near),), (len(layout.turning),)
        self.lines = fixed(Affine((len(layout.linear),)))
        self.spreads = fixed(Affine(near)) if layout.near else None
        self.shifts = fixed(CircularShift(near)) if layout.near else None
        self.turns = fixed(CircularShift(turning)) if layout.turning else None
        self.set(centre, scale)
        parts: list[Bijector] = [self.lines]
        if self.spreads is not None and self.shifts is not None:
            parts.append(Chain([self.spreads, self.shifts]))
        if self.turns is not None:
            parts.append(self.turns)
        parts += [Identity((3,)), ~Cosine((1,)), Identity((len(layout.rigid) - 4,))]  # the cosine of the polar angle is uniform
        self.chain = Chain([Concat(parts), Permutation(layout.order)])

    @torch.no_grad()
    def set(self, centre: Tensor, scale: Tensor) -> None:
        """Set the constants."""
        stretch = (scale * (REACH / math.pi)).log()
        self.lines.shift.copy_(centre[self.layout.linear])
        self.lines.log_scale.copy_(stretch[self.layout.linear])
        if self.spreads is not None and self.shifts is not None:
            self.spreads.log_scale.copy_(stretch[self.layout.near])
            self.shifts.learned.values["shift"].copy_(centre[self.layout.near])
        if self.turns is not None:
            self.turns.learned.values["shift"].copy_(centre[self.layout.turning])


def fixed(step: B) -> B:
    """The map with its parameters held."""
    for parameter in step.parameters():
        parameter.requires_grad_(False)
    return step


def _beside(step: Bijector, layout: Layout) -> Bijector:
    return Concat([step, Identity((len(layout.turning),))]) if layout.turning else step


def _mask(layout: Layout, number: int) -> list[bool]:
    """A random half of local numbers and of torsions, and in every other layer the rest."""
    generator = torch.Generator().manual_seed(number // 2)
    flags: list[bool] = []
    for size in (len(layout.local), len(layout.turning)):
        rank = torch.randperm(size, generator=generator)
        flags += (rank < (size + 1) // 2).tolist()
    return flags if number % 2 == 0 else [not flag for flag in flags]
