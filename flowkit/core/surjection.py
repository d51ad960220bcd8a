"""The contract of maps that lose information in one direction."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from flowkit.core.registry import SURJECTIONS, Registry
from flowkit.core.shapes import Context
from flowkit.core.transform import Transform


class Surjection(Transform):
    """A map with a stochastic or deterministic right inverse.

    The second output of ``inverse`` is its contribution to log p(x), with the sign rule of a log_det;
    ``traits.log_det`` says whether it is exact or a bound.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, table 1.
    """

    registries: ClassVar[tuple[Registry, ...]] = (SURJECTIONS,)

    def inverse(self, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: z (*B, *in_shape) and the likelihood contribution (*B)."""
        return self._call(x, context, generator, inverse=True)
