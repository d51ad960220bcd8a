"""Permutations of event axis 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_orthogonal
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("permutation")
class Permutation(Bijector):
    """x_i = z_order[i] along event axis 0; log_det = 0.

    Args:
        order: a permutation of 0 .. D - 1.
        rank: number of event axes; 3 permutes the channels of an image.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Permutation
        >>> Permutation.reverse(3)(torch.tensor([1.0, 2.0, 3.0]))[0].tolist()
        [3.0, 2.0, 1.0]
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    gather: Tensor
    scatter: Tensor

    def __init__(self, order: Sequence[int] | Tensor, *, rank: int = 1) -> None:
        super().__init__()
        self.order = tuple(int(i) for i in (order.tolist() if isinstance(order, Tensor) else order))
        self.rank = positive(rank, "Permutation", "rank")
        if sorted(self.order) != list(range(len(self.order))) or not self.order:
            raise ConfigError(f"Permutation: expected a permutation of 0 .. D - 1; got {self.order}.")
        self.in_shape = self.out_shape = (len(self.order), *([None] * (self.rank - 1)))
        gather = torch.tensor(self.order)
        self.register_buffer("gather", gather, persistent=False)
        self.register_buffer("scatter", gather.argsort(), persistent=False)

    @classmethod
    def reverse(cls, features: int, *, rank: int = 1) -> Permutation:
        """The order turned around."""
        return cls(tuple(reversed(range(features))), rank=rank)

    @classmethod
    def random(cls, features: int, *, seed: int = 0, rank: int = 1) -> Permutation:
        """A random order, the same for the same seed (what FrEIA's PermuteRandom does); torch's global generator is not touched."""
        return cls(torch.randperm(features, generator=torch.Generator().manual_seed(seed)), rank=rank)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z.index_select(-self.rank, self.gather), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return x.index_select(-self.rank, self.scatter), zeros_log_det(x, self.in_shape)

    _carry = carry_orthogonal

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Permutation) or following.in_shape != self.in_shape:
            return None
        order = [self.order[i] for i in following.order]
        if order == list(range(len(order))):
            from flowkit.core.algebra import Identity

            return Identity(self.in_shape)
        return Permutation(order, rank=self.rank).to(self.gather.device)

    def inverted(self) -> Permutation:
        return Permutation(self.scatter, rank=self.rank).to(self.gather.device)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Permutation]]:
        yield "reverse", cls.reverse(3)
        yield "channels", cls((2, 0, 1), rank=3)
