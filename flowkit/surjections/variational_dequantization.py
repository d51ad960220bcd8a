"""Variational dequantization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.domain.integers import Integers
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import show, whole_number
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits
from flowkit.surjections._quantize import quantize


@SURJECTIONS.register("variational_dequantization")
class VariationalDequantization(Surjection):
    """x = floor(z), clipped to 0 .. levels - 1; the inverse adds noise from a flow that has seen x: z = x + u, u ~ q(u|x).

    The contribution of ``inverse`` is -log q(u|x). The flow sees x scaled to [-1/2, 1/2) as its context.

    Args:
        levels: number of values.
        noise: conditional flow on the unit box, of x's shape, ``context_shape`` (or ``context_features``) that of x.

    Reference: Ho et al. (2019), Flow++, arXiv:1902.00275, section 3.1.
    """

    traits = Traits(log_det="bound", stochastic=True, smooth=False, compiles=False)

    def __init__(self, levels: int, noise: Flow) -> None:
        super().__init__()
        self.levels, self.noise = whole_number(levels, "VariationalDequantization", "levels", 2), noise
        self.in_shape = self.out_shape = noise.event_shape
        if noise.context_shape != noise.event_shape:
            raise ShapeError(f"VariationalDequantization: expected noise with context {show(noise.event_shape)}, its own shape; got {noise.context_shape}.")
        edges = torch.tensor([0.0, 1.0, -0.01, 1.01]).reshape(4, *([1] * len(noise.event_shape))).expand(4, *_sizes(noise))
        if noise.domain.contains(edges).tolist() != [True, True, False, False]:
            raise ConfigError("VariationalDequantization: expected noise on the unit box. Build it with support=Box(0.0, 1.0, dim).")
        self._codomain = Integers(levels, tuple(noise.event_shape))

    def _see(self, x: Tensor) -> Tensor:
        return x / self.levels - 0.5

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = quantize(z, self.levels)
        u = z - x
        # a latent beyond the grid is clipped, and is never met by the inverse: any noise stands for it
        return x, self.noise.log_prob(torch.where((u >= 0) & (u <= 1), u, 0.5), self._see(x), generator=generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        u, log_prob = self.noise.sample_and_log_prob((), self._see(x), generator)
        # u may round to 1, where x + u would be the next level
        below = torch.nextafter(x + 1, x)
        return torch.minimum(x + u, below), -log_prob

    @classmethod
    def examples(cls) -> Iterator[tuple[str, VariationalDequantization]]:
        box = {"name": "box", "low": 0.0, "high": 1.0, "dim": 2}
        affine = {"name": "affine", "shape": (2,), "context_features": 2}
        base = {"name": "standard_normal", "shape": (2,)}
        yield "affine", cls(3, build({"name": "flow", "base": base, "bijector": affine, "support": box}, Flow))


def _sizes(flow: Flow) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in flow.event_shape)
