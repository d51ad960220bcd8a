"""Products of two-dimensional double wells."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import positive, sample_shape
from flowkit.core.target import Target


@TARGETS.register("many_well")
class ManyWell(Target):
    """dim / 2 independent double wells: log p = sum over consecutive pairs (x, y) of -x^4 + 6 x^2 + x / 2 - y^2 / 2.

    2^(dim / 2) modes near x = -1.7 and 1.8; the wells at x > 0 hold 84.431 % of each pair's mass. The integral over x is
    11784.50927, by the trapezoidal rule (exact to rounding for a smooth density that vanishes at the ends); ManyWell(32) has
    log_normalizer 164.695675. Samples of x are exact, by rejection from 0.2 N(-1.7, 0.5^2) + 0.8 N(1.7, 0.5^2), of which 38 %
    are kept. A single double well is ManyWell(2).

    Symmetries: ``normal_signs`` (signs of the y) and, for dim > 2, ``wells`` (order of the pairs).

    Args:
        dim: even number of dimensions.

    Example:
        >>> from flowkit.targets import ManyWell
        >>> round(ManyWell(32).log_normalizer, 5)
        164.69568

    Reference: Midgley et al. (2023), Flow annealed importance sampling bootstrap, arXiv:2208.01893; the double well:
    Noe et al. (2019), Boltzmann generators, arXiv:1812.01729.
    """

    QUARTIC: ClassVar[float] = -1.0
    QUADRATIC: ClassVar[float] = 6.0
    LINEAR: ClassVar[float] = 0.5
    can_sample = True
    like: Tensor

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        dim = positive(dim, "ManyWell", "dim")
        self.dim = dim
        self.event_shape = (dim,)
        if dim % 2:
            raise ConfigError(f"ManyWell: expected an even dim, two for each double well; got {dim}.")
        self.log_normalizer = dim / 2 * (_log_mass(self.QUARTIC, self.QUADRATIC, self.LINEAR) + 0.5 * math.log(2 * math.pi))
        self.invariances = frozenset({"normal_signs", "wells"} if dim > 2 else {"normal_signs"})
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def _well(self, x: Tensor) -> Tensor:
        square = x.square()
        return (self.QUARTIC * square + self.QUADRATIC) * square + self.LINEAR * x

    def log_density(self, x: Tensor) -> Tensor:
        return (self._well(x[..., ::2]) - 0.5 * x[..., 1::2].square()).sum(-1)

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        shape = sample_shape(n, "ManyWell.sample")
        size = (*shape, self.dim // 2)
        wells = self._draw(math.prod(size), generator).reshape(size)
        normals = torch.randn(size, generator=generator, dtype=self.like.dtype, device=self.like.device)
        return torch.stack([wells, normals], dim=-1).flatten(-2)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        """``count`` exact draws of one x, by rejection."""
        options: dict[str, Any] = {"generator": generator, "dtype": self.like.dtype, "device": self.like.device}
        kept = [torch.empty(0, dtype=self.like.dtype, device=self.like.device)]
        while (missing := count - sum(len(part) for part in kept)) > 0:
            tries = int(ENVELOPE * missing) + 64
            right = torch.rand(tries, **options) < RIGHT
            x = torch.randn(tries, **options) * WIDTH + torch.where(right, CENTRE, -CENTRE)
            bound = _log_proposal(x) + math.log(ENVELOPE) + _log_mass(self.QUARTIC, self.QUADRATIC, self.LINEAR)
            kept.append(x[torch.rand(tries, **options).log() < self._well(x) - bound])
        return torch.cat(kept)[:count]

    def symmetry(self, name: str, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        pairs = x.unflatten(-1, (self.dim // 2, 2))
        if name == "wells":
            return pairs.index_select(-2, torch.randperm(self.dim // 2, generator=generator, device=x.device)).flatten(-2)
        if name == "normal_signs":
            signs = 1 - 2 * torch.randint(2, (self.dim // 2,), generator=generator, device=x.device).to(x.dtype)
            return torch.stack([pairs[..., 0], signs * pairs[..., 1]], dim=-1).flatten(-2)
        return None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ManyWell]]:
        yield "one", cls(2)
        yield "four", cls(8)


CENTRE, WIDTH, RIGHT = 1.7, 0.5, 0.8  # the proposal: two normals
ENVELOPE = 2.6  # the density over the proposal's is at most 2.5913, at x = 1.762


def _log_proposal(x: Tensor) -> Tensor:
    parts = [math.log(weight) - 0.5 * ((x - centre) / WIDTH).square() for weight, centre in ((RIGHT, CENTRE), (1 - RIGHT, -CENTRE))]
    return torch.logaddexp(*parts) - math.log(WIDTH * math.sqrt(2 * math.pi))


@functools.cache
def _log_mass(quartic: float, quadratic: float, linear: float) -> float:
    """Log of the integral over one x; the density is below 1e-190 of its peak at the ends."""
    reach, steps = 5.0, 1000
    points = (reach * (2 * i / steps - 1) for i in range(steps + 1))
    return math.log(2 * reach / steps * math.fsum(math.exp((quartic * x * x + quadratic) * x * x + linear * x) for x in points))
