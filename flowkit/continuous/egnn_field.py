"""Velocity fields of particles that commute with rotations, reflections and translations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.continuous._calls import check_call, time_like
from flowkit.core.errors import ConfigError
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, positive, whole_number
from flowkit.core.vector_field import VectorField
from flowkit.nets.egnn import EGNN


@FIELDS.register("egnn_field")
class EGNNField(VectorField):
    """What an E(n)-equivariant graph network moves N particles by, without its mean, as velocity.

    Rotations, reflections and exchanges of particles of one type commute with the field, translations leave it as it is, and the
    centre of mass stays where it is: from a mean-free, invariant base the flow keeps both. It has no divergence of its own.

    Args:
        particles: N.
        dim: D, of the space.
        hidden: width of the networks.
        layers: of the graph network.
        types: type of each particle, 0, 1, ...; default all alike.
        context_features: size of the context's last axis; it is given to every particle.

    Shapes: t () or (*B), x (*B, N, D), context (*B, context_features) -> (*B, N, D).

    Reference: Satorras et al. (2021), E(n) Equivariant Normalizing Flows, arXiv:2105.09016; Koehler et al. (2020), Equivariant Flows,
    arXiv:2006.02425.
    """

    _types: Tensor

    def __init__(
        self, particles: int, dim: int = 3, hidden: int = 32, layers: int = 2, *, types: Sequence[int] | None = None, context_features: int = 0
    ) -> None:
        super().__init__()
        self.particles, self.dim = whole_number(particles, "EGNNField", "particles", 2), positive(dim, "EGNNField", "dim")
        self.hidden, self.layers = positive(hidden, "EGNNField", "hidden"), positive(layers, "EGNNField", "layers")
        self.context_features = whole_number(context_features, "EGNNField", "context_features", 0)
        self.types = None if types is None else tuple(whole_number(kind, "EGNNField", "a type", 0) for kind in types)
        if self.types is not None and len(self.types) != self.particles:
            raise ConfigError(f"EGNNField: expected a type for each of {self.particles} particles; got {len(self.types)}.")
        self.event_shape, self.context_shape = (self.particles, self.dim), (self.context_features,) if self.context_features else None
        kinds = torch.tensor(self.types or (0,) * self.particles)
        self.register_buffer("_types", kinds, persistent=False)
        self.embedding = nn.Embedding(int(kinds.max()) + 1, self.hidden)
        self.net = EGNN(self.hidden + 1 + self.context_features, self.hidden, self.layers)

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        check_call(self, x, context)
        time, kinds = time_like(t, x), self.embedding(self._types)
        parts = [kinds, time[..., None, None].expand(*time.shape, self.particles, 1)]
        if isinstance(context, Tensor):
            parts.append(context.to(x.dtype).unsqueeze(-2).expand(*context.shape[:-1], self.particles, self.context_features))
        batch = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
        v: Tensor = self.net(x, torch.cat([part.expand(*batch, *part.shape[-2:]) for part in parts], dim=-1)) - x
        return v - v.mean(-2, keepdim=True)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, EGNNField]]:
        yield "alike", cls(3, 2, 6)
        yield "two_types", cls(4, 3, 5, 1, types=(0, 0, 1, 1), context_features=2)
