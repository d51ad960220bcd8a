"""The rational-quadratic spline alone: what its contenders are given, and what they have to give back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowkit.bench.contender import Check, Contender, Group
from flowkit.bench.flow_models import distance
from flowkit.bench.session import Session
from flowkit.kernels.rational_quadratic_spline import rational_quadratic_spline

TOLERANCE = 1e-3
AT_KNOTS = 1e-4  # of the entries of a gradient: it jumps at a knot, where rounding decides on which side a value lies
CHECKED = 8192  # rows at most: on a GPU all of them would not fit in double precision
Call = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
WHAT = ("y", "log_det", "gradient of x", "gradient of parameters")


@dataclass
class SplineJob:
    """A job of splines with linear tails: x (N, D), raw widths, heights and inner slopes (N, D, 3K - 1).

    Args:
        x, params: float32.
        bins, bound, floor: K, half the interval, smallest share of a bin and smallest slope.
        backward: also the gradients of the sum of all outputs.
    """

    x: Tensor
    params: Tensor
    bins: int
    bound: float
    backward: bool
    floor: float = 1e-3

    @cached_property
    def truth(self) -> list[Tensor]:
        """Ours in double precision by the reference: y (N, D), log_det (N,), and with ``backward`` the gradients."""
        x, params = self.x[:CHECKED].double(), self.params[:CHECKED].double()
        return run(lambda x, params: reference(x, params, self.bins, self.bound), x, params, self.backward)

    def contender(
        self, name: str, group: Group, call: Call, session: Session, *, prepare: Callable[[Tensor], Tensor] | None = None, note: str = ""
    ) -> Contender:
        """A contender in this process.

        Args:
            name, group, note: as the table shows them.
            call: (x, params) -> y (N, D), log-slopes (N, D) or their sums (N,).
            session: whose clock is used.
            prepare: our parameters in double precision to the contender's, differentiable; gradients are compared through it.
        """
        raw = self.params if prepare is None else torch.cat([prepare(part.double()).to(part.dtype) for part in self.params.split(CHECKED)])

        def check() -> Check:
            found = run(call, self.x, raw, self.backward)
            if prepare is not None and self.backward:
                own = self.params[:CHECKED].double().requires_grad_()
                found[3] = torch.autograd.grad(prepare(own), own, found[3][:CHECKED].double())[0]
            return self.judge(found)

        return Contender(name, session.timer(lambda: run(call, self.x, raw, self.backward)), check, group, note=note)

    def judge(self, found: list[Any]) -> Check:
        """Compare results with the truth."""
        true = self.truth
        return judged(found, true, 2, ", ".join(WHAT[: len(true)]))


def judged(found: list[Any], true: list[Tensor], outputs: int, what: str) -> Check:
    """Compare outputs, and after them gradients, on the leading rows."""
    errors = [distance(mine[: len(right)], right, 0.0 if number < outputs else AT_KNOTS) for number, (mine, right) in enumerate(zip(found, true, strict=True))]
    worst = max(range(len(errors)), key=lambda number: errors[number])
    return Check(errors[worst], TOLERANCE, what if errors[worst] <= TOLERANCE else f"{what}; tensor {worst} of them")


def reference(x: Tensor, params: Tensor, bins: int, bound: float) -> tuple[Tensor, Tensor]:
    """Our spline in plain torch, log-slopes summed over rows."""
    return rational_quadratic_spline.reference(x, params, bins, -bound, bound, "linear", 1, "none")  # type: ignore[no-any-return]


def run(call: Call, x: Tensor, params: Tensor, backward: bool) -> list[Tensor]:
    """y, log_det (N,), and with ``backward`` the gradients of the sum of both."""
    if not backward:
        with torch.no_grad():
            y, log_det = call(x, params)
            return [y, log_det if log_det.dim() == 1 else log_det.sum(-1)]
    x, params = x.detach().requires_grad_(), params.detach().requires_grad_()
    y, log_det = call(x, params)
    log_det = log_det if log_det.dim() == 1 else log_det.sum(-1)
    grads = torch.autograd.grad(y.sum() + log_det.sum(), (x, params))
    return [y.detach(), log_det.detach(), *grads]


def for_zuko(params: Tensor, bins: int, floor: float) -> Tensor:
    """Raw numbers with which zuko's spline has our bins and slopes; differentiable.

    zuko squashes before the softmax, v -> v / (1 + |v| / c), with c = log(1 / slope) for log-slopes and half of that for bins; our floors
    come after. So the wanted log-share or log-slope u is given as u / (1 - |u| / c), shares centred first, which the softmax does not see.
    """
    limit = -math.log(floor)
    widths, heights, slopes = params.split([bins, bins, bins - 1], dim=-1)
    made = []
    for raw, c in ((widths, limit / 2), (heights, limit / 2), (slopes, limit)):
        if c < limit:
            share = torch.log(floor + (1 - bins * floor) * torch.softmax(raw, dim=-1))
            u = share - (share.amax(-1, keepdim=True) + share.amin(-1, keepdim=True)) / 2
        else:
            u = torch.log(floor + torch.nn.functional.softplus(raw))
        made.append(u / (1 - u.abs() / c))
    return torch.cat(made, dim=-1)
