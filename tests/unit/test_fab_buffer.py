"""FAB's replay buffer, and what a run with one does when it is stopped or when the energy misbehaves."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.objective import Batch
from flowkit.core.target import Target
from flowkit.objectives import FAB
from flowkit.objectives._replay_buffer import ReplayBuffer


class Broken(Target):
    """A normal at 0 with something else at x_0 > edge."""

    def __init__(self, there: float = torch.nan, edge: float = 0.5) -> None:
        super().__init__()
        self.event_shape, self.there, self.edge = (2,), there, edge

    def log_density(self, x: Tensor) -> Tensor:
        value = -0.5 * x.square().sum(-1)
        return torch.where(x[..., 0] > self.edge, torch.full_like(value, self.there), value)


class Detached(Target):
    """A normal whose energy leaves autograd."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.detach().square().sum(-1)


class OwnScore(Detached):
    """The same with a score of its own."""

    def score(self, x: Tensor) -> Tensor:
        return -x


class Misshapen(Target):
    """A normal that keeps the event's axis."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.square()


class Outside(Target):
    """Nothing anywhere that numbers reach."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return torch.nan * x.sum(-1)


def flow(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return fk.flows.RealNVP(2, layers=2, hidden=(8,), **options)


def filled(weights: Tensor) -> ReplayBuffer:
    buffer = ReplayBuffer(len(weights), (1,))
    buffer.add(torch.arange(len(weights))[:, None].float(), weights.log(), torch.zeros(len(weights)))
    return buffer


def test_draws_are_in_proportion_and_without_replacement() -> None:
    """The first of a draw has the weights' law, the second that of the weights left: z-scores of 12 frequencies stay below 4."""
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    buffer, generator, trials = filled(weights), torch.Generator().manual_seed(0), 5000
    pairs = torch.stack([buffer.draw(2, generator) for _ in range(trials)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for i in range(4):
        for j in range(4):
            if i != j:
                want = float(weights[i] * weights[j] / (1 - weights[i]))
                got = float(((pairs[:, 0] == i) & (pairs[:, 1] == j)).double().mean())
                assert abs(got - want) < 4 * (want * (1 - want) / trials) ** 0.5, (i, j, got, want)


def test_weight_zero_is_never_drawn() -> None:
    buffer = ReplayBuffer(8, (1,))
    weights = torch.tensor([0.0, -torch.inf, torch.nan, torch.inf, 1.0, 2.0])
    points, log_probs = torch.arange(6.0)[:, None], torch.tensor([0.0, 0.0, 0.0, 0.0, torch.nan, 0.0])
    buffer.add(points, weights, log_probs)
    assert len(buffer) == 2 and sorted(buffer.points[buffer.draw(8)].flatten().tolist()) == [0.0, 5.0]
    buffer.add(torch.tensor([[torch.nan]]), torch.zeros(1), torch.zeros(1))
    assert len(buffer) == 2


def test_the_oldest_make_room() -> None:
    buffer = ReplayBuffer(3, (1,))
    for start in (0, 2):
        buffer.add(start + torch.arange(2.0)[:, None], torch.zeros(2), torch.zeros(2))
    assert sorted(buffer.points.flatten().tolist()) == [1.0, 2.0, 3.0] and len(buffer) == 3
    buffer.add(torch.arange(10.0, 15.0)[:, None], torch.zeros(5), torch.zeros(5))
    assert sorted(buffer.points.flatten().tolist()) == [12.0, 13.0, 14.0]


def test_weights_refer_to_the_flow_as_it_is() -> None:
    """log w += (1 - alpha) (log q_new - log q_old), whole and unclipped; where log q_new is not finite the point is gone."""
    buffer = filled(torch.ones(3))
    change = buffer.refer(torch.tensor([2, 0]), torch.tensor([-30.0, -torch.inf]), alpha=2.0)
    assert change.tolist() == [30.0, -torch.inf]
    assert buffer.log_weights.tolist() == [-torch.inf, 0.0, 30.0] and buffer.log_probs.tolist() == [0.0, 0.0, -30.0]


def test_a_pass_every_so_many_steps() -> None:
    """Sixteen passes before the first step, then one every third; eval mode changes nothing."""
    model, objective = flow(), FAB(fk.targets.ManyWell(2), buffer=4096, updates_per_pass=3, intermediates=1, leapfrog_steps=1)
    held = []
    for _ in range(7):
        objective.loss(model, Batch(size=8))
        held.append(len(objective.replay))
    assert held == [128, 128, 128, 136, 136, 136, 144]
    objective.eval()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    objective.loss(model, Batch(size=8))
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


def test_step_sizes_reach_the_acceptance_asked_for() -> None:
    """From steps far too long and too short, 20 passes bring every density's acceptance to 0.65; None keeps the steps."""
    model, target = flow(), fk.targets.ManyWell(2)
    for step_size in (3.0, 0.05):
        objective = FAB(target, step_size=step_size, buffer=None, intermediates=2, leapfrog_steps=2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            drawn = objective.draw(model, 256, generator)
        assert ((drawn.acceptance - 0.65).abs() < 0.1).all(), (step_size, drawn.acceptance)
    fixed = FAB(target, step_size=0.3, acceptance=None, buffer=None)
    fixed.draw(model, 64)
    assert fixed.step_sizes.tolist() == pytest.approx([0.3] * 4)


def test_resume_continues_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stopped between two passes ends with the weights, the buffer and the history of one left alone."""

    def run(folder: Path, **options: Any) -> tuple[Any, FAB, Any]:
        model, objective = flow(), FAB(fk.targets.ManyWell(2), buffer=150, updates_per_pass=4, intermediates=2, leapfrog_steps=1)
        result = fk.fit(model, None, objective, max_steps=15, batch_size=8, seed=3, run_dir=folder, progress=False, **options)
        return model, objective, result

    model, objective, whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(FAB, "on_step_end", lambda self, model, step: signal.raise_signal(signal.SIGINT) if step == 6 else None)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    again, resumed, rest = run(tmp_path / "stopped", resume=True)
    assert rest.steps == 15 and int(objective.replay.written) == 152
    for one, other in ((model, again), (objective, resumed)):
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {k: v for k, v in whole.history.items() if k != "seconds"} == {k: v for k, v in rest.history.items() if k != "seconds"}


@pytest.mark.parametrize("transition", ["hmc", "metropolis"])
@pytest.mark.parametrize("there", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_energy_never_reaches_the_buffer(there: float, transition: Any) -> None:
    """B-5: chains that start where the energy is not finite have weight zero and are counted; no point of the buffer is there; training goes on."""
    model, objective = flow(), FAB(Broken(there), transition=transition, buffer=2048, intermediates=1, leapfrog_steps=2)
    result = fk.fit(model, None, objective, max_steps=9, batch_size=64, seed=0, progress=False)
    held = objective.replay.points[: len(objective.replay)]
    assert len(held) > 500 and (held[:, 0] <= 0.5).all() and torch.isfinite(objective.replay.log_weights[: len(held)]).all()
    assert 0.1 < result.history["lost"][-1] < 0.5  # of a standard normal 0.31 lies beyond 0.5
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("buffer", [None, 256])
def test_bad_targets_are_one_clear_error(buffer: int | None) -> None:
    """B-5: nothing but NaN, no gradient, another shape; each named."""
    model, options = flow(), {"buffer": buffer, "intermediates": 1}

    def step(target: Target, **more: Any) -> None:
        FAB(target, **options, **more).loss(model, Batch(size=8))

    with pytest.raises(NonFiniteError, match=r"^FAB: Outside.log_density is NaN or infinite on all 8 draws of the flow. Start"):
        step(Outside())
    with pytest.raises(ConfigError, match=r"^FAB, transition='hmc': Detached.log_density carries no gradient"):
        step(Detached())
    step(Detached(), transition="metropolis")
    step(OwnScore())
    with pytest.raises(ShapeError, match=r"^FAB.*Misshapen.log_density: expected one value for every sample, shape \(8,\); got \(8, 2\)"):
        step(Misshapen())
    with pytest.raises(ShapeError, match="event shape"):
        step(fk.targets.ManyWell(4))


def test_bad_arguments_and_models() -> None:
    target = fk.targets.ManyWell(2)
    for wrong in (
        {"alpha": 0.0},
        {"alpha": torch.nan},
        {"intermediates": 0},
        {"transition": "gibbs"},
        {"leapfrog_steps": 0},
        {"transitions": 0},
        {"step_size": -1.0},
        {"acceptance": 1.0},
        {"acceptance": "most"},
        {"buffer": 0},
        {"updates_per_pass": 0},
        {"clip": 0.0},
    ):
        with pytest.raises(ConfigError, match=f"^FAB: expected {next(iter(wrong))}"):
            FAB(target, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a target"):
        FAB(torch.nn.Linear(2, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without a context"):
        FAB(target).loss(flow(context_features=1), Batch(size=4))
    with pytest.raises(ConfigError, match="expected a flow with an exact density; got Linear"):
        FAB(target).loss(torch.nn.Linear(2, 1), Batch(size=4))
    with pytest.raises(ConfigError, match="density that is 'estimate'"):
        FAB(target).loss(fk.flows.ContinuousFlow(2, hidden=(8,), divergence="hutchinson"), Batch(size=4))


def test_float64() -> None:
    """The buffer takes the flow's dtype."""
    model, objective = flow().double(), FAB(fk.targets.ManyWell(2), buffer=256, intermediates=1)
    assert objective.loss(model, Batch(size=16)).value.dtype == torch.float64
    assert objective.replay.points.dtype == objective.replay.log_weights.dtype == torch.float64
