"""Dropping part of the event."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import as_shape, positive, positive_sizes, sum_event, whole_number
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits
from flowkit.nets import MLP


@SURJECTIONS.register("slice")
class Slice(Surjection):
    """x = the first ``keep`` entries of z along event axis 0; the inverse draws the rest from a normal that has seen x.

    The contribution of ``inverse`` is -log q(rest|x). ``~Slice`` is the inference form: it drops part of the data from the
    latent, models it by that normal, and has an exact likelihood. ``Augment`` is the map by its other usual name: with it
    last a flow runs in more dimensions than the data have.

    Args:
        shape: event shape of z.
        keep: entries along event axis 0 that stay.
        hidden: widths of the net from (x, context) to mean and log-scale of the rest.
        context_features: size of the context's last axis.
        activation: of the net.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, table 2; Huang et al. (2020), Augmented Normalizing
    Flows, arXiv:2002.07101; Chen et al. (2020), VFlow, arXiv:2002.09741.
    """

    def __init__(
        self, shape: int | Sequence[int], keep: int, *, hidden: Sequence[int] = (64, 64), context_features: int = 0, activation: str = "silu"
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.keep, self.hidden = shape, positive(keep, "Slice", "keep"), positive_sizes(hidden, self.who, "hidden")
        self.context_features, self.activation = context_features, activation
        self.in_shape = as_shape(shape, "Slice")
        if None in self.in_shape or not self.in_shape:
            raise ConfigError(f"Slice: expected a shape of known sizes with at least one axis; got {shape!r}.")
        if not self.keep < int(self.in_shape[0] or 0):
            raise ShapeError(f"Slice: expected keep < {self.in_shape[0]}, the size of event axis 0; got {self.keep}.")
        self.out_shape = (self.keep, *self.in_shape[1:])
        self._rest = tuple(int(size) for size in (int(self.in_shape[0] or 0) - self.keep, *self.in_shape[1:]) if size is not None)
        self.context_shape = (context_features,) if context_features else None
        sizes = torch.Size([int(size) for size in self.out_shape if size is not None])
        self.net = MLP(sizes.numel(), 2 * torch.Size(self._rest).numel(), self.hidden, context_features=context_features, activation=activation)
        nn.init.zeros_(self.net.last.weight)
        nn.init.zeros_(self.net.last.bias)
        self.traits = Traits(log_det="bound", stochastic=True, smooth=activation not in ("relu", "leaky_relu"))

    def _normal(self, x: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of the rest: (*B, *rest) each."""
        flat = x.flatten(-len(self.out_shape))
        mean, log_scale = self.net(flat, context).to(x.dtype).unflatten(-1, (2, torch.Size(self._rest).numel())).unbind(-2)
        return mean.unflatten(-1, self._rest), log_scale.unflatten(-1, self._rest)

    def _log_prob(self, noise: Tensor, log_scale: Tensor) -> Tensor:
        return sum_event(-0.5 * noise.square() - log_scale - 0.5 * math.log(2 * math.pi), len(self._rest))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, rest = z.split([self.keep, self._rest[0]], dim=-len(self.in_shape))
        mean, log_scale = self._normal(x, context)
        return x, self._log_prob((rest - mean) * (-log_scale).exp(), log_scale)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._normal(x, context)
        noise = torch.randn(mean.shape, generator=generator, dtype=x.dtype, device=x.device)
        rest = mean + log_scale.exp() * noise
        return torch.cat([x, rest], dim=-len(self.in_shape)), -self._log_prob(noise, log_scale)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Slice]]:
        yield "vector", cls(3, 1, hidden=(8,))
        yield "conditional", cls((4,), 2, hidden=(8,), context_features=2)
        yield "image", cls((2, 2, 2), 1, hidden=(8,))
