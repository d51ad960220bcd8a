"""Convex polytopes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from flowkit.core.domain._nearest_point import nearest_point
from flowkit.core.domain._polytope_geometry import Inside, inside_of, log_volume
from flowkit.core.domain._reflection import Reflection, by_rows, reflect_in_facets
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, DomainError
from flowkit.core.registry import DOMAINS

RARE = 0.02  # share of the bounding box below which uniform draws come from a walk instead of rejection
POOL = 2048  # points from which such walks start
POOL_STEPS = 5  # steps that made them from the centre, times D^2; 200 at least and 5,000 at most
WALK = 4  # steps of a walk, times D; 16 at least


@DOMAINS.register("polytope")
class Polytope(Domain):
    """The set {G x <= c}, an intersection of half-spaces with an interior.

    ``uniform`` draws by rejection from the bounding box. Where that would waste more than 98 % of the draws it walks 4 D hit-and-run
    steps from a random point of a fixed pool of 2,048, each made by 5 D^2 steps from the centre: uniform up to the mixing of the
    walk. ``log_volume`` is exact, a sum over the vertices. Building one needs scipy, for linear programs.

    Args:
        G: one outward normal a row, (m, D), of any length but zero.
        c: right-hand sides (m).

    Raises:
        ConfigError: the set is empty or flat, or scipy is missing.

    Reference: Lovasz (1999), Hit-and-run mixes fast, Math. Program. 86; Lawrence (1991), Polytope volume computation, Math. Comp. 57.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Polytope
        >>> triangle = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [0.0, 0.0, 1.0])
        >>> triangle.contains(torch.tensor([[0.2, 0.2], [0.8, 0.8]]))
        tensor([ True, False])
        >>> round(triangle.log_volume, 4)      # log(1/2)
        -0.6931
    """

    normals: Tensor
    offsets: Tensor
    centre_buffer: Tensor
    box: Tensor
    pool: Tensor

    def __init__(self, G: Sequence[Sequence[float]] | Tensor, c: Sequence[float] | Tensor) -> None:
        super().__init__()
        self.G, self.c = G, c
        rows, right = torch.as_tensor(G, dtype=torch.float64), torch.as_tensor(c, dtype=torch.float64)
        if rows.dim() != 2 or right.shape != rows.shape[:1] or not bool(torch.isfinite(rows).all() and torch.isfinite(right).all()):
            raise ConfigError(f"Polytope: expected finite G (m, D) and c (m); got shapes {tuple(rows.shape)} and {tuple(right.shape)}.")
        if not bool((rows.norm(dim=1) > 0).all()):
            raise ConfigError("Polytope: expected rows of G that are not zero. Drop the zero rows.")
        self.event_shape = (rows.shape[1],)
        known: Inside = inside_of(*_unit(rows, right))
        self.inner_radius, self.share = known.radius, known.share
        self._log_volume: float | None = None
        for name, value in zip(("normals", "offsets"), _unit(rows, right), strict=True):
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)
        for name, value in (("centre_buffer", known.centre), ("box", known.box)):
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("pool", torch.empty((0, rows.shape[1])), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Polytope:
        """Follow a change of dtype or device from the numbers as given."""
        super()._apply(fn, recurse)
        moved = self.normals
        if moved.device.type != "meta":
            rows, right = torch.as_tensor(self.G, dtype=torch.float64), torch.as_tensor(self.c, dtype=torch.float64)
            self.normals, self.offsets = (part.to(moved) for part in _unit(rows, right))
        return self

    @property
    def bounded(self) -> bool:
        """Whether every coordinate has two ends."""
        return bool(torch.isfinite(self.box).all())

    @property
    def scale(self) -> float:
        ends = self.box[torch.isfinite(self.box)]
        return max([1.0, float(self.offsets.abs().max()), *(float(end) for end in ends.abs())])

    @property
    def centre(self) -> Tensor:
        """Centre of the largest ball inside, (D,)."""
        return self.centre_buffer

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume, in float64 from the vertices; worked out once."""
        if not self.bounded:
            return math.inf
        if self._log_volume is None:
            rows, right = _unit(torch.as_tensor(self.G, dtype=torch.float64), torch.as_tensor(self.c, dtype=torch.float64))
            self._log_volume = log_volume(rows.cpu(), right.cpu(), self.centre_buffer.double().cpu())
        return self._log_volume

    def slack(self, x: Tensor) -> Tensor:
        """Distance to each facet's plane, positive inside: (*B, D) -> (*B, m)."""
        return self.offsets.to(x.dtype) - x @ self.normals.to(x.dtype).mT

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return (self.slack(x) >= -tol).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        return self.centre_buffer.to(x.dtype).expand_as(x)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        if not self.bounded:
            raise DomainError("Polytope.uniform: the polytope is unbounded. Add the missing facets.")
        return self._by_rejection(n, generator) if self.share >= RARE else self._by_walk(n, generator)

    def _by_rejection(self, n: int, generator: torch.Generator | None) -> Tensor:
        low, high = self.box
        kept: list[Tensor] = []
        while (missing := n - sum(len(part) for part in kept)) > 0 or not kept:
            draws = torch.rand((int(1.2 * missing / self.share) + 16, len(low)), generator=generator, dtype=low.dtype, device=low.device)
            points = low + (high - low) * draws
            kept.append(points[self.contains(points)])
        return torch.cat(kept)[:n]

    def _by_walk(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Points of the pool, drawn at random and walked on."""
        if not len(self.pool):  # float64 and a seed of its own, so that every copy of the set has the same one
            made = copy.deepcopy(self).cpu().double()
            steps = min(max(POOL_STEPS * self.box.shape[1] ** 2, 200), 5_000)
            start = made.centre_buffer.expand(POOL, -1)
            self.pool = made._walked(start, steps, torch.Generator().manual_seed(0)).to(self.box)
        at = torch.randint(POOL, (n,), generator=generator, device=self.pool.device)
        return self._walked(self.pool[at], max(16, WALK * self.box.shape[1]), generator)

    def _walked(self, x: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Hit-and-run: to a uniform point of the chord in a uniform direction, again and again; keeps the uniform law."""
        slack, tiny = self.slack(x), torch.finfo(x.dtype).tiny
        for _ in range(count):
            way = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            speed = way @ self.normals.mT
            reach = slack.clamp(min=0.0) / torch.where(speed == 0, tiny, speed)
            ahead = torch.where(speed > 0, reach, torch.inf).amin(-1, keepdim=True)
            behind = torch.where(speed < 0, reach, -torch.inf).amax(-1, keepdim=True)
            at = torch.lerp(behind, ahead, torch.rand(ahead.shape, generator=generator, dtype=x.dtype, device=x.device))
            x, slack = x + at * way, slack - at * speed
        return self._held(x)

    def _held(self, x: Tensor) -> Tensor:
        """Points outside by rounding, drawn towards the centre until they are inside by a rounding."""
        slack, most = self.slack(x), self.slack(self.centre_buffer.to(x.dtype))
        with torch.no_grad():
            rounding = (x.shape[-1] + 8) * torch.finfo(x.dtype).eps * (x.abs().amax(-1, keepdim=True) * x.shape[-1] ** 0.5 + self.offsets.abs().to(x.dtype))
            margin = torch.minimum(rounding, 0.5 * most)
            share = torch.where(slack < margin, (most - margin) / (most - slack), 1.0).amin(-1, keepdim=True)
        centre = self.centre_buffer.to(x.dtype)
        return torch.where(share < 1, centre + share * (x - centre), x)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the polytope: (*B, D) to itself."""
        flat = x.reshape(-1, x.shape[-1])
        return self._held(nearest_point(flat, self.normals.to(x.dtype), self.offsets.to(x.dtype), self.scale).reshape(x.shape))

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """Mirror the step x -> x + dx in the facets it meets, one after the other."""
        normals = self.normals.to(x.dtype)

        def fold(start: Tensor, step: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor]:
            end, carry, hits = reflect_in_facets(start, step, self.slack, normals)
            return self._held(end), carry, hits

        return by_rows(fold, x, dx)

    def __repr__(self) -> str:
        return f"Polytope({len(self.normals)} facets, dim={self.event_shape[0]})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Polytope]]:
        yield "trapezium", cls([[-1.0, 0.0], [0.0, -2.0], [1.0, 1.0], [0.0, 1.0]], [0.5, 1.0, 1.0, 0.75])
        yield "octahedron", cls([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)], [1.0] * 8)


def _unit(rows: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length one: (m, D), (m)."""
    size = rows.norm(dim=1)
    return rows / size.unsqueeze(-1), right / size
