"""The contract of a Riemannian manifold: a set whose geodesics, tangent spaces and volume are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import DomainError
from flowkit.core.shapes import sum_event


class Manifold(Domain):
    """A compact set of events with a metric, given by points and tangent vectors in the coordinates of the event.

    Densities are counted per volume of the manifold. Implement ``contains``, ``safe_point``, ``uniform``, ``volume``,
    ``project``, ``project_tangent``, ``tangent_basis``, ``log`` and ``geodesic_flow``. Where two points have several shortest
    geodesics (their cut locus) ``log`` picks one of them, always the same, and nothing is NaN.

    Attributes:
        intrinsic_dim: dimension d of the manifold, at most the number D of coordinates of an event.
        coordinates: number of values of ``embed``.
    """

    intrinsic_dim: int
    coordinates: int

    @property
    def volume(self) -> float:
        """Volume of the whole manifold in its metric."""
        raise NotImplementedError

    @property
    def log_volume(self) -> float:
        """log ``volume``; minus the log-density of the uniform law."""
        return math.log(self.volume)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the manifold: (*B, *event) -> (*B, *event)."""
        raise NotImplementedError

    def retract(self, x: Tensor) -> Tensor:
        """A smooth map from around the manifold onto it that leaves its points where they are; what solvers call. By default ``project``."""
        return self.project(x)

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The part of v tangent at x: (*B, *event), (*B, *event) -> (*B, *event)."""
        raise NotImplementedError

    def tangent_basis(self, x: Tensor) -> Tensor:
        """A basis of the tangent space at x, orthonormal as vectors of R^D: (*B, *event) -> (*B, D, d). Differentiable in x."""
        raise NotImplementedError

    def squared_norm(self, x: Tensor, v: Tensor) -> Tensor:
        """g_x(v, v) of a tangent vector: (*B, *event), (*B, *event) -> (*B)."""
        return sum_event(v.square(), len(self.event_shape))

    def geodesic_flow(self, x: Tensor, v: Tensor, t: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Where the geodesic from x with velocity v is at time t, () or (*B), and its velocity there: two of (*B, *event)."""
        raise NotImplementedError

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Where the geodesic from x with velocity v is after unit time: (*B, *event)."""
        return self.geodesic_flow(x, v)[0]

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest velocity at x whose geodesic is at y after unit time: (*B, *event), (*B, *event) -> (*B, *event)."""
        raise NotImplementedError

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the shortest geodesic: (*B, *event), (*B, *event) -> (*B)."""
        square = self.squared_norm(x, self.log(x, y))
        apart = square > 0
        return torch.where(apart, torch.where(apart, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))

    def squared_distances(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distances of all pairs, as transport costs: (N, *event), (M, *event) -> (N, M), to some 1e-6 of single precision."""
        raise NotImplementedError

    def geodesic(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        """The shortest geodesic from x0 at t = 0 to x1 at t = 1: t () or (*B) -> (*B, *event)."""
        return self.geodesic_with_velocity(x0, x1, t)[0]

    def geodesic_with_velocity(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """``geodesic`` and its derivative in t: two of (*B, *event)."""
        return self.geodesic_flow(x0, self.log(x0, x1), t)

    def embed(self, x: Tensor) -> Tensor:
        """Smooth coordinates of a point without seams, one to one, which networks read: (*B, *event) -> (*B, coordinates)."""
        return x.flatten(-len(self.event_shape))

    def check(self, x: Tensor, who: str) -> None:
        """Raise DomainError if a point lies off the manifold by more than rounding."""
        inside = self.contains(x, tol=32 * torch.finfo(x.dtype).eps * self.scale)
        if not bool(inside.all()):
            outside = int((~inside).sum())
            raise DomainError(f"{who}: expected points on {self}; got {outside} of {inside.numel()} off it. Put them there with {self}.project(x).")

    def _time(self, t: Tensor | float, like: Tensor) -> Tensor:
        """A time with an axis for each of the event's."""
        time = torch.as_tensor(t, dtype=like.dtype, device=like.device)
        return time.reshape(*time.shape, *([1] * len(self.event_shape)))
