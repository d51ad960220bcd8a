"""U(1) lattice gauge theory in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.domain.box import Box
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event, positive, sample_shape
from flowkit.core.target import Target
from flowkit.targets._gauge import TURN, changed_links, links_inside, log_partition, plaquette_sums, wrapped
from flowkit.targets._gauge_draws import drawn_links
from flowkit.targets._scalars import at_least_zero


@TARGETS.register("u1_lattice")
class U1Lattice(Target):
    """Angles on the links of a periodic L x L lattice: log p = beta sum_x cos P(x), theta in [0, 2 pi).

    Event (2, L, L): theta_mu at x = (row, column), mu = 0 the link from x to the next row, mu = 1 that to the next column, and
    P(x) = theta_0(x) + theta_1(x + 0) - theta_0(x + 1) - theta_1(x). With V = L^2 plaquettes, whose sum is a multiple of 2 pi,

        Z = (2 pi)^(2 V) sum over all integers n of I_n(beta)^V.

    log_density is periodic and may be called with angles outside the domain.

    Symmetries: ``gauge``, ``center`` (the same angle added to all links of one direction that cross a line), ``charge_conjugation``
    (theta -> -theta), ``lattice_translation``, ``lattice_reflection``, ``lattice_rotation``.

    Args:
        size: L, sites along each axis.
        beta: inverse coupling, >= 0.

    Example:
        >>> from flowkit.targets import U1Lattice
        >>> round(U1Lattice(4, beta=1.0).log_normalizer, 4)
        62.5867

    Reference: Kanwar et al. (2020), Equivariant flow-based sampling for lattice gauge theory, arXiv:2003.06413.
    """

    can_sample = True

    def __init__(self, size: int, beta: float) -> None:
        super().__init__()
        sites = positive(size, "U1Lattice", "size")
        self.size, self.beta = sites, at_least_zero(beta, "U1Lattice", "beta")
        self.event_shape: tuple[int, ...] = (2, sites, sites)
        self.log_normalizer = log_partition(sites**2, self.beta)
        self.box = Box(0.0, TURN, self.event_shape)
        several = {"center", "lattice_translation", "lattice_reflection", "lattice_rotation"} if sites > 1 else {"center", "lattice_rotation"}
        self.invariances = frozenset({"charge_conjugation"} | several | ({"gauge"} if sites > 1 else set()))

    @property
    def domain(self) -> Box:
        return self.box

    def log_density(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "U1Lattice.log_density")
        return self.beta * plaquette_sums(x).cos().sum((-2, -1))

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Exact draws; cost L^2 rejection steps, each for all draws at once."""
        shape = sample_shape(n, "U1Lattice.sample")
        like = self.box.low_buffer
        drawn = drawn_links(math.prod(shape), self.event_shape[-1], self.beta, generator, like)
        return links_inside(drawn.to(like.dtype)).reshape(*shape, *self.event_shape)

    def plaquettes(self, x: Tensor) -> Tensor:
        """P(x), wrapped into [-pi, pi): (*B, 2, L, L) -> (*B, L, L)."""
        check_event(x, self.event_shape, "U1Lattice.plaquettes")
        return wrapped(plaquette_sums(x))

    def topological_charge(self, x: Tensor) -> Tensor:
        """Q = sum of the wrapped plaquettes over 2 pi, an integer: (*B, 2, L, L) -> (*B), of the dtype of x."""
        return (self.plaquettes(x).sum((-2, -1)) / TURN).round()

    def gauge_transform(self, x: Tensor, alpha: Tensor) -> Tensor:
        """theta_mu(x) -> alpha(x) + theta_mu(x) - alpha(x + mu) mod 2 pi.

        Args:
            x: links (*B, 2, L, L).
            alpha: an angle at each site (*B, L, L), or (L, L) for all events.
        """
        check_event(x, self.event_shape, "U1Lattice.gauge_transform")
        check_event(alpha, self.event_shape[1:], "U1Lattice.gauge_transform, alpha")
        shift = torch.stack([alpha - alpha.roll(-1, -2), alpha - alpha.roll(-1, -1)], dim=-3)
        return links_inside(x + shift)

    def symmetry(self, name: str, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        if name == "gauge":
            angles = torch.rand(self.event_shape[1:], generator=generator, dtype=x.dtype, device=x.device)
            return self.gauge_transform(x, TURN * angles)
        return changed_links(name, x, generator)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, U1Lattice]]:
        yield "weak", cls(4, 1.0)
        yield "strong", cls(3, 3.0)
