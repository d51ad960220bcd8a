"""What the two-dimensional sets share: seeded splits of any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive
from flowkit.data._dataset import Dataset, Split, _Parts


class Planar(Dataset):
    """Points in the plane, drawn afresh: each split has a seed of its own, so its size changes no other split.

    Implement ``_draw(n, generator) -> (points (n, 2), labels (n,) or None)``.

    Args:
        noise: standard deviation of the isotropic normal noise added to every point, in units of the plane.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    license = "none needed: drawn by flowkit"
    source = "drawn by flowkit"

    def __init__(
        self, *, noise: float = 0.1, train_size: int = 10_000, validation_size: int = 2_000, test_size: int = 2_000, seed: int = 0
    ) -> None:
        who = type(self).__name__
        if not noise >= 0:
            raise ConfigError(f"{who}: expected noise >= 0; got {noise}.")
        self.noise, self.seed = noise, seed
        self.train_size = positive(train_size, who, "train_size")
        self.validation_size = positive(validation_size, who, "validation_size")
        self.test_size = positive(test_size, who, "test_size")

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError(f"{type(self).__name__} defines no _draw.")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Split:
        """Draw ``n`` further points: x (n, 2), with labels (n,) if they were asked for."""
        points, labels = self._draw(n, generator)
        if self.noise:
            points = points + self.noise * normal((n, 2), generator)
        return Split(points, labels)

    def _load(self) -> _Parts:
        sizes = (self.train_size, self.validation_size, self.test_size)
        train, validation, test = (self.sample(n, torch.Generator().manual_seed(3 * self.seed + k)) for k, n in enumerate(sizes))
        return _Parts(train, validation, test, ("x", "y"))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Self]]:
        yield "small", cls(train_size=64, validation_size=32, test_size=32)


class PlanarClasses(Planar):
    """Points in the plane made of several pieces.

    Args:
        classes: give each point's piece as context, an int64 label.
    """

    def __init__(
        self,
        *,
        classes: bool = False,
        noise: float = 0.1,
        train_size: int = 10_000,
        validation_size: int = 2_000,
        test_size: int = 2_000,
        seed: int = 0,
    ) -> None:
        super().__init__(noise=noise, train_size=train_size, validation_size=validation_size, test_size=test_size, seed=seed)
        self.classes = classes

    def sample(self, n: int, generator: torch.Generator | None = None) -> Split:
        drawn = super().sample(n, generator)
        return drawn if self.classes else Split(drawn.x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Self]]:
        yield "small", cls(train_size=64, validation_size=32, test_size=32)
        yield "classes", cls(classes=True, train_size=64, validation_size=32, test_size=32)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform draws on [0, 1), float32 whatever the default dtype."""
    return torch.rand(shape, generator=generator, dtype=torch.float32)


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal draws, float32 whatever the default dtype."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def choose(n: int, pieces: int, generator: torch.Generator | None) -> Tensor:
    """A piece for each point, (n,) int64, all pieces equally likely."""
    return torch.randint(pieces, (n,), generator=generator)


def polar(radius: Tensor, angle: Tensor) -> Tensor:
    """(n,) radii and angles -> (n, 2) points."""
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
