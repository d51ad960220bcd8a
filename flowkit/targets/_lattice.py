"""Periodic lattices: momenta and the symmetries of a field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive, positive_sizes

Sizes = tuple[int, ...]


def lattice_sizes(size: int | Sequence[int], dims: int, who: str) -> Sizes:
    """Read the sizes of a lattice: an int stands for that size along each of ``dims`` axes."""
    dims = positive(dims, who, "dims")
    if not isinstance(size, list | tuple):
        return (positive(size, who, "size"),) * dims
    sizes = positive_sizes(size, who, "size")
    if len(sizes) != dims:
        raise ConfigError(f"{who}: expected {dims} sizes, one for each of dims={dims} axes; got {size!r}. Pass dims={max(len(sizes), 1)}.")
    return sizes


def squared_momenta(sizes: Sizes) -> np.ndarray:
    """sum over axes of 4 sin^2(k / 2), k = 2 pi n / L: (*sizes), float64, in the order of ``torch.fft.fftn``."""
    total = np.zeros(sizes)
    for axis, size in enumerate(sizes):
        shape = [1] * len(sizes)
        shape[axis] = size
        total = total + (4 * np.sin(np.pi * np.arange(size) / size) ** 2).reshape(shape)
    return total


def lattice_names(sizes: Sizes) -> frozenset[str]:
    """Names of the symmetries of a lattice of those sizes that change a field on it."""
    names = {"lattice_translation"} if max(sizes) > 1 else set()
    names |= {"lattice_reflection"} if max(sizes) > 2 else set()
    return frozenset(names | ({"lattice_rotation"} if _planes(sizes) else set()))


def changed_scalar(name: str, x: Tensor, sizes: Sizes, generator: torch.Generator | None) -> Tensor | None:
    """A scalar field (*B, *sizes) after a random element of that symmetry; None for another name."""
    change = {"lattice_translation": translated, "lattice_reflection": reflected, "lattice_rotation": rotated}.get(name)
    return None if change is None else change(x, sizes, generator)


def translated(x: Tensor, sizes: Sizes, generator: torch.Generator | None) -> Tensor:
    """phi(x) -> phi(x - c), c any lattice vector."""
    return torch.roll(x, [below(size, generator) for size in sizes], axes(sizes))


def reflected(x: Tensor, sizes: Sizes, generator: torch.Generator | None) -> Tensor:
    """The order of the sites along one axis, of three sites or more, reversed."""
    long = [axis for axis, size in zip(axes(sizes), sizes, strict=True) if size > 2]
    return x.flip(long[below(len(long), generator)])


def rotated(x: Tensor, sizes: Sizes, generator: torch.Generator | None) -> Tensor:
    """A turn by 90, 180 or 270 degrees in a plane whose two sizes agree."""
    planes = _planes(sizes)
    return torch.rot90(x, 1 + below(3, generator), planes[below(len(planes), generator)])


def axes(sizes: Sizes) -> list[int]:
    """The axes of the lattice, counted from the end."""
    return list(range(-len(sizes), 0))


def forward_neighbour(x: Tensor, axis: int) -> Tensor:
    """phi(x + mu) for the direction of that axis, periodic."""
    return torch.roll(x, -1, axis)


def backward_neighbour(x: Tensor, axis: int) -> Tensor:
    """phi(x - mu) for the direction of that axis, periodic."""
    return torch.roll(x, 1, axis)


def _planes(sizes: Sizes) -> list[list[int]]:
    """Pairs of axes of one size, two sites or more."""
    found = list(zip(axes(sizes), sizes, strict=True))
    return [[a, b] for i, (a, m) in enumerate(found) for b, n in found[i + 1 :] if m == n > 1]


def below(size: int, generator: torch.Generator | None) -> int:
    """A random number of 0 .. size - 1."""
    return int(torch.randint(size, (), generator=generator, device=None if generator is None else generator.device))
