"""Mirroring straight paths at the boundary of a convex set: what domains share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import DomainError

MAX_HITS = 256  # mirrors a path may meet in one step; grazing paths meet dozens


@dataclass(frozen=True)
class Reflection:
    """A step x -> x + dx folded back into a convex set, wherever it meets the boundary.

    Args:
        x: where the folded step ends, (*B, *event); inside by ``contains(x, tol=0)``.
        carry: v -> R^T v, (*B, *event) to itself: takes velocities at the folded end back to the unfolded line, R being the
            product of the mirrors met, an orthogonal matrix per event.
        hits: number of mirrors met, (*B) int64, counted up to ``MAX_HITS``.
    """

    x: Tensor
    carry: Callable[[Tensor], Tensor]
    hits: Tensor


def require_reflection(domain: Any, who: str) -> None:
    """Raise DomainError unless paths can be mirrored at the domain's boundary."""
    if not can_reflect(domain):
        raise DomainError(
            f"{who}: expected a convex domain with mirrors (Box, HalfSpace, Ball, Simplex, Polytope or a Product of them); got {domain}. "
            "Map the data onto one of these first, or use ContinuousFlow(support=...), which needs a map from R^n onto the domain."
        )


def check_inside(domain: Any, x: Tensor, who: str) -> None:
    """Raise DomainError, naming the first sample, if an event lies outside by more than rounding."""
    inside = domain.contains(x, tol=32 * torch.finfo(x.dtype).eps * domain.scale)
    if bool(inside.all()):
        return
    flat = inside.flatten()
    first = int((~flat).nonzero()[0])
    values = x.reshape(len(flat), -1)[first].tolist()
    shown = ", ".join(f"{value:.6g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
    raise DomainError(
        f"{who}: expected data in {domain}; got sample {first} = ({shown}) outside, {int((~flat).sum())} of {len(flat)} samples. "
        "Rescale the data, drop those rows, or choose a larger domain; on a simplex divide by the sum first."
    )


def can_reflect(domain: Any) -> bool:
    """Whether a domain mirrors; a product does where each factor does or is all of R^n."""
    factors = getattr(domain, "domains", None)
    if factors is not None:
        return all(can_reflect(part) or part.trivial for part in factors)
    return hasattr(domain, "reflect")


class Projected:
    """The other boundary rule: the end of a step goes to the nearest point of the domain.

    Exact for paths that slide along a wall, but it piles atoms on the boundary: for comparisons, never for densities.

    Args:
        domain: knows ``project``.
    """

    def __init__(self, domain: Any) -> None:
        self.domain = domain

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """The nearest point to x + dx; velocities are not changed; a hit where the point moved."""
        z = x + dx
        hits = (~self.domain.contains(z)).to(torch.int64)
        return Reflection(self.domain.project(z), lambda v: v, hits)


def unmirrored(x: Tensor, event_rank: int = 1) -> Reflection:
    """The reflection of steps in R^n, which meet no boundary."""
    hits = torch.zeros(x.shape[: x.dim() - event_rank], dtype=torch.int64, device=x.device)
    return Reflection(x, lambda v: v, hits)


def count_hits(hits: Tensor) -> Tensor:
    """Numbers of mirrors as int64, at most ``MAX_HITS``; 0 for steps that are not finite."""
    return hits.nan_to_num(0.0, MAX_HITS).clamp(max=MAX_HITS).to(torch.int64)


def joined(parts: Sequence[Reflection], sizes: Sequence[int]) -> Reflection:
    """Reflections of the factors of a product, as one of the whole vector."""

    def carry(v: Tensor) -> Tensor:
        return torch.cat([part.carry(piece) for part, piece in zip(parts, v.split(list(sizes), dim=-1), strict=True)], dim=-1)

    hits = torch.stack([part.hits for part in parts]).sum(0).clamp(max=MAX_HITS)
    return Reflection(torch.cat([part.x for part in parts], dim=-1), carry, hits)


def reflect_in_facets(x: Tensor, dx: Tensor, slack: Callable[[Tensor], Tensor], normals: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor]:
    """Fold steps into {slack(x) >= 0}, an intersection of half-spaces.

    The end z = x + dx is mirrored in the first facet that the segment meets, then in the first that the mirrored rest
    meets, until z is inside; only events still outside take part, one host read a mirror. z is a product of mirrors of
    x + dx, so its derivative is R exactly. What is outside by no more than rounding is no hit, for the caller to clamp.

    Args:
        x, dx: (N, D), x inside.
        slack: distances to the facets, positive inside, (n, D) -> (n, m).
        normals: outward unit normals (m, D).

    Returns:
        end (N, D), possibly outside by rounding; carry, v (N, D) -> R^T v; hits (N).
    """
    end, hits = x + dx, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    met: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        rounding = 8 * torch.finfo(x.dtype).eps * x.shape[-1] ** 0.5 * (x.abs().amax(-1, keepdim=True) + dx.abs().amax(-1, keepdim=True))
        rows = _outside(slack(end), rounding)
        start, room = x[rows], rounding[rows]
    while len(rows) and len(met) < MAX_HITS:
        here = end[rows]
        with torch.no_grad():
            before, after = slack(start).clamp(min=0.0), slack(here)
            share = torch.where(after < -room, before / (before - after), torch.inf)
            at, facet = share.min(dim=-1)
            start = start + at.unsqueeze(-1) * (here - start)
            normal = normals[facet]
            depth = after.gather(-1, facet.unsqueeze(-1))
        # the mirror's distance to z is differentiable in z: slack = c - g.z for every facet
        depth = depth - ((here - here.detach()) * normal).sum(-1, keepdim=True)
        here = here + 2 * depth * normal
        met.append((rows, normal))
        end, hits = end.index_copy(0, rows, here), hits.index_add(0, rows, torch.ones_like(rows))
        with torch.no_grad():
            kept = _outside(slack(here), room)
            rows, start, room = rows[kept], start[kept], room[kept]

    def carry(v: Tensor) -> Tensor:
        for rows, normal in reversed(met):
            v = v.index_add(0, rows, -2 * (v[rows] * normal).sum(-1, keepdim=True) * normal)
        return v

    return end, carry, hits


def _outside(slack: Tensor, rounding: Tensor) -> Tensor:
    """Rows with a facet behind them by more than rounding: (n, m) -> (k)."""
    return (slack < -rounding).any(-1).nonzero().squeeze(-1)


def by_rows(domain_fold: Callable[[Tensor, Tensor], tuple[Tensor, Callable[[Tensor], Tensor], Tensor]], x: Tensor, dx: Tensor) -> Reflection:
    """A fold of rows (N, D) applied to any batch shape."""
    x, dx = torch.broadcast_tensors(x, dx)
    shape = x.shape
    end, carry, hits = domain_fold(x.reshape(-1, shape[-1]), dx.reshape(-1, shape[-1]))
    return Reflection(end.reshape(shape), lambda v: carry(v.reshape(-1, shape[-1])).reshape(shape), hits.reshape(shape[:-1]))
