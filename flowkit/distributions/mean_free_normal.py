"""The standard normal of particles with their centre of mass at the origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.domain.mean_free import MeanFree
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import sum_event
from flowkit.core.tally import HALF_LOG_2PI


@DISTRIBUTIONS.register("mean_free_normal")
class MeanFreeNormal(Distribution):
    """The standard normal on {x in R^(N x d): sum over particles = 0}, a density per volume of that subspace.

    log p(x) = -|x|^2 / 2 - ((N - 1) d / 2) log(2 pi); minus infinity off the subspace. Invariant under permutations of the
    particles, rotations and reflections: the base of flows whose maps are equivariant and keep the mean. Such maps change
    volumes within the subspace, so their log_dets must be counted there; a map that also acts on the mean must leave it
    alone. A draw is a normal one less its mean.

    Args:
        particles: number N of particles, at least 2.
        dim: coordinates d of each.

    Reference: Köhler, Klein, Noé (2020), Equivariant flows: exact likelihood generative learning for symmetric densities,
    arXiv:2006.02425.

    Example:
        >>> import torch
        >>> from flowkit.distributions import MeanFreeNormal
        >>> round(MeanFreeNormal(2, 1).log_prob(torch.zeros(2, 1)).item(), 4)
        -0.9189
    """

    invariances = frozenset({"permutation", "rotation", "reflection", "sign"})
    _support: MeanFree

    def __init__(self, particles: int, dim: int = 3) -> None:
        super().__init__()
        self._support = MeanFree(particles, dim)
        self.particles, self.dim = self.event_shape = self._support.particles, self._support.dim

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return sum_event(-0.5 * x.square(), 2) - (self.particles - 1) * self.dim * HALF_LOG_2PI

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        noise = torch.randn((*shape, self.particles, self.dim), generator=generator, dtype=self.like.dtype, device=self.like.device)
        return temperature * self._support.project(noise)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MeanFreeNormal]]:
        yield "three_in_plane", cls(3, 2)
        yield "pair", cls(2, 1)
