"""Pairings of flow matching: which noise goes with which data in a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError, UnknownNameError, nearest
from flowkit.core.shapes import positive_number
from flowkit.numerics import alignment
from flowkit.numerics.assignment import assign
from flowkit.numerics.schedules import described
from flowkit.numerics.sinkhorn import sinkhorn

DEFAULT_REG = 0.05
TOLERANCE, ITERATIONS = 1e-2, 200  # of plans that pairs are only drawn from
_OPTIONS: dict[str, dict[str, float]] = {
    "independent": {},
    "ot": {},
    "equivariant_ot": {},
    "conditional_ot": {"weight": 1.0},
    "sinkhorn": {"reg": DEFAULT_REG},
    "unbalanced": {"reg": DEFAULT_REG, "marginal_penalty": 1.0},
}


class Rows(NamedTuple):
    """Which rows of noise and of data are paired, each (B) int64; None stands for all rows in order."""

    noise: Tensor | None
    data: Tensor | None


@dataclass(frozen=True)
class Pairing:
    """How rows of noise x0 and data x1 are brought together.

        independent     as they come
        ot              the permutation of least sum |x0 - x1|^2, exactly
        equivariant_ot  the same with the distance left once x0, a cluster of alike particles (N, d), is reordered and turned towards x1; so it is then
        conditional_ot  the same with |x0 - x1|^2 + weight |c0 - c1|^2, c0 the condition that came with x0's row; labels must be equal
        sinkhorn        for every x1 an x0 drawn from the plan of least E|x0 - x1|^2 + reg KL(plan | independent)
        unbalanced      pairs drawn from the plan that may leave rows out, at marginal_penalty times the divergence of its marginals

    Data stay in their order in all but the last, so whatever belongs to them stays in place; noise is what moves.

    Args:
        name: as above. options: numbers > 0 by name.

    Reference: Tong et al. (2024), arXiv:2302.00482 (ot, sinkhorn); Klein, Kraemer and Noe (2023), arXiv:2306.15030 (equivariant_ot);
        Cheng and Schwing (2025), The Curse of Conditions, arXiv:2503.10636 (conditional_ot).
    """

    name: str
    options: Mapping[str, float]

    @classmethod
    def of(cls, pairing: str | Mapping[str, Any], who: str, *, reg: float | None = None) -> Pairing:
        """The pairing that a name, or ``{name: ..., **options}``, describes; ``reg`` replaces the default where it is an option.

        Raises:
            UnknownNameError, ConfigError: the name or an option is not known, or not a number > 0.
        """
        name, options = described(pairing, "pairing", who)
        if name not in _OPTIONS:
            raise UnknownNameError(f"{who}: no pairing named {name!r}. {nearest(name, _OPTIONS)}")
        unknown = set(options) - set(_OPTIONS[name])
        if unknown:
            raise ConfigError(f"{who}: pairing '{name}' has no option {min(unknown)!r}. It takes: {', '.join(_OPTIONS[name]) or 'none'}.")
        defaults = dict(_OPTIONS[name]) | ({"reg": reg} if reg is not None and "reg" in _OPTIONS[name] else {})
        return cls(name, {key: positive_number(value, who, f"{name}'s {key}") for key, value in (defaults | options).items()})

    @property
    def independent(self) -> bool:
        """Whether rows are left as they come."""
        return self.name == "independent"

    @torch.no_grad()
    def rows(self, x0: Tensor, x1: Tensor, context: Any, generator: torch.Generator | None) -> Rows:
        """The rows to pair: x0, x1 (B, *event), context (B, *context) or a dict of such, used by "conditional_ot"."""
        if self.name == "equivariant_ot" and x1.dim() != 3:
            raise ShapeError(f"pairing 'equivariant_ot': expected events (N, d), N alike particles; got {tuple(x1.shape[1:])}. Give the flow that event shape.")
        if self.independent or len(x1) < 2:
            return Rows(None, None)
        if self.name == "equivariant_ot":
            return Rows(assign(alignment.squared_distances(x0, x1).T), None)
        if self.name == "ot":
            return Rows(closest(x0, x1), None)
        if self.name == "conditional_ot":
            return Rows(closest_given(x0, x1, context, self.options["weight"]), None)
        penalty = self.options.get("marginal_penalty", math.inf)
        plan = sinkhorn(squared_distances(x0, x1), self.options["reg"], marginal_penalty=penalty, tolerance=TOLERANCE, max_iterations=ITERATIONS).plan
        if self.name == "sinkhorn":
            return Rows(torch.multinomial(plan.T, 1, generator=generator).squeeze(1), None)
        drawn = torch.multinomial(plan.flatten(), len(x1), replacement=True, generator=generator)
        return Rows(drawn // len(x1), drawn % len(x1))

    @torch.no_grad()
    def aligned(self, x0: Tensor, x1: Tensor) -> Tensor:
        """x0 of the pairs (B, *event), moved within its orbit where the pairing is up to symmetry."""
        return alignment.superpose(x0, x1) if self.name == "equivariant_ot" else x0


def closest(x0: Tensor, x1: Tensor) -> Tensor:
    """For each row of x1 the row of x0 in the permutation of least total squared distance: (B)."""
    if x1[0].numel() == 1:  # on a line the order statistics are paired
        at = torch.empty(len(x1), dtype=torch.int64, device=x1.device)
        return at.scatter_(0, x1.flatten().argsort(), x0.flatten().argsort())
    return assign(_distances(_normalized(x1)[0], _normalized(x0)[0]))


def closest_given(x0: Tensor, x1: Tensor, context: Any, weight: float) -> Tensor:
    """``closest`` with the weighted squared distance of the conditions added; rows with different labels are never paired."""
    (y1, scale1), (y0, scale0) = _normalized(x1), _normalized(x0)
    cost = _distances(y1, y0)
    for part in context.values() if isinstance(context, Mapping) else [context]:
        if part is not None and part.is_floating_point():
            cost = cost + weight / (scale0 * scale1) * squared_distances(part, part)
    differs = torch.zeros_like(cost, dtype=torch.bool)
    for part in context.values() if isinstance(context, Mapping) else [context]:
        if part is not None and not part.is_floating_point():
            differs |= (part.flatten(1).unsqueeze(1) != part.flatten(1)).any(2) if part.dim() > 1 else part.unsqueeze(1) != part
    # the pairs as they came have equal labels, so one forbidden pair costs more than all allowed ones
    return assign(torch.where(differs, cost + (len(cost) * cost.max() + 1), cost))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 over the event, float32 at least: (N, *event), (M, *event) -> (N, M)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, y = x.reshape(len(x), -1).to(dtype), y.reshape(len(y), -1).to(dtype)
    return torch.cdist(x, y).square()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of normalised rows (N, D), between which products do not cancel."""
    return torch.addmm(x.square().sum(1, keepdim=True) + y.square().sum(1), x, y.T, alpha=-2)


def _normalized(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (N, D) about their mean, over their root mean square, and the latter.

    It takes sum |x0 - x1|^2 to constants minus 2 sum <x0, x1> over a positive number: the best permutation stays, and is found sooner.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    x = x.reshape(len(x), -1).to(dtype)
    centred = x - x.mean(0)
    scale = centred.square().mean().sqrt().clamp(min=torch.finfo(dtype).tiny)
    return centred / scale, scale
