"""Unnormalised densities in the plane."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, nearest
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event
from flowkit.core.target import Target
from flowkit.targets._energies_2d import ENERGIES


@TARGETS.register("energy_2d")
class Energy2D(Target):
    """One of the usual test densities of the plane, by name. r is |x|; log sums are over all parts in braces.

        two_moons         -(r - 2)^2 / 0.08 + log { exp(-(x_0 -+ 2)^2 / 0.18) }
        rings             log { exp(-(r - k)^2 / 0.045) }, k = 1, 2, 3, 4
        banana            -[ (1 - x_0)^2 + 100 (x_1 - x_0^2)^2 ] / 20
        eight_gaussians   log of the sum of N(4 (cos, sin)(k pi / 4), 0.25 I), k = 0 .. 7
        mueller_brown     -V / 20, V the potential of Mueller and Brown: three wells, the reaction path between them curved
        rezende_mohamed_1 .. 4   -U_1 .. -U_4 of the paper on normalizing flows, widths 0.4, 0.6, 0.35 as there

    U_2, U_3 and U_4 go on for ever along x_0; here they end smoothly at |x_0| = 4, by -(|x_0| - 4)^2 / (2 0.1^2) outside. log_normalizer is a
    closed form where there is one, and else from the trapezoidal rule (1e-8).

    Symmetries: those of x_0 -> -x_0 and the like are named ``mirror``; rings are symmetric under all rotations and reflections.

    Args:
        energy: which one.

    Example:
        >>> from flowkit.targets import Energy2D
        >>> round(Energy2D("banana").log_normalizer, 5)  # log(2 pi)
        1.83788

    Reference: Rezende, Mohamed (2015), Variational inference with normalizing flows, arXiv:1505.05770, table 1; Rosenbrock (1960), Computer
    Journal 3, 175; Mueller, Brown (1979), Theoretica Chimica Acta 53, 75.
    """

    event_shape = (2,)

    def __init__(self, energy: str = "two_moons") -> None:
        super().__init__()
        if not isinstance(energy, str) or energy not in ENERGIES:
            raise ConfigError(f"Energy2D: expected energy to be one of {', '.join(ENERGIES)}; got {energy!r}. {nearest(str(energy), ENERGIES)}")
        self.energy = energy
        self.log_normalizer = ENERGIES[energy].log_normalizer()
        self.invariances = frozenset(ENERGIES[energy].invariances)

    def log_density(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "Energy2D.log_density")
        return ENERGIES[self.energy].log_density(x[..., 0], x[..., 1])

    def symmetry(self, name: str, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        return torch.stack([-x[..., 0], x[..., 1]], dim=-1) if name == "mirror" else None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Energy2D]]:
        for energy in ENERGIES:
            yield energy, cls(energy)
