"""Both directions of a map under one call, the inputs they take, and their Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.surjection import Surjection
from flowkit.core.transform import Bijector
from flowkit.testing._case import Case, traits_of
from flowkit.testing._draws import concrete, draw, draw_context

DRAWS = 99  # seed of what a stochastic map draws


@dataclass(frozen=True)
class Side:
    """One direction of a map with inputs for it."""

    inverse: bool
    value: Tensor
    context: Any

    @property
    def name(self) -> str:
        return "inverse" if self.inverse else "forward"

    def __call__(self, transform: Any, value: Any = None, context: Any = "own") -> tuple[Tensor, Tensor]:
        """Call a transform in this direction, at other inputs where given."""
        used = self.context if isinstance(context, str) else context
        return call(transform, self.value if value is None else value, used, inverse=self.inverse)


def call(transform: Any, value: Tensor, context: Any = None, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Forward or inverse; a stochastic map draws from a generator of a fixed seed."""
    method = transform.inverse if inverse else transform
    generator = torch.Generator().manual_seed(DRAWS) if traits_of(transform).stochastic else None
    return method(value, context, generator=generator)


def has_inverse(transform: Any) -> bool:
    """Whether ``inverse`` may be called."""
    return isinstance(transform, Bijector | Surjection) and transform.traits.inverse != "none"


def sides(transform: Any, case: Case, batch: tuple[int, ...] | None = None) -> list[Side]:
    """The directions a map has, each with inputs from its own domain and one shared context."""
    batch = case.batch if batch is None else batch
    context = draw_context(transform, batch, case)
    found = [Side(False, latents(transform, case, batch), context)]
    if has_inverse(transform):
        found.append(Side(True, data(transform, case, batch), context))
    return found


def latents(transform: Any, case: Case, batch: tuple[int, ...] | None = None) -> Tensor:
    """Points of the domain: (*batch, *in_shape)."""
    return draw(transform.domain, case.batch if batch is None else batch, concrete(transform.in_shape), case)


def data(transform: Any, case: Case, batch: tuple[int, ...] | None = None) -> Tensor:
    """Points of the codomain: (*batch, *out_shape), drawn from the codomain itself and not from the map."""
    batch = case.batch if batch is None else batch
    if not isinstance(transform, Bijector):
        with torch.no_grad():
            return call(transform, latents(transform, case, batch), draw_context(transform, batch, case))[0]
    return draw(transform.codomain, batch, out_event(transform, case), case, offset=10)


def out_event(transform: Any, case: Case) -> tuple[int, ...]:
    """Event shape after ``forward``, open sizes as the map itself gives them."""
    if None not in transform.out_shape:
        return tuple(transform.out_shape)
    with torch.no_grad():
        value, _ = call(transform, latents(transform, case, (1,)), draw_context(transform, (1,), case))
    return tuple(value.shape[1:])


def jacobian(transform: Any, side: Side) -> Tensor:
    """d value / d input, row by row of the batch, over flattened events: (*B, D_out, D_in)."""
    rank_in, rank_out = (len(transform.out_shape), len(transform.in_shape)) if side.inverse else (len(transform.in_shape), len(transform.out_shape))
    point = side.value.detach().requires_grad_()
    with torch.enable_grad():
        value, _ = side(transform, point)
        flat = value.reshape(*value.shape[: value.dim() - rank_out], -1)
        rows = []
        for i in range(flat.shape[-1]):
            (row,) = torch.autograd.grad(flat[..., i].sum(), point, retain_graph=True, materialize_grads=True)
            rows.append(row.reshape(*row.shape[: row.dim() - rank_in], -1))
    return torch.stack(rows, dim=-2)


def tangent_bases(transform: Any, side: Side, value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Orthonormal tangent bases at input and output of a map from or to a manifold, or None for full-dimensional sets.

    A domain of lower dimension than its coordinates offers ``tangent_basis(x) -> (*B, D, k)``; elsewhere it is the identity.
    """
    first, last = (transform.codomain, transform.domain) if side.inverse else (transform.domain, transform.codomain)
    if not (hasattr(first, "tangent_basis") or hasattr(last, "tangent_basis")):
        return None
    return _basis(first, side.value), _basis(last, value.detach())


def _basis(domain: Any, x: Tensor) -> Tensor:
    if hasattr(domain, "tangent_basis"):
        return domain.tangent_basis(x)
    return torch.eye(torch.Size(x.shape[x.dim() - len(domain.event_shape) :]).numel(), dtype=x.dtype)


def log_abs_det(transform: Any, side: Side) -> Tensor:
    """log|det| of the autograd Jacobian, on the tangent spaces where the domain is a manifold: (*B)."""
    matrix = jacobian(transform, side)
    with torch.no_grad():
        bases = tangent_bases(transform, side, side(transform)[0])
    if bases is not None:
        matrix = bases[1].mT @ matrix @ bases[0]
    return torch.linalg.slogdet(matrix).logabsdet


def mixed(value: Tensor, log_det: Tensor) -> Tensor:
    """A scalar that depends on every output with a different weight."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
    others = 0.5 + torch.rand(log_det.shape, generator=generator, dtype=torch.float64).to(log_det.dtype)
    return (weights * value).sum() + (others * log_det).sum()


def tolerance(transform: Any, default: float) -> float:
    """The declared round-trip tolerance of the instance's float64 arithmetic, or the suite's own."""
    return max(default, traits_of(transform).tolerance.get(torch.float64, 0.0))
