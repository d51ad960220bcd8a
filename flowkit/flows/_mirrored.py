"""The flow of a velocity field within walls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors import Continuous
from flowkit.bijectors._augmented import Transport
from flowkit.core.domain._reflection import Reflection
from flowkit.core.domain.domain import Domain
from flowkit.core.shapes import Context, mask_event
from flowkit.core.transform import Bijector
from flowkit.core.vector_field import VectorField
from flowkit.numerics.ode import Solution, solve
from flowkit.numerics.ode.failures import DONE, NOT_FINITE

ATTEMPTS = 100  # steps under error control before rows are asked whether a wall holds them up
WALL_METHOD, WALL_STEPS = "heun3", 10  # how rows that meet a wall are solved then


@dataclass
class ReflectedInfo:
    """What a reflected solution met.

    Args:
        nfe: evaluations of the field per sample; steps: accepted steps per sample, both (*B).
        hits: mirrors met at the ends of steps, (*B).
        exited: of a density: rows whose way back to t = 0 leaves the domain, (*B); of samples: rows that hit the wall.
        max_violation: how far a step or a stage went outside before it was folded back, at most; 0 where none did.
    """

    nfe: Tensor
    steps: Tensor
    hits: Tensor
    exited: Tensor
    max_violation: float

    @property
    def exit_fraction(self) -> float:
        """Share of rows that exited."""
        return float(self.exited.double().mean()) if self.exited.numel() else 0.0

    @property
    def hits_per_step(self) -> float:
        """Mirrors met per accepted step."""
        return float(self.hits.sum() / self.steps.sum().clamp(min=1))


class Passing:
    """A boundary rule that folds nothing: steps go on outside, where a hit is counted at every end that lies there.

    Paths back in time that leave the domain have no preimage; nothing is gained by mirroring them, and along a wall that pulls
    them out the mirrored equation jumps, which costs steps without end.

    Args:
        domain: knows ``contains``; tolerance: what the solver's own error may carry over the wall.
    """

    def __init__(self, domain: Domain, tolerance: float) -> None:
        self.domain, self.tolerance = domain, tolerance

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """The step as it is."""
        z = x + dx
        return Reflection(z, lambda v: v, (~self.domain.contains(z.detach(), tol=self.tolerance)).to(torch.int64))


class Watched:
    """A boundary rule that remembers how far steps and their stages went outside before they were folded."""

    def __init__(self, rule: Any, domain: Any) -> None:
        self.rule, self.domain, self.rank = rule, domain, len(domain.event_shape)
        self.worst: Tensor | None = None

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """The rule's own reflection."""
        folded: Reflection = self.rule.reflect(x, dx)
        z = (x + dx).detach()
        # the nearest point inside is as far as the wall is
        beyond = torch.linalg.vector_norm((self.domain.project(z) - z).flatten(-self.rank) if self.rank else (self.domain.project(z) - z)[..., None], dim=-1)
        beyond = torch.where(folded.hits > 0, beyond, 0.0)
        worst = beyond.max() if beyond.numel() else beyond.sum()
        self.worst = worst if self.worst is None else torch.maximum(self.worst, worst)
        return folded


