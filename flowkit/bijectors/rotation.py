"""Products of plane rotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import identity_like, times
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive
from flowkit.core.traits import Traits
from flowkit.core.transform import Transform
from flowkit.numerics.value_cache import ValueCache


@BIJECTORS.register("rotation")
class Rotation(LinearMap):
    """x = G_m ... G_1 z with Givens rotations: G turns plane (i, j) by a learned angle; log_det = 0.

    x_i = cos(t) z_i - sin(t) z_j and x_j = sin(t) z_i + cos(t) z_j. All D (D - 1) / 2 planes reach every rotation. Starts as the identity.
    Neighbouring planes that share no coordinate turn at once: the default order takes D - 1 such rounds (D if D is odd), each O(D).
    Without a context they are multiplied once a call, O(D^3), and the product is kept until the angles change where no gradient
    flows into them; then either direction costs one product.

    Args:
        features: D, at least 2.
        planes: pairs (i, j) in the order they turn; default every pair once.
        context_features: size of the context's last axis, 0 for none; the angles then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Golub and Van Loan (2013), Matrix computations, 4th edition, section 5.1.8.
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    partner: Tensor
    plane_of: Tensor
    turn: Tensor

    def __init__(self, features: int, *, planes: Sequence[tuple[int, int]] | None = None, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        features = positive(features, "Rotation", "features")
        if features < 2:
            raise ConfigError("Rotation: expected features >= 2; got 1. A single coordinate has no plane to turn in; use Identity.")
        pairs = _every_pair(features) if planes is None else [(int(i), int(j)) for i, j in planes]
        if not pairs or any(i == j or not (0 <= i < features and 0 <= j < features) for i, j in pairs):
            raise ConfigError(f"Rotation: expected planes to be pairs of distinct coordinates 0 .. {features - 1}; got {planes}.")
        super().__init__(features, {"angles": torch.zeros(len(pairs))}, bias=False, context_features=context_features, hidden=hidden)
        self.features, self.planes = features, planes
        rounds = _disjoint(pairs)
        partner = torch.arange(features).repeat(len(rounds), 1)  # a coordinate at rest is its own partner, with angle 0
        plane_of, turn = torch.full_like(partner, len(pairs)), torch.zeros_like(partner)
        for k, members in enumerate(rounds):
            for number, (i, j) in members:
                partner[k, i], partner[k, j], turn[k, i], turn[k, j] = j, i, -1, 1
                plane_of[k, i] = plane_of[k, j] = number
        self.register_buffer("partner", partner, persistent=False)
        self.register_buffer("plane_of", plane_of, persistent=False)
        self.register_buffer("turn", turn, persistent=False)
        self._cache = ValueCache()

    def _turned(self, angles: Tensor, value: Tensor, *, back: bool) -> Tensor:
        """The value (*B, D) after all rounds, in one order or the other."""
        angles = torch.cat([angles, torch.zeros_like(angles[..., :1])], dim=-1)
        rounds = range(self.partner.shape[0])
        for k in reversed(rounds) if back else rounds:
            angle = angles.index_select(-1, self.plane_of[k])
            sine = angle.sin() * (-self.turn[k] if back else self.turn[k])
            value = value * angle.cos() + value.index_select(-1, self.partner[k]) * sine
        return value

    def _product(self, angles: Tensor) -> tuple[Tensor]:
        """The product of all rotations (D, D)."""
        return (self._turned(angles, identity_like(angles, self.features), back=False).mT,)

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(value[..., 0])
        if self.context_features:
            return self._turned(parts["angles"], value, back=False), zero
        return times(self._cache.get(self._product, parts["angles"])[0], value), zero

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(value[..., 0])
        if self.context_features:
            return self._turned(parts["angles"], value, back=True), zero
        return times(self._cache.get(self._product, parts["angles"])[0].mT, value), zero

    def _times_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        return self._solve(parts, value)[0]

    def _solve_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        return self._times(parts, value)[0]

    def _pairs(self) -> list[tuple[int, int]]:
        return _every_pair(self.features) if self.planes is None else [(i, j) for i, j in self.planes]

    def merge(self, following: Transform) -> Transform | None:
        outer = self._mergeable(following)
        if outer is None:
            return None
        angles = torch.cat([self.learned.values["angles"], outer.learned.values["angles"]])
        return Rotation(self.features, planes=self._pairs() + outer._pairs())._filled(angles=angles)

    def inverted(self) -> Rotation | None:
        if self.context_features:
            return None
        return Rotation(self.features, planes=self._pairs()[::-1])._filled(angles=-self.learned.values["angles"].flip(0))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Rotation]]:
        yield "every_plane", cls(4)
        yield "conditional", cls(3, context_features=2)
        yield "two_planes", cls(3, planes=((0, 2), (2, 1)))


def _every_pair(features: int) -> list[tuple[int, int]]:
    """Every pair once, in rounds of disjoint pairs: all but the first seat move round a table (the circle method)."""
    seats = list(range(features + features % 2))  # with an odd number one seat stays empty
    pairs = []
    for _ in range(len(seats) - 1):
        facing = [sorted((seats[i], seats[-1 - i])) for i in range(len(seats) // 2)]
        pairs += [(i, j) for i, j in facing if j < features]
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return pairs


def _disjoint(pairs: list[tuple[int, int]]) -> list[list[tuple[int, tuple[int, int]]]]:
    """Numbered pairs in groups of neighbours that share no coordinate."""
    rounds: list[list[tuple[int, tuple[int, int]]]] = []
    busy: set[int] = set(pairs[0])
    for number, pair in enumerate(pairs):
        if not rounds or busy & set(pair):
            rounds.append([])
            busy = set()
        rounds[-1].append((number, pair))
        busy |= set(pair)
    return rounds
