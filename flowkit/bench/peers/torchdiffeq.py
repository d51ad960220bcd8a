"""torchdiffeq, with the divergence by automatic differentiation, exact or estimated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.bench.contender import Contender
from flowkit.bench.ode_models import TOLERANCE, WEIGHTS, OdeJob, Results
from flowkit.bench.peers.ode_peer import OdePeer
from flowkit.bench.session import Session


class Torchdiffeq(OdePeer):
    """``odeint``, and for gradients also ``odeint_adjoint``, of the pair (x, log_det), as its own example of a continuous flow does it."""

    name, packages = "torchdiffeq", ("torchdiffeq",)

    def contenders(self, job: OdeJob, session: Session) -> Iterator[Contender]:
        for probed in (False, True):
            for adjoint in (False, True) if job.kind == "step" else (False,):
                run = Run(job, probed, adjoint)
                name = f"torchdiffeq, {'Hutchinson' if probed else 'exact'}{', odeint_adjoint' if adjoint else ''}"
                yield job.contender(name, "eager", run, session, run.nfe, probed=probed)


class Slopes(nn.Module):
    """dx/dt and the divergence of a net with two hidden layers.

    Args:
        weights: by name.
        probes: (B, d) for Hutchinson's estimate; None for the exact divergence, by a product with each unit vector.
    """

    def __init__(self, weights: dict[str, Tensor], probes: Tensor | None) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: weight.clone() for name, weight in weights.items()})
        self.probes, self.evaluations = probes, 0

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        recorded, x = torch.is_grad_enabled(), state[0]
        with torch.enable_grad():
            x = x.requires_grad_() if recorded else x.detach().requires_grad_()
            v = self.velocity(t, x)
            divergence = self.trace(v, x, recorded) if self.probes is None else self.estimate(v, x, self.probes, recorded)
        return (v, divergence) if recorded else (v.detach(), divergence.detach())

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """(B, d)."""
        w = self.weights
        h = torch.tanh(functional.linear(x, w["W1"], w["b1"] + w["r1"] * t))
        return functional.linear(torch.tanh(functional.linear(h, w["W2"], w["b2"])), w["W3"], w["b3"])

    @staticmethod
    def estimate(v: Tensor, x: Tensor, probes: Tensor, recorded: bool) -> Tensor:
        """e' J e (B)."""
        (product,) = torch.autograd.grad(v, x, probes, create_graph=recorded)
        return (product * probes).sum(1)

    @staticmethod
    def trace(v: Tensor, x: Tensor, recorded: bool) -> Tensor:
        """The sum of dv_i / dx_i (B)."""
        last = v.shape[1] - 1
        parts = [torch.autograd.grad(v[:, i].sum(), x, create_graph=recorded, retain_graph=recorded or i < last)[0][:, i] for i in range(last + 1)]
        return torch.stack(parts).sum(0)


class Run:
    """One way to do a job; a call gives its results."""

    def __init__(self, job: OdeJob, probed: bool, adjoint: bool) -> None:
        import torchdiffeq

        self.job, self.counts = job, (0, 0)
        self.solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        self.slopes = Slopes(job.weights, job.probes if probed else None)
        self.times = torch.tensor([1.0, 0.0], device=job.device)
        self.options: dict[str, Any] = {"method": job.method}
        if job.steps is not None:
            count = job.steps + 1
            self.options["options"] = {"grid_constructor": lambda slopes, y0, t: torch.linspace(float(t[0]), float(t[-1]), count, device=t.device)}

    def __call__(self, tolerance: float = TOLERANCE) -> Results:
        self.options.update(rtol=tolerance, atol=tolerance)
        self.slopes.evaluations = 0
        if self.job.kind == "solve":
            with torch.no_grad():
                z, log_det = self.integrate()
            self.counts = (self.slopes.evaluations, 0)
            return {"z": z, "log_det": log_det}
        for parameter in self.slopes.parameters():
            parameter.grad = None
        z, log_det = self.integrate()
        forward = self.slopes.evaluations
        loss = (0.5 * z.square().sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi) - log_det).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.counts = (forward, self.slopes.evaluations - forward)
        return {"loss": loss.detach(), **{name: self.slopes.weights[name].grad for name in WEIGHTS}}

    def integrate(self) -> tuple[Tensor, Tensor]:
        """z and log_det."""
        x = self.job.x
        places, tallies = self.solve(self.slopes, (x, x.new_zeros(len(x))), self.times, **self.options)
        return places[-1], tallies[-1]

    def nfe(self) -> str:
        """Forward, and what the adjoint takes backward."""
        forward, backward = self.counts
        return f"{forward} + {backward}" if backward else str(forward)