class Mirrored(Continuous):
    """``Continuous`` on a domain, whose boundary rule folds every stage and every step's end; step sizes are per sample.

    Args:
        field: the velocity field; domain: where it lives; rule: object with ``reflect``, usually the domain.
        options: of ``Continuous``.
    """

    def __init__(self, field: VectorField, domain: Domain, rule: Any, **options: Any) -> None:
        super().__init__(field, **options)
        self.walls, self.rule = domain, rule

    def _settle(self) -> None:
        super()._settle()
        self.traits = self.traits.but(score="two_pass")

    _carry = Bijector._carry  # the equation of the score knows no walls

    def like(self, other: Continuous) -> Mirrored:
        """The field, options and time span of another continuous map within these walls."""
        names = ("divergence", "solver", "steps", "rtol", "atol", "adjoint", "probes", "max_steps", "duration")
        made = Mirrored(other.field, self.walls, self.rule, **{name: getattr(other, name) for name in names})
        made.time_span, made.training = other.time_span, other.training
        return made

    @property
    def domain(self) -> Domain:
        return self.walls

    @property
    def codomain(self) -> Domain:
        return self.walls

    def transport(self, value: Tensor, context: Context = None, *, boundary: Any = None, **options: Any) -> Transport:
        """As for ``Continuous``, within the walls; ``boundary`` in place of the own rule."""
        return super().transport(value, context, boundary=self.rule if boundary is None else boundary, **options)

    def _solved(self, slopes: Any, state: tuple[Tensor, ...], ends: Any, constants: tuple[Tensor, ...], controlled: int, boundary: Any) -> Solution:
        """Solve; rows that meet a wall under error control are solved again in a few fixed steps over the whole time.

        Where the field pushes against a wall the mirrored velocity jumps with the place, and the end of a mirrored step is off by O(h)
        whatever the method: error control would take steps without end, and small ones heap samples up at the wall. So times between
        the ends change no steps: such rows are interpolated there.
        """
        if self.steps is not None or isinstance(boundary, Passing) or isinstance(getattr(boundary, "rule", None), Passing):
            return super()._solved(slopes, state, ends, constants, controlled, boundary)
        options: dict[str, Any] = {"adjoint": self.adjoint, "params": self.field, "boundary": boundary, "per_sample": True}
        smallest = 10 * torch.finfo(state[0].dtype).eps
        atol = tuple(max(self.atol, smallest) if i < controlled else float("inf") for i in range(len(state)))
        chosen: dict[str, Any] = {"method": self.solver, "rtol": self.rtol, "atol": atol, **options}
        made = solve(slopes, state, ends, args=constants, max_steps=min(ATTEMPTS + len(ends), self.max_steps), on_failure="partial", **chosen)
        met, failed = made.stats.hits > 0, made.stats.status != DONE
        broken = made.stats.status == NOT_FINITE
        if not bool((met | failed).any()):
            return made
        times = torch.as_tensor(ends, dtype=state[0].dtype, device=state[0].device)
        grid = torch.lerp(times[0], times[-1], torch.linspace(0, 1, WALL_STEPS + 1, dtype=times.dtype, device=times.device))
        fixed = {**options, "method": WALL_METHOD, "steps": 1}
        for rows, stops, choice in ((failed & (~met | broken), times, {**chosen, "max_steps": self.max_steps}), (met & ~broken, grid, fixed)):
            left = rows.nonzero().squeeze(1)
            if len(left):
                part = solve(slopes, tuple(member[left] for member in state), stops, args=tuple(c[left] for c in constants), **choice)
                made = _replaced(made, left, part, part.ys if stops is times else self._between(part.ys, times))
        return made

    def _between(self, ys: tuple[Tensor, ...], times: Tensor) -> tuple[Tensor, ...]:
        """States at equidistant times, (WALL_STEPS + 1, R, ...), taken along straight lines to those asked for, (T, R, ...)."""
        place = (times - times[0]) / (times[-1] - times[0]) * WALL_STEPS
        before = place.detach().floor().clamp(0, WALL_STEPS - 1).long()
        found = [torch.lerp(y[before], y[before + 1], mask_event((place - before).to(y), y.dim() - 1)) for y in ys]
        found[0] = self.walls.project(found[0])  # type: ignore[operator]  # a chord is inside up to rounding
        return tuple(found)


def _replaced(made: Solution, left: Tensor, part: Solution, found: tuple[Tensor, ...]) -> Solution:
    """A solution with some rows replaced by those found, their hits and status too; the work is added."""
    stats, new = made.stats, part.stats
    for name in ("nfe", "accepted", "rejected"):
        setattr(stats, name, getattr(stats, name).index_add(0, left, getattr(new, name)))
    stats.status = stats.status.index_copy(0, left, new.status)
    # a row that met a wall once is known by it, also where the coarser steps end on this side of it
    stats.hits = stats.hits.index_copy(0, left, torch.maximum(new.hits, stats.hits[left].clamp(max=1)))
    ys = tuple(whole.index_copy(1, left, new) for whole, new in zip(made.ys, found, strict=True))
    return Solution(ys, made.ts, made.stats)


def information(moved: Transport, exited: Tensor, watched: Watched | None) -> ReflectedInfo:
    """What a solution met, in the shape of its batch."""
    shape, stats = moved.log_det.shape, moved.stats
    worst = 0.0 if watched is None or watched.worst is None else float(watched.worst)
    return ReflectedInfo(stats.nfe.reshape(shape), stats.accepted.reshape(shape), stats.hits.reshape(shape), exited, worst)
