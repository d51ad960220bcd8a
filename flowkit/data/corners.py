"""Heaps of points in the corners of a box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import DATA
from flowkit.core.shapes import positive, positive_number, whole_number
from flowkit.data._dataset import Dataset, Split, _Parts

REACH = 0.85  # where the heaps are centred, of the way from the middle of the box to its corners


@DATA.register("corners")
class Corners(Dataset):
    """Truncated normals near the corners of [-1, 1]^dim, as many points in each: data with hard limits on every side.

    The heaps have centres 0.85 times different corners; where there are more heaps than corners, the next ones stand at the middle of
    faces. Every coordinate is N(centre, noise^2) cut off at -1 and 1, so density is highest next to the walls.

    Args:
        dim: number of coordinates.
        components: number of heaps; at most 2^dim + 2 dim.
        noise: standard deviation before the cut.
        classes: give each point's heap as context, an int64 label.
        train_size, validation_size, test_size: rows of each split.
        seed: of the choice of corners and of the draws.
    """

    license = "none needed: drawn by flowkit"
    source = "drawn by flowkit"

    def __init__(
        self,
        *,
        dim: int = 2,
        components: int = 5,
        noise: float = 0.15,
        classes: bool = False,
        train_size: int = 10_000,
        validation_size: int = 2_000,
        test_size: int = 2_000,
        seed: int = 0,
    ) -> None:
        who = type(self).__name__
        self.dim, self.components, self.noise = positive(dim, who, "dim"), positive(components, who, "components"), positive_number(noise, who, "noise")
        self.classes, self.seed = classes, whole_number(seed, who, "seed", 0)
        self.train_size, self.validation_size = positive(train_size, who, "train_size"), positive(validation_size, who, "validation_size")
        self.test_size = positive(test_size, who, "test_size")
        if dim < 30 and components > 2**dim + 2 * dim:
            raise ConfigError(f"{who}: expected at most {2**dim + 2 * dim} components in {dim} dimensions; got {components}.")

    def centres(self) -> Tensor:
        """Centres of the heaps, (components, dim), float64."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen: list[tuple[float, ...]] = []
        corners = 2**self.dim if self.dim < 30 else self.components
        while len(chosen) < min(self.components, corners):
            signs = torch.randint(2, (self.dim,), generator=generator).mul(2).sub(1).double()
            corner = tuple((REACH * signs).tolist())
            if corner not in chosen:
                chosen.append(corner)
        for face in range(self.components - len(chosen)):
            chosen.append(tuple(REACH * (1.0 - 2.0 * (face % 2)) * (axis == face // 2) for axis in range(self.dim)))
        return torch.tensor(chosen, dtype=torch.float64)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Split:
        """Draw ``n`` further points: x (n, dim), with the heap's labels (n,) if they were asked for."""
        label = torch.arange(n)[torch.randperm(n, generator=generator)] % self.components
        centre = self.centres()[label]
        low, high = (torch.special.ndtr((end - centre) / self.noise) for end in (-1.0, 1.0))
        unit = torch.rand(centre.shape, generator=generator, dtype=torch.float64)
        x = (centre + self.noise * torch.special.ndtri(torch.lerp(low, high, unit))).clamp(-1.0, 1.0).float()
        return Split(x, label) if self.classes else Split(x)

    def _load(self) -> _Parts:
        sizes = (self.train_size, self.validation_size, self.test_size)
        train, validation, test = (self.sample(n, torch.Generator().manual_seed(3 * self.seed + k)) for k, n in enumerate(sizes))
        return _Parts(train, validation, test)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Self]]:
        yield "plane", cls(train_size=60, validation_size=30, test_size=30)
        yield "classes", cls(dim=10, classes=True, train_size=60, validation_size=30, test_size=30)
