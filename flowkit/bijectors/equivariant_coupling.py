"""Coupling of two sets of particles that commutes with rotations, reflections, shifts and exchanges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import entry, left
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_number, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets import EGNN


@BIJECTORS.register("equivariant_coupling")
class EquivariantCoupling(Bijector):
    """One of two copies of N particles moves, given the other: y_i = c_i + exp(s_i(c)) (m_i - c_i) + t_i(c), c stays.

    The scale s_i is invariant, within +-bound, and the shift t_i turns with the particles; both come from one ``EGNN`` of c. So the
    map commutes with every rotation, reflection, shift and order of the particles that both copies share, and
    log_det = dim sum_i s_i. It is the layer of augmented flows: one copy holds positions, the other auxiliary points near them; a
    chain moves them in turn. Its log_det is that on the positions relative to their mean as well, since the mean moves along.

    Cost: N^2 hidden^2 a layer of the network, both ways. It starts at the identity but for the network's small initial shift.

    Args:
        particles: N of each copy.
        dim: coordinates of a particle.
        moves: which copy is mapped, 0 or 1.
        hidden: widths; the network has one layer for each, all of the first width.
        bound: largest |s_i|.
        kinds: a whole number for each particle, its kind; only particles of one kind are exchangeable. By default all are.

    Shapes: events (2, N, dim).

    Reference: Midgley et al. (2023), SE(3) equivariant augmented coupling flows, arXiv:2308.10364; the affine form in the frame of a
    single particle.
    """

    labels: Tensor

    def __init__(
        self, particles: int, dim: int = 3, *, moves: int = 0, hidden: Sequence[int] = (32, 32), bound: float = 2.0, kinds: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.particles, self.dim = positive(particles, self.who, "particles"), positive(dim, self.who, "dim")
        self.moves, self.bound = whole_number(moves, self.who, "moves", 0, 2), positive_number(bound, self.who, "bound")
        self.hidden = positive_sizes(hidden, self.who, "hidden")
        if not self.hidden:
            raise ConfigError(f"EquivariantCoupling: expected hidden to have a width for each layer; got {hidden!r}. Pass e.g. (32, 32).")
        self.in_shape = self.out_shape = (2, self.particles, self.dim)
        if kinds is not None and not isinstance(kinds, Sequence):
            raise ConfigError(f"EquivariantCoupling: expected kinds to be a whole number for each particle; got {kinds!r}.")
        self.kinds = kinds
        labels = [0] * self.particles if kinds is None else [whole_number(kind, self.who, "kinds", 0) for kind in kinds]
        if len(labels) != self.particles:
            raise ConfigError(f"EquivariantCoupling: expected a kind for each of {self.particles} particles; got {len(labels)}.")
        self.register_buffer("labels", functional.one_hot(torch.tensor(labels)).to(torch.get_default_dtype()), persistent=False)
        self.net = EGNN(max(labels) + 1, self.hidden[0], len(self.hidden), outputs=1)
        self.traits = Traits(score="closed")

    def _parts(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The copy that moves and the copy that stays, (*B, N, dim) each."""
        return value.select(-3, self.moves), value.select(-3, 1 - self.moves)

    def _joined(self, moved: Tensor, stays: Tensor) -> Tensor:
        return torch.stack([moved, stays] if self.moves == 0 else [stays, moved], dim=-3)

    def _placed(self, moving: Tensor, stays: Tensor, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The moved copy, s (*B, N, 1) and log_det (*B)."""
        ends, raw = self.net.invariants(stays, self.labels)
        scale = self.bound * torch.tanh(raw / self.bound)
        shift = ends - stays
        away = moving - stays
        out = stays + (away - shift) * torch.exp(-scale) if inverse else stays + away * torch.exp(scale) + shift
        return out, scale, (-self.dim if inverse else self.dim) * sum_event(scale, 2)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._move(z, False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._move(x, True)

    def _move(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        moving, stays = self._parts(value)
        out, _, log_det = self._placed(moving, stays, inverse)
        return self._joined(out, stays), log_det

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """s_m' = s_m exp(-s); s_c' = s_c - d/dc (s_m' . y(c) + log_det), one product that shares the network's evaluation."""
        recording = torch.is_grad_enabled()
        own, other = self._parts(score)
        with torch.enable_grad():
            moving, stays = self._parts(value)
            stays = entry(stays, recording)
            out, scale, log_det = self._placed(moving, stays, inverse)
            carried = own * torch.exp(scale.detach() if inverse else -scale.detach())
            (correction,) = torch.autograd.grad((out, log_det), stays, (carried, torch.ones_like(log_det)), retain_graph=True)
            out = self._joined(out, stays)
        after = self._joined(carried, other - correction)
        return left(out, log_det, after, recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, EquivariantCoupling]]:
        yield "plane", cls(3, 2, hidden=(6, 6))
        yield "auxiliary_moves", cls(2, 1, moves=1, hidden=(5,), kinds=(0, 1))
