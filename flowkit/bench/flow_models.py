"""A flow of any library with the three jobs that are timed, and the values by which it is verified."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.bench.contender import Check, Contender, Group
from flowkit.bench.models import Conditioners, FlowSpec, flowjax_weights, parameters_of
from flowkit.bench.session import Session
from flowkit.bench.timing import Timer
from flowkit.core.flow import Flow

JOBS = ("step", "log_prob", "sample")
LR, STEPS = 1e-3, 3  # of Adam, and how many of its steps are compared
TOLERANCE = 1e-4  # ten to a thousand times the errors of float32 here


@dataclass
class Data:
    """What all flows of a comparison see: x (N, D), z (M, D), and how many draws are timed."""

    x: Tensor
    z: Tensor
    draws: int

    @classmethod
    def normal(cls, features: int, batch: int, draws: int, device: str) -> Data:
        """Standard normal x and z; z within four deviations."""
        generator = torch.Generator().manual_seed(1)
        x, z = torch.randn(batch, features, generator=generator), torch.randn(min(256, draws), features, generator=generator).clamp(-4, 4)
        return cls(x.to(device), z.to(device), draws)


class FlowModel(ABC):
    """A flow of some library.

    Attributes:
        name, group, note: as the table shows them.
        parameters: number of trained numbers.
        twin: our flow that computes the same, to be agreed with.
    """

    name: str
    group: Group
    note: str
    parameters: int
    twin: Flow

    @abstractmethod
    def timer(self, job: str, data: Data) -> Timer:
        """Clock of ``step``, ``log_prob`` or ``sample``."""

    @abstractmethod
    def values(self, job: str, data: Data) -> dict[str, Any]:
        """What verifies a job: ``losses``, ``log_prob``, or ``generated`` from z and ``encoded`` from that."""

    def close(self) -> None:
        """Let go of what the model holds."""

    def contender(self, job: str, data: Data) -> Contender:
        """The model in a comparison of one job."""
        made = Contender(self.name, lambda repeats: take(repeats), None, self.group, self.parameters, self.note)
        take = self.timer(job, data)
        made.check = lambda: self._check(job, data, made)
        return made

    def _check(self, job: str, data: Data, made: Contender) -> Check:
        values, true = self.values(job, data), true_values(self.twin, job, data)
        if job == "sample":
            made.facts["round_trip"] = float(np.abs(_array(values.pop("encoded")) - _array(data.z)).max())
        what = {"step": f"losses of {STEPS} Adam steps", "log_prob": "log_prob", "sample": "x from given z"}[job]
        return Check(max(distance(values[name], true[name]) for name in values), TOLERANCE, what)


def distance(found: Any, true: Any, spare: float = 0.0) -> float:
    """Largest difference over the largest true number, that share of the entries left out which differ most; infinite where one is not finite."""
    a, b = _array(found), _array(true)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    if not b.size:
        return 0.0
    off, left_out = np.abs(a - b).ravel(), int(spare * b.size)
    worst = np.partition(off, -left_out - 1)[-left_out - 1] if left_out else off.max()
    return float(worst / max(np.abs(b).max(), 1e-300))


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)


class TorchModel(FlowModel):
    """A flow in this process.

    Args:
        name, group, note: as the table shows them.
        module: holds the parameters.
        log_prob, sample, generate, encode: (N, D) -> (N,); count -> (count, D); z -> x; x -> z.
        twin: our flow that computes the same.
        session: whose clock is used.
    """

    def __init__(
        self,
        name: str,
        group: Group,
        module: nn.Module,
        log_prob: Callable[[Tensor], Tensor],
        sample: Callable[[int], Any],
        generate: Callable[[Tensor], Tensor],
        encode: Callable[[Tensor], Tensor],
        twin: Flow,
        session: Session,
        note: str = "",
    ) -> None:
        self.name, self.group, self.module, self.twin, self.note = name, group, module, twin, note
        self.log_prob, self.sample, self.generate, self.encode, self.session = log_prob, sample, generate, encode, session
        self.parameters = parameters_of(module)
        self.start = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}

    def timer(self, job: str, data: Data) -> Timer:
        self.module.load_state_dict(self.start)  # another job may have trained it
        if job == "step":
            return self.session.timer(training_step(self.module, self.log_prob, data.x))
        call = (lambda: self.log_prob(data.x)) if job == "log_prob" else (lambda: self.sample(data.draws))

        def without_graph() -> Any:
            with torch.no_grad():
                return call()

        return self.session.timer(without_graph)

    def values(self, job: str, data: Data) -> dict[str, Any]:
        self.module.load_state_dict(self.start)
        if job == "step":
            found: dict[str, Any] = {"losses": losses(self.module, self.log_prob, data.x)}
            self.module.load_state_dict(self.start)
            return found
        with torch.no_grad():
            if job == "log_prob":
                return {"log_prob": self.log_prob(data.x)}
            generated = self.generate(data.z)
            return {"generated": generated, "encoded": self.encode(generated)}


def adam(module: nn.Module, lr: float = LR) -> torch.optim.Adam:
    """The optimiser that everybody gets: torch's quickest, which updates all parameters in one call."""
    return torch.optim.Adam(module.parameters(), lr=lr, fused=True)


