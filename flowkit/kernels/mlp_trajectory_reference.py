"""Whole trajectories of a velocity field with two hidden layers in plain torch: the judge of the kernels.

Fixed steps are a plain loop. Adaptive steps are found without gradients, each sample its own; where gradients are wanted the accepted
steps are then taken again, so that automatic differentiation yields the discrete adjoint at constant step sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.kernels.mlp_trajectory_methods import METHODS, Method

DONE, TOO_MANY_STEPS, STEP_TOO_SMALL, NOT_FINITE = range(4)
Trajectory = tuple[Tensor, Tensor, Tensor]


def reference(
    x: Tensor, W1: Tensor, b1: Tensor, r1: Tensor, W2: Tensor, b2: Tensor, r2: Tensor, W3: Tensor, b3: Tensor, r3: Tensor, gates: Tensor,
    t0: float, t1: float, method: str, steps: int, rtol: float, atol: float, activation: str, divergence: bool, max_steps: int,
) -> Trajectory:  # fmt: skip
    """x(t1) from x(t0) = x under dx/dt = v(t, x), and log_det = int_t0^t1 div v dt, exact.

        h1 = act(g1 (W1 x + b1) + r1 t),  h2 = act(g2 (W2 h1 + b2) + r2 t),  v = g3 (W3 h2 + b3) + r3 t,  g_k = sigmoid(p_k t + q_k) or 1

    Adaptive steps are each sample's own: accepted where the root mean square over (x, log_det) of error / (atol + rtol max(|y0|, |y1|))
    is at most 1, then sized by 0.9 error^(-1/order) within [0.2, 10], within 1 after a rejection; the first by Hairer's rule.

    Args:
        x: (B, d).
        W1, b1, r1: (w, d), (w) or (B, w), (w).
        W2, b2, r2: (w, w), (w), (w).
        W3, b3, r3: (d, w), (d), (d).
        gates: (2w + d, 2), p and q of the units of the three layers one after the other; (0, 2) for none.
        t0, t1: start and end, in either order.
        method: "euler", "midpoint", "heun2", "heun3", "rk4" (3/8 rule), "bosh3", "dopri5" or "tsit5".
        steps: number of equal steps; 0 for adaptive ones, which the last three can take.
        rtol, atol: tolerances of adaptive steps.
        activation: "tanh", "softplus", "silu", "gelu", "elu" or "selu".
        divergence: whether to integrate it; else log_det is 0.
        max_steps: attempts of adaptive steps a sample.

    Returns:
        x(t1) (B, d), log_det (B), and int32 (B, 4): evaluations, accepted and rejected steps, status: 0 done, 1 max_steps reached, 2 step
        at the rounding of time, 3 not finite; with 1 and 2 the state is where the sample stopped, with 3 it is NaN.
    """
    tableau = _method(method, steps)
    field = _Field(W1, b1, r1, W2, b2, r2, W3, b3, r3, gates, activation, divergence)
    state = torch.cat((x, torch.zeros_like(x[:, :1])), 1) if divergence else x
    if steps:
        state = _fixed(field, tableau, state, t0, t1, steps)
        finite = torch.isfinite(state).all(1)
        accepted = torch.full_like(finite, steps, dtype=torch.int32)
        status = torch.where(finite, DONE, NOT_FINITE).to(torch.int32)
        stats = torch.stack((accepted * tableau.used, accepted, torch.zeros_like(accepted), status), 1)
    else:
        search = _Search(field.detach(), tableau, t0, t1, rtol, atol, max_steps)
        with torch.no_grad():
            found, stats, strides = search.run(state.detach())
        state = _replay(field, tableau, state, strides) if _wanted(x, W1, b1, r1, W2, b2, r2, W3, b3, r3, gates) else found
    state = torch.where((stats[:, 3] == NOT_FINITE).unsqueeze(1), math.nan, state)
    d = x.shape[1]
    return state[:, :d], state[:, d] if divergence else torch.where(stats[:, 3] == NOT_FINITE, math.nan, torch.zeros_like(x[:, 0])), stats


def _method(name: str, steps: int) -> Method:
    if name not in METHODS:
        raise ConfigError(f"mlp_trajectory: expected method to be one of {', '.join(METHODS)}; got {name!r}.")
    if steps < 1 and not (steps == 0 and METHODS[name].e):
        raise ConfigError(f"mlp_trajectory: expected steps > 0 for {name!r}; got {steps}. Adaptive are bosh3, dopri5 and tsit5, with steps=0.")
    return METHODS[name]


def _wanted(*tensors: Tensor) -> bool:
    """Whether derivatives are."""
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    below = torch.special.ndtr(a)
    return a * below, below + a * torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    on = torch.sigmoid(a)
    return a * on, on + a * on * (1 - on)


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(a)
    return h, 1 - h * h


_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772
CURVES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {  # value and slope
    "tanh": _tanh,
    "softplus": lambda a: (functional.softplus(a), torch.sigmoid(a)),
    "silu": _silu,
    "elu": lambda a: (functional.elu(a), a.clamp(max=0).exp()),
    "selu": lambda a: (functional.selu(a), _SCALE * torch.where(a > 0, 1.0, _ALPHA * a.clamp(max=0).exp())),
    "gelu": _gelu,
}


@dataclass
class _Field:
    """(v, div v) of samples at a time they share or each at its own."""

    W1: Tensor
    b1: Tensor
    r1: Tensor
    W2: Tensor
    b2: Tensor
    r2: Tensor
    W3: Tensor
    b3: Tensor
    r3: Tensor
    gates: Tensor
    activation: str
    divergence: bool

    def __post_init__(self) -> None:
        if self.activation not in CURVES:
            raise ConfigError(f"mlp_trajectory: expected activation to be one of {', '.join(CURVES)}; got {self.activation!r}.")
        self.kernel = self._kernel(self.W3).mT if self.divergence and not len(self.gates) else None

    def detach(self) -> _Field:
        tensors: dict[str, Any] = {name: part.detach() for name, part in vars(self).items() if name != "kernel" and isinstance(part, Tensor)}
        return replace(self, **tensors)

    def rows(self, index: Tensor) -> _Field:
        """Of some samples."""
        return self if self.b1.dim() == 1 else replace(self, b1=self.b1[index])

    def _kernel(self, last: Tensor) -> Tensor:
        """K = W2 * (W1 W3)'."""
        return self.W2 * (self.W1 @ last).mT

    def __call__(self, t: float | Tensor, state: Tensor) -> Tensor:
        """Slope of (x, log_det): t () or (B), state (B, d + 1) -> (B, d + 1); without divergence (B, d)."""
        d, w, curve = len(self.W3), len(self.W2), CURVES[self.activation]
        time = torch.as_tensor(t, dtype=state.dtype, device=state.device).reshape(-1, 1)
        gates = torch.sigmoid(self.gates[:, 0] * time + self.gates[:, 1]).split((w, w, d), 1) if len(self.gates) else None
        one = functional.linear(state[:, :d], self.W1) + self.b1
        h1, p1 = curve((one if gates is None else gates[0] * one) + self.r1 * time)
        two = functional.linear(h1, self.W2, self.b2)
        h2, p2 = curve((two if gates is None else gates[1] * two) + self.r2 * time)
        v = functional.linear(h2, self.W3, self.b3)
        v = (v if gates is None else gates[2] * v) + self.r3 * time
        if not self.divergence:
            return v
        if gates is not None:
            p1, p2 = gates[0] * p1, gates[1] * p2
        return torch.cat((v, self._trace(p1, p2, None if gates is None else gates[2]).unsqueeze(1)), 1)

    def _trace(self, p1: Tensor, p2: Tensor, gate: Tensor | None) -> Tensor:
        if gate is not None and len(gate) > 1:  # rows of the Jacobian, each weighed with its sample's gate
            middle = (p1.unsqueeze(1) * self.W1.mT) @ self.W2.mT
            return ((middle * self.W3 * p2.unsqueeze(1)).sum(2) * gate).sum(1)
        kernel = self.kernel if gate is None else self._kernel(gate.mT * self.W3).mT
        assert kernel is not None
        return ((p1 @ kernel) * p2).sum(1)


