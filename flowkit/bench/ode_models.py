"""The jobs of a continuous flow that are timed, its weights, and the true results by which every library is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bench.contender import Check, Contender, Group
from flowkit.bench.flow_models import distance
from flowkit.bench.session import Session
from flowkit.continuous import MLPField
from flowkit.flows import ContinuousFlow

TOLERANCE = 1e-5  # rtol and atol of the adaptive solves that are timed
STRICT = 1e-6  # of those that are verified: at 1e-5 the solver's own error, up to 5e-4, would hide a mistake
AGREEMENT = 1e-4
WEIGHTS = ("W1", "b1", "r1", "W2", "b2", "W3", "b3")
Results = dict[str, Any]


@dataclass(frozen=True)
class OdeSpec:
    """Sizes of a velocity field, tanh(W2 tanh(W1 x + r1 t + b1) + b2) before the last layer, and of a batch.

    Args:
        features, width, batch: d, w, B.
        gain: times which the usual starting weights are taken, so that the field bends as a trained one does.
    """

    features: int = 2
    width: int = 64
    batch: int = 256
    gain: float = 2.5

    def describe(self) -> str:
        """In a few words."""
        return f"d = {self.features}, w = {self.width}, batch {self.batch}"

    def weights(self) -> dict[str, Tensor]:
        """Uniform within gain / sqrt(inputs), of a fixed seed."""
        generator, d, w = torch.Generator().manual_seed(0), self.features, self.width
        shapes = {"W1": (w, d), "b1": (w,), "r1": (w,), "W2": (w, w), "b2": (w,), "W3": (d, w), "b3": (d,)}
        inputs = {"W1": d + 1, "b1": d + 1, "r1": d + 1}
        return {name: (2 * torch.rand(shape, generator=generator) - 1) * self.gain / math.sqrt(inputs.get(name, w)) for name, shape in shapes.items()}


@dataclass
class OdeJob:
    """What every library is given.

    Args:
        spec: sizes.
        kind: "solve", from data x to the latent z with log_det, nothing recorded; or "step", the gradient of -mean log p in all weights.
        steps: of rk4 (the 3/8 rule); None for dopri5 with error control.
        device: of all tensors.
    """

    spec: OdeSpec
    kind: Literal["solve", "step"] = "solve"
    steps: int | None = None
    device: str = "cpu"

    @property
    def method(self) -> str:
        """The solver's name, which all libraries share."""
        return "dopri5" if self.steps is None else "rk4"

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """By the names of ``WEIGHTS``."""
        return {name: weight.to(self.device) for name, weight in self.spec.weights().items()}

    @cached_property
    def x(self) -> Tensor:
        """Standard normal data (B, d)."""
        return torch.randn(self.spec.batch, self.spec.features, generator=torch.Generator().manual_seed(1)).to(self.device)

    @cached_property
    def probes(self) -> Tensor:
        """One direction of signs for each sample (B, d)."""
        return torch.randint(0, 2, self.x.shape, generator=torch.Generator().manual_seed(2)).mul(2).sub(1).to(self.x)

    def flow(self, **options: Any) -> ContinuousFlow:
        """Our flow with these weights; per sample where steps are adaptive."""
        field = MLPField(self.spec.features, (self.spec.width,) * 2)
        layers: Any = field.layers
        places = (layers[0].weight, layers[0].bias, field.time, layers[1].weight, layers[1].bias, layers[2].weight, layers[2].bias)
        with torch.no_grad():
            for place, name in zip(places, WEIGHTS, strict=True):
                place.copy_(self.weights[name])
        usual = {"solver": self.method, "steps": self.steps, "rtol": TOLERANCE, "atol": TOLERANCE, "per_sample": self.steps is None}
        return ContinuousFlow(field=field, standardize=False, **{**usual, **options}).to(self.device)

    def contender(
        self, name: str, group: Group, call: Callable[[float], Results], session: Session, nfe: Callable[[], str], *, probed: bool = False
    ) -> Contender:
        """A way to do the job.

        Args:
            name, group: as the table shows them.
            call: does it at a tolerance: z and log_det, or the loss and a gradient by the name of each weight.
            session: whose clock is used.
            nfe: evaluations of the field in the last call.
            probed: whether the divergence is Hutchinson's estimate with ``probes``.
        """
        made = Contender(name, session.timer(lambda: call(TOLERANCE)), None, group)

        def check() -> Check:
            strict = call(STRICT)
            found = self.judge(strict, call(TOLERANCE), probed)
            made.facts["nfe"] = nfe()
            return found

        made.check = check
        return made

    def judge(self, strict: Mapping[str, Any], timed: Mapping[str, Any], probed: bool = False) -> Check:
        """How far results at the strict tolerance are from the true ones; how far those that are timed are is told beside."""
        true = self._true_probed if probed else self._true
        for found in (strict, timed):
            if set(found) != set(true):
                raise ValueError(f"results {sorted(found)} where {sorted(true)} are wanted")
        error, own = (max(distance(found[name], true[name]) for name in true) for found in (strict, timed))
        what = "z, log_det" if self.kind == "solve" else "loss, gradients"
        return Check(error, AGREEMENT, what if self.steps is not None else f"as timed {own:.1e}; {what} at {STRICT:.0e}")

    @cached_property
    def _true(self) -> Results:
        return self._judge_of(None)

    @cached_property
    def _true_probed(self) -> Results:
        return self._judge_of(self.probes.double())

    def _judge_of(self, probes: Tensor | None) -> Results:
        """In float64: of fixed steps the same steps, of adaptive ones the solution to 1e-9; by our plain engine."""
        tight: dict[str, Any] = {} if self.steps is not None else {"solver": "dopri8"}
        flow = self.flow(divergence="auto" if probes is None else "hutchinson", **tight).double()
        return Plain(self, flow, self.x.double(), probes)(1e-9)


