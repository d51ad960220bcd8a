"""Diffusion samplers and their objectives on bad input: one clear line each, or counted and survived (B-5)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit.continuous import MLPField
from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.objective import Batch
from flowkit.core.target import Target
from flowkit.distributions import StandardNormal, UniformBox
from flowkit.flows import DiffusionSampler
from flowkit.objectives import DetailedBalance, LogVariance, PathIntegral, SubtrajectoryBalance, TrajectoryBalance

NORMAL = StandardNormal((2,))


class Detached(Target):
    """A density that torch cannot differentiate."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.detach().square().sum(-1)


class WithScore(Detached):
    """The same with a score of its own."""

    def score(self, x: Tensor) -> Tensor:
        return -x


class WrongShape(Target):
    """A density that forgets to sum."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.square()


class Wall(Target):
    """A normal with a value of its own where x_0 > 1."""

    event_shape = (2,)

    def __init__(self, beyond: float, edge: float = 1.0) -> None:
        super().__init__()
        self.beyond, self.edge = beyond, edge

    def log_density(self, x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > self.edge, torch.full_like(x[..., 0], self.beyond), -0.5 * x.square().sum(-1))


class Halves(nn.Module):
    """A flow function of a wrong shape."""

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return x


def sampler(target: Any = NORMAL, **options: Any) -> DiffusionSampler:
    torch.manual_seed(0)
    return DiffusionSampler(target, 5, width=8, **options)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"target": NORMAL, "steps": 0}, "steps to be an int >= 1; got 0"),
        ({"target": NORMAL, "steps": 2.5}, "steps to be an int >= 1; got 2.5"),
        ({"target": NORMAL, "sigma": -1.0}, "sigma to be a finite number > 0; got -1.0"),
        ({"target": NORMAL, "sigma": math.nan}, "sigma to be a finite number > 0; got nan"),
        ({"target": NORMAL, "duration": 0.0}, "duration to be a finite number > 0; got 0.0"),
        ({"target": NORMAL, "clip": math.inf}, "clip to be a finite number > 0; got inf"),
        ({"target": NORMAL, "backward_samples": 0}, "backward_samples to be an int >= 1; got 0"),
        ({"target": "many_well"}, "expected a target or a distribution; got str"),
        ({"target": UniformBox(0.0, 1.0, (2,))}, "expected a target on all of R.n; UniformBox lives on"),
        ({"target": fk.flows.RealNVP(2, 3, layers=1)}, "without context; got RealNVP"),
        ({"target": NORMAL, "control": nn.Linear(2, 2)}, "control to be a velocity field or None; got Linear"),
        ({"target": NORMAL, "control": MLPField(3)}, r"events of shape \(2,\) without context; got one on \(3,\)"),
    ],
)
def test_constructor(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"^DiffusionSampler: .*{what}"):
        DiffusionSampler(**options)


def test_targets_that_cannot_be_used() -> None:
    for call in (lambda flow: flow.sample(3), lambda flow: flow.sample_and_log_prob((3,)), lambda flow: flow.log_prob(torch.zeros(3, 2))):
        with pytest.raises(ConfigError, match=r"^DiffusionSampler: Detached\.log_density carries no gradient"):
            call(sampler(Detached()))
        assert call(sampler(WithScore())) is not None
    field = sampler(Detached(), control=MLPField(2))
    assert field.sample(3).shape == (3, 2) and field.rollout(3).log_weight.isfinite().all()
    with pytest.raises(ShapeError, match=r"WrongShape\.log_density: expected one value for every sample"):
        sampler(WrongShape()).sample(3)
    with pytest.raises(ConfigError, match="expected n to be an int >= 1; got 0"):
        sampler().rollout(0)
    with pytest.raises(ConfigError, match="rollout: expected sigma to be a finite number > 0"):
        sampler().rollout(3, sigma=-1.0)
    with pytest.raises(ShapeError, match="context"):
        sampler().sample(3, torch.zeros(2))


@pytest.mark.parametrize("beyond", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("kind", [SubtrajectoryBalance, TrajectoryBalance, LogVariance, PathIntegral])
def test_energies_that_are_not_finite_are_counted(beyond: float, kind: type) -> None:
    """Where the energy is not finite the score counts as 0 and log mu as -1e6: samples, loss and gradient stay finite."""
    flow = sampler(Wall(beyond))
    assert flow.sample(100, generator=torch.Generator().manual_seed(0)).isfinite().all()
    loss = kind(flow.target).loss(flow, Batch(size=100), torch.Generator().manual_seed(0))
    assert loss.value.isfinite() and 0 < loss.terms["not_finite"] < 0.5
    loss.value.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in flow.parameters())


def test_energies_that_are_finite_nowhere() -> None:
    flow = sampler(Wall(math.nan, -math.inf))
    with pytest.raises(NonFiniteError, match=r"^SubtrajectoryBalance: Wall\.log_density is finite at none of the 40 places on the paths"):
        SubtrajectoryBalance(flow.target, width=8).loss(flow, Batch(size=8))


def test_objectives() -> None:
    with pytest.raises(ConfigError, match="decay to be a finite number > 0; got 0"):
        SubtrajectoryBalance(NORMAL, 0)
    with pytest.raises(ConfigError, match="exploration to be a finite number > 0"):
        DetailedBalance(NORMAL, exploration=0.0)
    with pytest.raises(ConfigError, match="lr_scale to be a finite number > 0"):
        TrajectoryBalance(NORMAL, lr_scale=-1.0)
    with pytest.raises(ConfigError, match="start to be a finite number; got nan"):
        TrajectoryBalance(NORMAL, start=math.nan)
    with pytest.raises(ConfigError, match="score to be one of exact, stopped; got 'stoped'"):
        PathIntegral(NORMAL, score="stoped")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="log_flow to be a module or None; got function"):
        SubtrajectoryBalance(NORMAL, log_flow=lambda t, x: x)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a target or a distribution; got str"):
        LogVariance("many_well")  # type: ignore[arg-type]


def test_losses() -> None:
    flow = sampler()
    with pytest.raises(ConfigError, match=r"^TrajectoryBalance: expected a sampler with rollout\(\) and log_ratio\(\); got RealNVP"):
        TrajectoryBalance(NORMAL).loss(fk.flows.RealNVP(2), Batch(size=8))
    with pytest.raises(ShapeError, match=r"StandardNormal has event shape \(3,\), the flow \(2,\)"):
        LogVariance(StandardNormal((3,))).loss(flow, Batch(size=8))
    with pytest.raises(ConfigError, match=r"expected batch\.size, the number of paths; got none"):
        PathIntegral(NORMAL).loss(flow, Batch())
    with pytest.raises(ConfigError, match="at least 2 paths, a variance needs them; got 1"):
        LogVariance(NORMAL).loss(flow, Batch(size=1))
    with pytest.raises(ShapeError, match=r"expected log_flow\(t, x\) of shape \(5, 8\); got \(5, 8, 2\)"):
        SubtrajectoryBalance(NORMAL, log_flow=Halves()).loss(flow, Batch(size=8))


def test_saved_and_loaded(tmp_path: Path) -> None:
    """A sampler with its target inside is the same after save and load; the target's name is in the description."""
    flow = sampler(fk.targets.ManyWell(4), duration=2.0, backward_samples=3)
    fk.save(flow, tmp_path / "sampler")
    loaded = fk.load(tmp_path / "sampler")
    assert loaded.describe() == flow.describe() and loaded.target.dim == 4
    first, second = (each.sample_and_log_prob((6,), generator=torch.Generator().manual_seed(0)) for each in (flow, loaded))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_support_is_everything() -> None:
    """A sampler has no support= of its own: a bounded target is refused, and said where it lives."""
    with pytest.raises(TypeError):
        DiffusionSampler(NORMAL, support=Box(0.0, 1.0, 2))  # type: ignore[call-arg]
