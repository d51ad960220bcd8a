"""Graph networks over particles that commute with rotations, reflections and translations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, whole_number


@NETS.register("egnn")
class EGNN(nn.Module):
    """An E(n)-equivariant graph network on all pairs of particles.

    Each layer, with r_ij = x_i - x_j:

        m_ij = f(h_i, h_j, |r_ij|^2),   x_i <- x_i + 1/(N - 1) sum_j r_ij / (1 + |r_ij|) g(m_ij),   h_i <- h_i + k(h_i, sum_j e(m_ij) m_ij)

    Rotating, reflecting or shifting x does the same to the new x and leaves h; exchanging particles exchanges both.

    Args:
        features: F, numbers at each particle.
        hidden: width of the messages and of the networks.
        layers: number of layers.
        outputs: invariant numbers that ``invariants`` gives for each particle; 0 for none. They start at zero.

    Shapes: x (*B, N, D), h (*B, N, F) or (N, F) -> moved x (*B, N, D). Cost: N^2 hidden^2 a layer.

    Reference: Satorras et al. (2021), E(n) Equivariant Graph Neural Networks, arXiv:2102.09844.
    """

    def __init__(self, features: int, hidden: int = 32, layers: int = 2, *, outputs: int = 0) -> None:
        super().__init__()
        self.features, self.hidden = whole_number(features, "EGNN", "features", 0), positive(hidden, "EGNN", "hidden")
        self.layers = positive(layers, "EGNN", "layers")
        self.outputs = whole_number(outputs, "EGNN", "outputs", 0)
        self.first = nn.Linear(self.features, self.hidden)
        # what the last layer would do to h, nothing reads unless there are outputs
        self.body = nn.ModuleList(_Layer(self.hidden, updates_nodes=self.outputs > 0 or number + 1 < self.layers) for number in range(self.layers))
        self.last = nn.Linear(self.hidden, self.outputs) if self.outputs else None
        if self.last is not None:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self._run(x, h)[0]

    def invariants(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The moved x (*B, N, D), and numbers at each particle that rotations, reflections and shifts leave (*B, N, outputs)."""
        if self.last is None:
            raise ConfigError("EGNN.invariants: the network has no outputs. Build it with outputs=...")
        x, nodes = self._run(x, h)
        return x, self.last(nodes)

    def _run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        nodes = self.first(h)
        for layer in self.body:
            x, nodes = layer(x, nodes)
        return x, nodes

    @classmethod
    def examples(cls) -> Iterator[tuple[str, EGNN]]:
        yield "plain", cls(2, 6)


class _Layer(nn.Module):
    def __init__(self, hidden: int, *, updates_nodes: bool) -> None:
        super().__init__()
        self.from_nodes = nn.Linear(hidden, 2 * hidden)  # the parts of h_i and of h_j in f's first layer
        self.from_distance = nn.Linear(1, hidden, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.along = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
        nn.init.xavier_uniform_(self.along[-1].weight, gain=0.1)  # type: ignore[arg-type]
        self.weight = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid()) if updates_nodes else None
        self.node = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) if updates_nodes else None

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        particles = x.shape[-2]
        own, other = self.from_nodes(h).chunk(2, dim=-1)
        difference = x.unsqueeze(-2) - x.unsqueeze(-3)  # (*B, N, N, D): r_ij
        square = difference.square().sum(-1, keepdim=True)
        messages = self.message(own.unsqueeze(-2) + other.unsqueeze(-3) + self.from_distance(square))
        # a particle's message to itself moves nothing, since r_ii = 0; the shift keeps the root smooth there
        step = self.along(messages) / (1 + (square + 1e-8).sqrt())
        moved = x + (difference * step).sum(-2) / max(particles - 1, 1)
        if self.weight is None or self.node is None:
            return moved, h
        others = 1 - torch.eye(particles, dtype=x.dtype, device=x.device).unsqueeze(-1)
        gathered = (others * self.weight(messages) * messages).sum(-2)
        return moved, h + self.node(torch.cat([h.expand(gathered.shape), gathered], dim=-1))
