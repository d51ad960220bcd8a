"""Clusters of Lennard-Jones particles (LJ13, LJ55)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import positive, whole_number
from flowkit.core.target import Target
from flowkit.targets._pairs import Pairs


@TARGETS.register("lennard_jones")
class LennardJones(Target):
    """log p = -E, E = f epsilon sum over pairs i < j of (r / d_ij)^12 - 2 (r / d_ij)^6, plus (o / 2) sum |x_i - centre of mass|^2.

    Two conventions are in use, and likelihoods are not comparable between them. Each pair counted once (f = ``PAIRS_ONCE`` = 1):
    current bgflow, E(n)-equivariant augmented coupling flows. Each pair counted twice, as (i, j) and (j, i) (f = ``PAIRS_TWICE`` = 2):
    the data of equivariant flow matching, DEM, iDEM, adjoint sampling. Lowest energies of LJ13, in (f, o): (1, 0) -44.3268,
    (1, 1) -38.7722, (2, 1) -83.0896.

    E(d) symmetric, so the density has a finite integral only in the mean-free subspace of dimension (particles - 1) dim (with
    o > 0), and log_normalizer is None.

    Numerical limits: nearer than ``CORE`` = 0.1 r a pair's energy goes on as a line in d^2 with the same value and slope, so energies
    and scores are finite even where particles coincide. The energy there is 1e12 f epsilon and more: densities stay zero in
    floating point as before.

    Args:
        particles: N >= 2.
        pair_factor: f, 1 or 2.
        oscillator: o >= 0, stiffness of the harmonic pull to the centre of mass.
        dim: dimension of space.
        epsilon: depth of a pair's well, > 0.
        radius: r > 0, the distance at its bottom.

    Example:
        >>> import torch
        >>> from flowkit.targets import LennardJones
        >>> pair = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])  # -E is 2 epsilon - 1/4
        >>> float(LennardJones(2).log_density(pair))
        1.75

    Reference: Koehler, Klein, Noe (2020), Equivariant flows, arXiv:2006.02425; Akhound-Sadegh et al. (2024), Iterated denoising
    energy matching, arXiv:2402.06121 (pairs counted twice); Wales, Doye (1997), J. Physical Chemistry A 101, 5111 (minima).
    """

    PAIRS_ONCE: ClassVar[int] = 1
    PAIRS_TWICE: ClassVar[int] = 2
    CORE: ClassVar[float] = 0.1
    invariances = frozenset({"rotation", "reflection", "translation", "permutation", "sign"})

    def __init__(self, particles: int, pair_factor: int = 2, oscillator: float = 1.0, *, dim: int = 3, epsilon: float = 1.0, radius: float = 1.0) -> None:
        super().__init__()
        particles, dim = whole_number(particles, "LennardJones", "particles", 2), positive(dim, "LennardJones", "dim")
        pair_factor = positive(pair_factor, "LennardJones", "pair_factor")
        self.particles, self.pair_factor, self.oscillator = particles, pair_factor, oscillator
        self.dim, self.epsilon, self.radius = dim, epsilon, radius
        self.event_shape = (particles, dim)
        if pair_factor not in (self.PAIRS_ONCE, self.PAIRS_TWICE):
            raise ConfigError(
                f"LennardJones: expected pair_factor 1 (each pair once) or 2 (each pair twice); got {pair_factor!r}. Scale energies with epsilon."
            )
        for name, value, least in (("oscillator", oscillator, "0 or more"), ("epsilon", epsilon, "above 0"), ("radius", radius, "above 0")):
            if not (0 < value < float("inf") or (value == 0 and name == "oscillator")):
                raise ConfigError(f"LennardJones: expected {name} to be a finite number, {least}; got {value!r}.")
        if dim == 1:
            self.invariances = self.invariances - {"rotation"}  # a line has no rotations
        self.pairs = Pairs(particles)

    def log_density(self, x: Tensor) -> Tensor:
        square = self.pairs(x) / self.radius**2
        core = self.CORE**2
        inverse_cube = square.clamp(min=core) ** -3
        inside = (core - square).clamp(min=0.0)  # 0 outside the core, where the clamp above does nothing
        slope = 6 * core**-7 - 6 * core**-4  # minus the derivative of s^-6 - 2 s^-3 at s = core
        pair = inverse_cube * (inverse_cube - 2) + slope * inside
        centred = x - x.mean(-2, keepdim=True)
        return -self.pair_factor * self.epsilon * pair.sum(-1) - 0.5 * self.oscillator * centred.square().sum((-2, -1))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LennardJones]]:
        yield "three", cls(3, oscillator=0.5, dim=2)
        yield "lj13", cls(13, cls.PAIRS_ONCE)
