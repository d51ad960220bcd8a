"""Ordinary differential equations on manifolds, and the volume change of their flows.

1. A velocity u on M, tangent everywhere, is continued to f(y) = u(t, r(y)) around M, r a smooth map onto M that leaves its points
   where they are. M is invariant under y' = f(y), where the solution is that of x' = u(x).
2. A Runge-Kutta step of order p for f ends O(h^(p + 1)) from the solution, and its image under r is as close: the method with every
   stage evaluated at r(y_i) and every step ended by r has order p, and never leaves M by more than rounding.
3. The flow changes volumes by d log|det| / dt = div u, the trace of the covariant derivative. That of a submanifold is the tangent
   part of the derivative in the space around it, so with an orthonormal basis e_1 .. e_d of the tangent space
   div u = sum_i e_i' Du e_i, for any continuation of u: d products with the Jacobian. On S^d and u = P(x) v(x) it is
   sum_i e_i' Dv e_i - d (x . v); on SO(3) and u = R hat(w(R)) it is sum_i (R hat(e_i)) . grad w_i, as the left-invariant fields
   R hat(e_i) keep volumes. A constant factor of the metric changes neither.

Reference: Hairer, Lubich, Wanner (2006), Geometric Numerical Integration, chapter IV; Mathieu and Nickel (2020), Riemannian continuous
normalizing flows, arXiv:2006.10605.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.core.domain import Manifold
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import positive, sum_event, zeros_log_det
from flowkit.numerics.ode import solve
from flowkit.numerics.ode.runge_kutta import weighted
from flowkit.numerics.ode.tableau import method
from flowkit.numerics.traces import pullback

Velocity = Callable[..., Tensor]


class Transported(NamedTuple):
    """Where points arrive.

    Args:
        x: (*B, *event); log_det: of the map of the start to x, in the volume of the manifold, (*B), zero where it was not asked for.
    """

    x: Tensor
    log_det: Tensor


def transport(
    velocity: Velocity,
    manifold: Manifold,
    x: Tensor,
    start: float = 0.0,
    end: float = 1.0,
    *,
    args: Sequence[Tensor] = (),
    scheme: str = "rk4",
    steps: int = 32,
    log_det: bool = True,
) -> Transported:
    """Carry points along a velocity with equal steps of an explicit Runge-Kutta method; differentiable as it stands.

    Args:
        velocity: (t (), x (*B, *event), *args) -> tangent vectors (*B, *event).
        manifold: that x lies on.
        x: (*B, *event).
        start, end: times; ``start > end`` runs backwards.
        args: what else the velocity takes, with the batch in front.
        scheme: a method of ``numerics.ode``: "euler", "midpoint", "rk4", "dopri5", ...; errors fall as steps^-order.
        steps: number of them.
        log_det: whether to integrate the divergence, which costs ``intrinsic_dim`` products with the Jacobian for every velocity.

    Raises:
        UnknownNameError, ConfigError: no such scheme; steps < 1.
        ShapeError: the velocity has another shape than x.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Sphere
        >>> from flowkit.numerics.manifold_ode import transport
        >>> pole, x = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> done = transport(lambda t, x: Sphere(2).project_tangent(x, pole), Sphere(2), x)       # z' = 1 - z^2
        >>> round(done.x[2].item(), 5), round(done.log_det.item(), 4)                             # tanh(1), log(1 - tanh(1)^2)
        (0.76159, -0.8676)
    """
    tableau, steps = method(scheme, "manifold_ode.transport"), positive(steps, "manifold_ode.transport", "steps")
    last = tableau.stages - 1 if tableau.first_same_as_last else tableau.stages
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64, device=x.device)
    size, total = (end - start) / steps, zeros_log_det(x, manifold.event_shape)
    for i in range(steps):
        slopes: list[Tensor] = []
        for stage in range(last):
            point = manifold.retract(x + size * weighted(slopes, tableau.a[stage - 1])) if stage else x
            moment = (times[i] + tableau.c[stage] * size).to(x.dtype)
            slope, divergence = _slope(velocity, manifold, moment, point, args, log_det and tableau.b[stage] != 0)
            slopes.append(slope)
            if divergence is not None:
                total = total + size * tableau.b[stage] * divergence
        x = manifold.retract(x + size * weighted(slopes, tableau.b[:last]))
    return Transported(x, total)


def controlled_transport(
    velocity: Velocity,
    manifold: Manifold,
    x: Tensor,
    start: float = 0.0,
    end: float = 1.0,
    *,
    args: Sequence[Tensor] = (),
    scheme: str = "dopri5",
    rtol: float = 1e-6,
    atol: float = 1e-6,
    log_det: bool = True,
    params: Sequence[Tensor] | None = None,
) -> Transported:
    """Carry points along a velocity with steps by error control, for each point its own.

    The continued equation of step 1 is solved in R^D and its end put back on the manifold, which moves it by no more than the error.

    Args:
        velocity: as for ``transport``, the time of each point in t (N).
        x: (N, *event); args: (N, ...) each; manifold, start, end, log_det: as for ``transport``.
        scheme: a method of ``numerics.ode`` with an error estimate.
        rtol, atol: tolerances, for place and log_det alike.
        params: what gradients go to besides x and args, as for ``ode.solve``.

    Raises:
        IntegrationError, NonFiniteError: from ``ode.solve``.
    """

    def slopes(t: Tensor, place: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        slope, divergence = _slope(velocity, manifold, t, manifold.retract(place), rest[log_det:], log_det)
        return (slope,) if divergence is None else (slope, divergence)

    state = (x, zeros_log_det(x, manifold.event_shape)) if log_det else (x,)
    ends = torch.tensor([start, end], dtype=x.dtype, device=x.device)
    solution = solve(slopes, state, ends, args=args, method=scheme, rtol=rtol, atol=atol, per_sample=True, params=params)
    arrived = manifold.retract(solution.ys[0][-1])
    return Transported(arrived, solution.ys[1][-1] if log_det else zeros_log_det(x, manifold.event_shape))


def velocity_and_divergence(velocity: Callable[[Tensor], Tensor], manifold: Manifold, x: Tensor) -> tuple[Tensor, Tensor]:
    """A tangent velocity and its divergence on the manifold, exact.

    Args:
        velocity: (*B, *event) -> tangent vectors of that shape, points independent of each other.
        manifold: that x lies on.
        x: (*B, *event).

    Returns:
        u (*B, *event) and div u (*B), float32 at least; differentiable where grad mode is on.
    """
    rank = len(manifold.event_shape)
    v, pull = pullback(velocity, x)
    total = zeros_log_det(x, manifold.event_shape)
    for direction in manifold.tangent_basis(x).unbind(-1):
        way = direction.reshape(x.shape)
        total = total + sum_event(pull(way) * way, rank)
    return v, total


def check_scheme(scheme: str, steps: int | None, who: str) -> str:
    """Check the name of a method, which needs an error estimate where no number of steps is given."""
    if method(scheme, who).e is None and steps is None:
        raise ConfigError(f"{who}: solver {scheme!r} has no error estimate: give steps=, or choose dopri5, tsit5, bosh3, dopri8 or heun2.")
    return scheme


def _slope(velocity: Velocity, manifold: Manifold, t: Tensor, x: Tensor, args: Sequence[Tensor], wants_divergence: bool) -> tuple[Tensor, Tensor | None]:
    v, divergence = velocity_and_divergence(lambda point: velocity(t, point, *args), manifold, x) if wants_divergence else (velocity(t, x, *args), None)
    if v.shape != x.shape:
        raise ShapeError(f"manifold_ode.transport: expected the velocity to have the shape of the points, {tuple(x.shape)}; got {tuple(v.shape)}.")
    return v, divergence