class Ours:
    """Our flow's two jobs as users run them: the whole trajectory is one kernel where there is one.

    Args:
        job: what to do.
        flow: whose weights are the job's.
        x: data (B, d).
    """

    def __init__(self, job: OdeJob, flow: ContinuousFlow, x: Tensor) -> None:
        self.job, self.flow, self.x = job, flow, x
        field: Any = flow.field
        first, second, last = field.layers
        self.parameters = dict(zip(WEIGHTS, (first.weight, first.bias, field.time, second.weight, second.bias, last.weight, last.bias), strict=True))

    def __call__(self, tolerance: float = TOLERANCE) -> Results:
        continuous: Any = self.flow.bijector
        continuous.rtol = continuous.atol = tolerance
        if self.job.kind == "solve":
            with torch.no_grad():
                z, log_det = self.inverse()
                return {"z": z, "log_det": log_det}
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = -self.log_prob().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach(), **{name: parameter.grad for name, parameter in self.parameters.items()}}

    def inverse(self) -> tuple[Tensor, Tensor]:
        """z (B, d) and log_det (B)."""
        return self.flow.bijector.inverse(self.x)

    def log_prob(self) -> Tensor:
        """(B)."""
        return self.flow.log_prob(self.x)

    def nfe(self) -> str:
        """Of a solve; the gradient goes back through accepted steps only."""
        continuous: Any = self.flow.bijector
        with torch.no_grad():
            return counted(continuous.transport(self.x, inverse=True).stats.nfe)


class Plain(Ours):
    """The same by ``numerics.ode.solve`` in plain torch, past the kernel; with probes by Hutchinson's estimate."""

    def __init__(self, job: OdeJob, flow: ContinuousFlow, x: Tensor, probes: Tensor | None = None) -> None:
        super().__init__(job, flow, x)
        self.probes, self.evaluations = probes, ""

    def inverse(self) -> tuple[Tensor, Tensor]:
        continuous: Any = self.flow.bijector
        found = continuous.transport(self.x, inverse=True, times=(1.0, 0.0), probes=None if self.probes is None else self.probes.unsqueeze(1))
        self.evaluations = counted(found.stats.nfe)  # the kernel serves only where the two ends are not asked for
        return found.value[-1], found.log_det[-1]

    def log_prob(self) -> Tensor:
        z, log_det = self.inverse()
        return self.flow.base.log_prob(z) + log_det

    def nfe(self) -> str:
        return self.evaluations


def counted(evaluations: Any) -> str:
    """Evaluations of the field: a number, or the mean and the most of any sample."""
    found = torch.as_tensor(evaluations)
    if found.dim() == 0 or bool((found == found.flatten()[0]).all()):
        return str(int(found.flatten()[0]))
    return f"{found.double().mean():.0f}, most {int(found.max())}"
