"""Four particles in the plane that attract each other in pairs by double wells (DW4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from flowkit.core.registry import TARGETS
from flowkit.core.target import Target
from flowkit.targets._pairs import Pairs


@TARGETS.register("double_well4", "dw4")
class DoubleWell4(Target):
    """log p = -E, E = sum over pairs i < j of 0.9 (d_ij - 4)^4 - 4 (d_ij - 4)^2, for four particles in the plane.

    Each pair is counted once, at temperature 1. The wells of a pair lie at d = 4 -+ 1.49, E = -4.44 each. E(2) symmetric, so
    the density has a finite integral only in the mean-free subspace of dimension 6, and log_normalizer is None. At coinciding
    particles, where the energy has a cusp, the score takes no part of that pair.

    Attributes:
        CENTRE, QUARTIC, QUADRATIC: the constants 4, 0.9 and -4.

    Reference: Koehler, Klein, Noe (2020), Equivariant flows, arXiv:2006.02425 (DW-4: a = 0, b = -4, c = 0.9, d_0 = 4).
    """

    CENTRE: ClassVar[float] = 4.0
    QUARTIC: ClassVar[float] = 0.9
    QUADRATIC: ClassVar[float] = -4.0
    event_shape = (4, 2)
    invariances = frozenset({"rotation", "reflection", "translation", "permutation", "sign"})

    def __init__(self) -> None:
        super().__init__()
        self.pairs = Pairs(4)

    def log_density(self, x: Tensor) -> Tensor:
        square = self.pairs(x)
        apart = square > torch.finfo(x.dtype).tiny
        distance = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
        well = (distance - self.CENTRE).square()
        return -(self.QUARTIC * well.square() + self.QUADRATIC * well).sum(-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DoubleWell4]]:
        yield "standard", cls()
