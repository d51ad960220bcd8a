"""The contract of maps into a larger space."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from flowkit.core.registry import INJECTIONS, Registry
from flowkit.core.shapes import Context
from flowkit.core.transform import Transform


class Injection(Transform):
    """A one-to-one map R^d -> R^D, d <= D; ``forward``'s second output is log_volume = 1/2 log det J^T J (*B)."""

    registries: ClassVar[tuple[Registry, ...]] = (INJECTIONS,)

    def project(self, x: Tensor, context: Context = None) -> Tensor:
        """Latent of the point on the image nearest to x, or of the map's own left inverse: (*B, *out_shape) -> (*B, *in_shape)."""
        raise NotImplementedError(f"{self.who} defines no project.")

    def distance(self, x: Tensor, context: Context = None) -> Tensor:
        """Euclidean distance of x from its reconstruction: (*B, *out_shape) -> (*B)."""
        reconstruction, _ = self.forward(self.project(x, context), context)
        return torch.linalg.vector_norm((x - reconstruction).flatten(-len(self.out_shape)), dim=-1)