def _advance(field: _Field, tableau: Method, stages: int, t: float | Tensor, h: float | Tensor, state: Tensor, first: Tensor | None = None) -> list[Tensor]:
    """Slopes of the stages; the first may be known."""
    size = h.unsqueeze(1) if isinstance(h, Tensor) else h
    slopes = [field(t, state) if first is None else first]
    for row, c in zip(tableau.a[1:stages], tableau.c[1:stages], strict=True):
        slopes.append(field(t + c * h, state + size * _weighted(row, slopes)))
    return slopes


def _weighted(row: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    terms = [weight * slope for weight, slope in zip(row, slopes, strict=False) if weight]
    return torch.stack(terms).sum(0) if len(terms) > 2 else sum(terms[1:], terms[0])


def _fixed(field: _Field, tableau: Method, state: Tensor, t0: float, t1: float, steps: int) -> Tensor:
    h = (t1 - t0) / steps
    for n in range(steps):
        state = state + h * _weighted(tableau.b, _advance(field, tableau, tableau.used, t0 + n * h, h, state))
    return state


def _replay(field: _Field, tableau: Method, state: Tensor, strides: tuple[Tensor, Tensor]) -> Tensor:
    """The accepted steps once more; samples that have ended stand still."""
    for t, h in zip(*strides, strict=True):
        state = state + h.unsqueeze(1) * _weighted(tableau.b, _advance(field, tableau, tableau.used, t, h, state))
    return state


@dataclass
class _Search:
    """Adaptive steps, each sample's own, without gradients."""

    field: _Field
    tableau: Method
    t0: float
    t1: float
    rtol: float
    atol: float
    max_steps: int

    def run(self, state: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """State at the end, stats, and times and sizes of accepted steps (N, B), size 0 where a sample has none left."""
        count, stages = len(state), len(self.tableau.b)
        accepted, rejected, status = (torch.zeros(count, dtype=torch.int32, device=state.device) for _ in range(3))
        t, slope = torch.full_like(state[:, 0], self.t0), self.field(torch.full_like(state[:, 0], self.t0), state)
        h, after = self._first(state, slope), torch.zeros_like(t, dtype=torch.bool)
        broken = ~(torch.isfinite(h) & torch.isfinite(slope).all(1))
        status[broken] = NOT_FINITE
        end, times, sizes = state.clone(), [], []
        rows = (~broken).nonzero().squeeze(1)
        live = [part[rows] for part in (t, h, state, slope, after)]
        while len(rows):
            (t, h, state, slope, after), field = live, self.field.rows(rows)
            last = h.abs() >= (self.t1 - t).abs()
            h = torch.where(last, self.t1 - t, h)
            slopes = _advance(field, self.tableau, stages, t, h, state, slope)
            new = state + h.unsqueeze(1) * _weighted(self.tableau.b, slopes)
            error = self._norm(h.unsqueeze(1) * _weighted(self.tableau.e, slopes), torch.maximum(state.abs(), new.abs()))
            taken, finite = error <= 1, torch.isfinite(error)
            times.append(t.new_full((count,), self.t1).index_copy(0, rows, torch.where(taken, t, self.t1)))
            sizes.append(t.new_zeros(count).index_copy(0, rows, h * taken))
            accepted[rows] += taken.int()
            rejected[rows] += (~taken).int()
            factor = (0.9 * error.clamp(1e-10, 1e10) ** (-1 / self.tableau.order)).clamp(0.2, 10.0)
            factor = torch.where(finite, torch.where(after & taken, factor.clamp(max=1.0), factor), 0.2)
            t, state = torch.where(taken, torch.where(last, self.t1, t + h), t), torch.where(taken.unsqueeze(1), new, state)
            slope, h, after = torch.where(taken.unsqueeze(1), slopes[-1], slope), h * factor, ~taken
            tiny = after & (h.abs() < 10 * torch.finfo(h.dtype).eps * max(abs(self.t0), abs(self.t1)))
            ended = torch.where(tiny, torch.where(finite, STEP_TOO_SMALL, NOT_FINITE), torch.where(taken & last, DONE, -1))
            ended = torch.where((ended < 0) & (accepted[rows] + rejected[rows] >= self.max_steps), TOO_MANY_STEPS, ended)
            out = ended >= 0
            end[rows[out]], status[rows[out]] = state[out], ended[out].int()
            rows, live = rows[~out], [part[~out] for part in (t, h, state, slope, after)]
        stats = torch.stack((2 + (accepted + rejected) * (stages - 1), accepted, rejected, status), 1).to(torch.int32)
        return end, stats, _strides(times, sizes, accepted, t)

    def _norm(self, value: Tensor, size: Tensor) -> Tensor:
        return (value / (self.atol + self.rtol * size)).square().mean(1).sqrt()

    def _first(self, state: Tensor, slope: Tensor) -> Tensor:
        """Hairer's choice."""
        size, span = state.abs(), self.t1 - self.t0
        d0, d1 = self._norm(state, size), self._norm(slope, size)
        guess = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp(max=abs(span))
        signed = torch.copysign(guess, torch.full_like(guess, span))
        ahead = self.field(self.t0 + signed, state + signed.unsqueeze(1) * slope)
        most = torch.maximum(d1, self._norm(ahead - slope, size) / guess)
        h = torch.where(most <= 1e-15, (guess * 1e-3).clamp(min=1e-6), (0.01 / most) ** (1 / self.tableau.order))
        h = torch.minimum(100 * guess, torch.where(torch.isfinite(h), h, guess)).clamp(max=abs(span))
        return torch.copysign(h, torch.full_like(h, span))


def _strides(times: list[Tensor], sizes: list[Tensor], accepted: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Accepted steps without the rejected attempts between them."""
    if not times:
        return like.new_zeros(0, len(accepted)), like.new_zeros(0, len(accepted))
    t, h = torch.stack(times), torch.stack(sizes)
    order = torch.sort((h == 0).to(torch.uint8), dim=0, stable=True).indices[: int(accepted.max())]
    return t.gather(0, order), h.gather(0, order)
