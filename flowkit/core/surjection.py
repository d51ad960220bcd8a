"""The contract of maps that lose information in one direction, and of maps that draw."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from flowkit.core.registry import SURJECTIONS, Registry
from flowkit.core.shapes import Context
from flowkit.core.traits import Traits
from flowkit.core.transform import Transform


class Surjection(Transform):
    """A map of which at least one direction draws random numbers.

    ``forward`` is a sample of p(x|z), or a function; ``inverse`` a sample of q(z|x), or a function. The second output of
    ``inverse`` is the contribution to log p(x), with the sign rule of a log_det: log p(x|z) - log q(z|x) at the matched pair,
    in the limit where one of them is a function; ``forward`` returns minus that. If ``inverse`` draws, the sum is the log of an
    unbiased estimate of p(x), so its mean is a lower bound of log p(x); if only ``forward`` draws, it is log p(x) itself.

    A subclass sets ``draws`` and, by it, ``traits``: ``log_det="bound"`` if "inverse" is in ``draws``, and ``stochastic=True``.
    ``~f`` turns one around, which serves both of a pair (slice and augment, absolute value and random sign).

    Attributes:
        draws: the directions, "forward" and "inverse", that draw.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, equations 2 to 6 and table 1.
    """

    registries: ClassVar[tuple[Registry, ...]] = (SURJECTIONS,)
    draws: frozenset[str] = frozenset({"inverse"})
    traits = Traits(log_det="bound", stochastic=True)

    def inverse(self, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: z (*B, *in_shape) and the likelihood contribution (*B)."""
        return self._call(x, context, generator, inverse=True)

    def __invert__(self) -> Surjection:
        """``~f``: the two directions exchanged."""
        from flowkit.core.algebra.inverse_surjection import InverseSurjection

        return InverseSurjection(self)
