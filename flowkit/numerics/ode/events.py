"""When a solution first meets a condition, with gradients of the time and the place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, IntegrationError
from flowkit.numerics.ode.solve import solve


class Met(NamedTuple):
    """Where an event happened.

    Args:
        t: time of the first event of each sample (B,); the last time where there was none.
        y: state then (B, *event).
        found: whether there was one (B,).
    """

    t: Tensor
    y: Tensor
    found: Tensor


def first_event(
    field: Callable[..., Tensor],
    y0: Tensor,
    t: tuple[float, float],
    event: Callable[[Tensor, Tensor], Tensor],
    *,
    args: Sequence[Any] = (),
    direction: int = 0,
    method: Any = "dopri5",
    rtol: float = 1e-9,
    atol: float = 1e-9,
    params: Any = None,
    missing: str = "raise",
    **options: Any,
) -> Met:
    """The first time at which event(t, y) changes sign, for each sample.

    The time is bracketed on the dense output, then one Newton step on the solution itself makes it exact and differentiable: with
    g(t, y(t)) = 0, dt = -dg / (g_t + g_y f), the implicit function theorem.

    Args:
        field: (t (B,), y (B, *event), *args) -> slopes; y0: (B, *event); t: start and latest end.
        event: (t (B,), y (B, *event)) -> (B,), smooth near its root.
        direction: 1 for rising values only, -1 for falling ones, 0 for both. A root at the start does not count.
        missing: "raise", or "last": samples without an event end at the last time.
        args, method, rtol, atol, params, options: as for ``solve``.

    Returns:
        ``Met``.

    Raises:
        IntegrationError: a sample meets no event.

    Reference: Chen, Amos and Nickel (2021), Learning neural event functions for ODEs, arXiv:2011.03902, equation 9.
    """
    if direction not in (-1, 0, 1) or missing not in ("raise", "last"):
        raise ConfigError(f"ode.first_event: expected direction -1, 0 or 1 and missing 'raise' or 'last'; got {direction!r}, {missing!r}.")
    controls: dict[str, Any] = {"method": method, "rtol": rtol, "atol": atol, "per_sample": True, **options}
    with torch.no_grad():
        path = solve(field, y0.detach(), t, args=args, dense=True, params=(), **controls)
        when, found = _bracketed(path, event, y0, t, direction)
    if missing == "raise" and not bool(found.all()):
        first = int((~found).nonzero()[0])
        raise IntegrationError(
            f"ode.first_event: no event between t = {t[0]:.6g} and {t[1]:.6g} for sample {first}, {int((~found).sum())} of {len(found)} samples. "
            "Give a later end, check direction=, or pass missing='last'."
        )

    def stretched(s: Tensor, y: Tensor, *rest: Any) -> Tensor:
        span, constants = rest[-1], rest[:-1]
        rate = field(t[0] + s * span, y, *constants)
        return rate * span.reshape(-1, *([1] * (rate.dim() - 1)))

    moved = solve(stretched, y0, (0.0, 1.0), args=(*args, when - t[0]), params=_owner(field) if params is None else params, **controls).ys[-1]
    shift = _newton(field, event, when, moved, args, found)
    flow = field(when, moved, *args)
    return Met(when + shift, moved + flow * shift.reshape(-1, *([1] * (flow.dim() - 1))), found)


def _owner(field: Any) -> Any:
    """The module behind a field, or None to look for what it has captured."""
    return field if isinstance(field, torch.nn.Module) else getattr(field, "__self__", None) if hasattr(field, "__self__") else None


def _newton(field: Any, event: Any, when: Tensor, y: Tensor, args: Sequence[Any], found: Tensor) -> Tensor:
    """The shift -g / (g_t + g_y f), whose denominator counts as constant; none where nothing was found."""
    with torch.enable_grad():
        t, place = when.detach().requires_grad_(), y.detach().requires_grad_()
        g = event(t, place)
        g_t, g_y = torch.autograd.grad(g.sum(), (t, place), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        total = g_t + (g_y * field(when, y, *args)).flatten(1).sum(1)
    g = torch.where(found, event(when, y), torch.zeros_like(total))
    return -g / torch.where(found, total, torch.ones_like(total))


def _bracketed(path: Any, event: Any, y0: Tensor, t: tuple[float, float], direction: int) -> tuple[Tensor, Tensor]:
    """The first change of sign on the interpolant by looking at 8 places on every step, then bisection on the polynomial of that step."""
    interpolant = path.interpolant
    rows = len(y0)
    found = torch.zeros(rows, dtype=torch.bool, device=y0.device)
    which = torch.full((rows,), -1, dtype=torch.int64, device=y0.device)  # the step of the event
    low = torch.full((rows,), float(t[0]), dtype=y0.dtype, device=y0.device)
    high = torch.full_like(low, float(t[1]))
    before, at, place = event(low, y0), low.clone(), interpolant.begin
    for k, piece in enumerate(interpolant.pieces):
        index = torch.arange(rows, device=y0.device) if piece.rows is None else piece.rows
        for j in range(1, 9):
            time = at.clone()
            time[index] = torch.lerp(piece.start, piece.end, j / 8)
            place = place.index_copy(0, index, piece(time[index]))
            value = event(time, interpolant.shaped(place))
            # before: the last value that was not zero; zero from the start on until there is one
            rising = (before < 0) & (value >= 0) if direction >= 0 else torch.zeros_like(found)
            falling = (before > 0) & (value <= 0) if direction <= 0 else torch.zeros_like(found)
            crossed = (rising | falling) & ~found
            low, high = torch.where(crossed, at, low), torch.where(crossed, time, high)
            found, which = found | crossed, torch.where(crossed, k, which)
            before, at = torch.where(value == 0, before, value), time
    piece = interpolant.chosen(which, t)
    start = event(low, interpolant.shaped(piece(low)))
    for _ in range(60):
        middle = (low + high) / 2
        same = event(middle, interpolant.shaped(piece(middle))).sign() == start.sign()
        low, high = torch.where(same & found, middle, low), torch.where(same | ~found, high, middle)
    return torch.where(found, (low + high) / 2, torch.full_like(low, float(t[1]))), found
