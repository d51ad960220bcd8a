"""Synthetic events on a globe."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.core.domain import Sphere
from flowkit.core.registry import DATA
from flowkit.core.shapes import positive
from flowkit.data._dataset import Dataset, Split, _Parts

# (latitude, longitude) in degrees, drawn by hand after the Earth's plate boundaries; no catalogue of events was used
ARCS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((-52, -75), (-20, -71), (4, -79), (18, -105), (40, -125), (59, -150), (52, -178), (50, 157), (35, 141), (12, 126), (-6, 150), (-20, -174), (-42, 174)),
    ((70, -15), (60, -30), (36, -33), (8, -38), (0, -18), (-28, -13), (-54, -2)),
    ((37, 14), (38, 40), (29, 57), (35, 72), (27, 95), (4, 95), (-9, 113)),
)
CLUSTERS: tuple[tuple[float, float, float, float], ...] = ((19.5, -155.5, 900.0, 0.05), (-2.0, 36.0, 120.0, 0.06), (-1.0, -91.0, 700.0, 0.03))
ALONG, BACKGROUND = 300.0, 0.04  # concentration across an arc, a standard deviation of 3.3 degrees; share of uniform events
SPACING = 0.02  # radians between the centres along an arc, a third of that standard deviation


@DATA.register("sphere_events")
class SphereEvents(Dataset):
    """Synthetic events on the globe, in the style of earthquake and volcano catalogues: unit vectors (N, 3) near arcs and clusters.

    A mixture of von Mises-Fisher laws: centres close together along three arcs that follow plate boundaries roughly, three hot
    spots, and 4 % of uniform background. Every number was made up, and no catalogue was used; ``log_density`` is the law itself.
    Against real data the arcs are smooth and the law is the same everywhere on them.

    Args:
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.

    Example:
        >>> from flowkit.data import SphereEvents
        >>> data = SphereEvents(train_size=100)
        >>> data.train.x.shape, bool((data.train.x.norm(dim=1) - 1).abs().max() < 1e-6)
        (torch.Size([100, 3]), True)
    """

    license = "none needed: drawn by flowkit"
    source = "drawn by flowkit; synthetic"

    def __init__(self, *, train_size: int = 10_000, validation_size: int = 2_000, test_size: int = 2_000, seed: int = 0) -> None:
        who = type(self).__name__
        self.train_size, self.seed = positive(train_size, who, "train_size"), seed
        self.validation_size, self.test_size = positive(validation_size, who, "validation_size"), positive(test_size, who, "test_size")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Split:
        """Draw ``n`` further events: x (n, 3) float32."""
        centres, k, weights = _law()
        drawn = torch.multinomial(weights, n, replacement=True, generator=generator)
        # the law on S^2: the cosine's distribution function has a closed inverse, and the way around is uniform
        unit = torch.rand((n, 2), generator=generator, dtype=torch.float64)
        lack = -torch.log1p(unit[:, 0] * torch.expm1(-2 * k[drawn])) / k[drawn]
        across, turn = (lack * (2 - lack)).clamp(min=0).sqrt(), 2 * math.pi * unit[:, 1]
        basis = Sphere(2).tangent_basis(centres[drawn])
        around = turn.cos().unsqueeze(1) * basis[..., 0] + turn.sin().unsqueeze(1) * basis[..., 1]
        x = (1 - lack).unsqueeze(1) * centres[drawn] + across.unsqueeze(1) * around
        uniform = torch.rand(n, generator=generator, dtype=torch.float64) < BACKGROUND
        x = torch.where(uniform.unsqueeze(1), torch.randn((n, 3), generator=generator, dtype=torch.float64), x)
        return Split((x / x.norm(dim=1, keepdim=True)).float())

    def log_density(self, x: Tensor) -> Tensor:
        """The law that the events are drawn from, per steradian: (*B, 3) -> (*B) in nats, float64."""
        centres, k, weights = _law()
        cosine = x.double() @ centres.T
        log_part = k * (cosine - 1) + (k / (-2 * math.pi * torch.expm1(-2 * k))).log() + weights.log()
        events = torch.logsumexp(log_part, dim=-1) + math.log1p(-BACKGROUND)
        return torch.logaddexp(events, torch.full_like(events, math.log(BACKGROUND / (4 * math.pi))))

    def _load(self) -> _Parts:
        sizes = (self.train_size, self.validation_size, self.test_size)
        train, validation, test = (self.sample(n, torch.Generator().manual_seed(3 * self.seed + i)) for i, n in enumerate(sizes))
        return _Parts(train, validation, test, ("x", "y", "z"))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SphereEvents]]:
        yield "small", cls(train_size=64, validation_size=32, test_size=32)


def unit_vectors(places: Sequence[Sequence[float]] | Tensor) -> Tensor:
    """(latitude, longitude) in degrees, (N, 2), to unit vectors (N, 3), float64; z points north, x to longitude 0."""
    latitude, longitude = torch.deg2rad(torch.as_tensor(places, dtype=torch.float64)).unbind(-1)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def _law() -> tuple[Tensor, Tensor, Tensor]:
    """Centres (K, 3), concentrations (K) and weights (K) of the events without the background."""
    sphere, along = Sphere(2), []
    for arc in ARCS:
        for start, end in itertools.pairwise(unit_vectors(arc)):
            count = max(1, round(float(sphere.distance(start, end)) / SPACING))
            t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            along.append(sphere.geodesic(start.expand(count, 3), end.expand(count, 3), t))
    arcs, spots = torch.cat(along), torch.tensor(CLUSTERS, dtype=torch.float64)
    k = torch.cat([torch.full((len(arcs),), ALONG, dtype=torch.float64), spots[:, 2]])
    weights = torch.cat([torch.full((len(arcs),), (1 - float(spots[:, 3].sum())) / len(arcs), dtype=torch.float64), spots[:, 3]])
    return torch.cat([arcs, unit_vectors(spots[:, :2])]), k, weights
