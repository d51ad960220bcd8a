"""Step sizes: error norms, controllers and the first step, each row for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
_GAINS = {"I": (1.0, 0.0, 0.0), "PI": (0.7, -0.4, 0.0), "PID": (0.49, -0.34, 0.1)}  # powers of this error ratio, the last one's and the one's before


@dataclass(frozen=True)
class Tolerance:
    """error ratio = RMS over columns of error / (atol + rtol max(|y0|, |y1|)); columns with an infinite atol do not count.

    Args:
        rtol: relative.
        atol: absolute, a number, or one per column (N,).
        counted: number of columns that count.
    """

    rtol: float
    atol: Tensor | float
    counted: int

    def ratio(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """(r, N) each -> (r,)."""
        return self.norm(error, torch.maximum(y0.abs(), y1.abs()))

    def norm(self, value: Tensor, size: Tensor) -> Tensor:
        """RMS of value / (atol + rtol size): (r, N) -> (r,)."""
        # a component that is and stays zero has no error, also with atol = 0
        scaled = value / (self.atol + self.rtol * size).clamp_min(torch.finfo(size.dtype).tiny)
        return torch.linalg.vector_norm(scaled, dim=1) * self.counted**-0.5 if self.counted else scaled.new_zeros(scaled.shape[0])


class Controller:
    """factor = 0.9 r^(-a/k) r_1^(-b/k) r_2^(-c/k), clipped to [0.2, 10]: r the error ratios of this step and the two before, k the order.

    Args:
        kind: "I" (a = 1), "PI" (0.7, -0.4) or "PID" (0.49, -0.34, 0.1).
        order: of the method.

    Reference: Gustafsson (1991), Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods, for PI; Kennedy,
    Carpenter and Lewis (2000), Low-storage, explicit Runge-Kutta schemes for the compressible Navier-Stokes equations, for PID.
    """

    def __init__(self, kind: str, order: int, who: str = "ode.solve") -> None:
        if kind not in _GAINS:
            raise ConfigError(f"{who}: expected controller to be one of {', '.join(_GAINS)}; got {kind!r}.")
        self.gains, self.order = _GAINS[kind], order
        self.memory = sum(1 for gain in self.gains[1:] if gain)

    def factor(self, ratios: list[Tensor]) -> Tensor:
        """Ratios of this step and the accepted ones before, newest first -> factor of the step size (r,); an error that is not finite shrinks."""
        log_factor = ratios[0].clamp_min(1e-10).log() * (-self.gains[0] / self.order)
        for gain, ratio in zip(self.gains[1:], ratios[1:], strict=False):
            if gain:
                log_factor = log_factor + ratio.clamp_min(1e-10).log() * (-gain / self.order)
        factor = (SAFETY * log_factor.exp()).clamp(SHRINK, GROW)
        return torch.where(torch.isfinite(factor), factor, torch.full_like(factor, SHRINK))


def first_step(tolerance: Tolerance, order: int, y: Tensor, f: Tensor, ahead: Tensor, probe: object) -> Tensor:
    """A step size from the size of the solution, its slope and its bend, per row (r,), >= 0 and at most |ahead|.

    Args:
        y, f: state and slope (r, N); ahead: signed time to go (r,).
        probe: callable (h (r,), y (r, N)) -> slope after an Euler step of h.

    Reference: Hairer, Norsett and Wanner (1993), Solving ordinary differential equations I, II.4.
    """
    size = y.abs()
    d0, d1 = tolerance.norm(y, size), tolerance.norm(f, size)
    small = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(small, torch.full_like(d0, 1e-6), 0.01 * d0 / d1.clamp_min(1e-30))
    h0 = torch.minimum(h0, ahead.abs())
    signed = torch.copysign(h0, ahead)
    bend = probe(signed, y + signed.unsqueeze(1) * f)  # type: ignore[operator]
    d2 = tolerance.norm(bend - f, size) / h0.clamp_min(1e-30)
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(steepest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / steepest.clamp_min(1e-30)) ** (1.0 / order))
    h = torch.minimum(torch.minimum(100 * h0, h1), ahead.abs())
    return torch.where(torch.isfinite(h) & (h > 0), h, torch.full_like(h, 1e-6)).minimum(ahead.abs())