def training_step(module: nn.Module, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    """A step with an Adam of its own: zero_grad, loss, backward, step."""
    optimizer = adam(module)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = -log_prob(x).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def losses(module: nn.Module, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> list[float]:
    """Losses of the first steps, each before it is taken."""
    step = training_step(module, log_prob, x)
    return [float(step()) for _ in range(STEPS)]


def true_values(flow: Flow, job: str, data: Data) -> dict[str, Any]:
    """What our own flow gives in double precision; the flow is left as it is."""
    twin = copy.deepcopy(flow).double()
    if job == "step":
        return {"losses": losses(twin, twin.log_prob, data.x.double())}
    with torch.no_grad():
        return {"log_prob": twin.log_prob(data.x.double())} if job == "log_prob" else {"generated": twin.to_data(data.z.double())}


class FlowjaxModel(FlowModel):
    """flowjax's flow with our weights, in the JAX process.

    Args:
        spec: sizes.
        twin: our flow with the same scalar map.
        session: whose process it runs in.
    """

    name, group = "flowjax", "jit"

    def __init__(self, spec: FlowSpec, twin: Flow, session: Session, data: Data) -> None:
        self.twin, self.session, self.note = twin, session, "jit, in a process beside"
        arrays = {"x": data.x.cpu().numpy(), "z": data.z.cpu().numpy(), **flowjax_weights(twin, spec)}
        head = {**spec.__dict__, "floor": 1e-3, "lr": LR, "draws": data.draws, "steps": STEPS}
        answer, _ = session.jax.ask("flow", arrays, **head)
        self.jobs, self.parameters = answer["jobs"], int(answer["parameters"])

    def timer(self, job: str, data: Data) -> Timer:
        return self.session.jax.timer(self.jobs[job])

    def values(self, job: str, data: Data) -> dict[str, Any]:
        return dict(self.session.jax.ask("values", job=self.jobs[f"check_{job}"])[1])

    def close(self) -> None:
        for job in self.jobs.values():
            self.session.jax.forget(job)


def floor(spec: FlowSpec, session: Session, job: str, data: Data) -> Contender:
    """The conditioner networks alone, in a step or a pass; random numbers and maps left out."""
    nets = Conditioners(spec).to(data.x.device)
    optimizer = adam(nets)
    x = torch.randn(data.draws, spec.features, device=data.x.device) if job == "sample" else data.x

    def step() -> None:
        optimizer.zero_grad()
        torch.stack([out.mean() for out in nets(x)]).sum().backward()
        optimizer.step()

    def once() -> None:
        with torch.no_grad():
            nets(x)

    return Contender("conditioner networks alone", session.timer(step if job == "step" else once), None, "floor", parameters_of(nets), "no maps")
