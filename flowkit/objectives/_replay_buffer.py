"""A store of weighted points to train on again, drawn in proportion to their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReplayBuffer(nn.Module):
    """The last ``capacity`` weighted points; all of it is buffers, so a checkpoint holds it.

    A weight refers to p^alpha q^(1 - alpha) with q the flow as it was: log q is kept beside it, and once the flow has moved, the weight is
    corrected by (q_new / q_old)^(1 - alpha).

    Args:
        capacity: points kept; the oldest make room.
        event_shape: of a point.
    """

    points: Tensor
    log_weights: Tensor
    log_probs: Tensor
    written: Tensor

    def __init__(self, capacity: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("points", torch.zeros((capacity, *event_shape)))
        self.register_buffer("log_weights", torch.full((capacity,), -torch.inf))  # an empty place has weight zero
        self.register_buffer("log_probs", torch.zeros(capacity))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))  # points ever added

    def __len__(self) -> int:
        """Points held."""
        return min(int(self.written), self.capacity)

    @torch.no_grad()
    def add(self, points: Tensor, log_weights: Tensor, log_probs: Tensor) -> None:
        """Store points (N, *event) with log weights and log q, each (N,), over the oldest.

        Points of weight zero, or with a NaN or an infinity anywhere, are left out.
        """
        self._follow(points, log_probs)
        kept = torch.isfinite(log_weights) & torch.isfinite(log_probs) & torch.isfinite(points.flatten(1)).all(1)
        points, log_weights, log_probs = (part[kept][-self.capacity :] for part in (points, log_weights, log_probs))
        places = (self.written + torch.arange(len(points), device=points.device)) % self.capacity
        self.points[places], self.log_weights[places], self.log_probs[places] = points, log_weights.to(self.log_weights), log_probs.to(self.log_probs)
        self.written += len(points)

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Places (n,) of points drawn one after another without replacement, each in proportion to the weights left; all, where fewer have a weight.

        The n largest of log w + Gumbel noise are such a draw.
        """
        alive = int(torch.isfinite(self.log_weights).sum())
        noise = torch.empty_like(self.log_weights, dtype=torch.float64).exponential_(generator=generator)
        keys = self.log_weights - noise.clamp_min(torch.finfo(torch.float64).tiny).log()
        return keys.topk(min(n, alive)).indices

    @torch.no_grad()
    def refer(self, places: Tensor, log_probs: Tensor, alpha: float) -> Tensor:
        """Let the weights of points refer to the flow as it is: log w += (1 - alpha) (log q_new - log q_old).

        Args:
            places: (n,). log_probs: log q_new of the points there (n,); a point where it is not finite loses its weight.

        Returns:
            what was added to the log weights (n,).
        """
        change = (1 - alpha) * (log_probs.to(self.log_probs) - self.log_probs[places])
        change = torch.where(torch.isfinite(change), change, torch.full_like(change, -torch.inf))
        self.log_weights[places] += change
        self.log_probs[places] = torch.where(torch.isfinite(log_probs), log_probs.to(self.log_probs), self.log_probs[places])
        return change

    def _follow(self, points: Tensor, log_probs: Tensor) -> None:
        """Take the flow's dtype and device, at the first points in another."""
        if (self.points.dtype, self.points.device) != (points.dtype, points.device):
            self.points = self.points.to(points)
            self.log_weights, self.log_probs, self.written = self.log_weights.to(log_probs), self.log_probs.to(log_probs), self.written.to(points.device)
