"""Mean flows, consistency training and reflow: identities, closed forms, and their toys in the plane."""

from __future__ import annotations

import functools
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.continuous import AverageVelocityField
from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.objectives import ConsistencyTraining, MeanFlow, Reflow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RATE = -1.3


def sizes(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """t <= r and points x, float64."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(2, n, generator=generator, dtype=torch.float64).sort(0).values
    return times[0], times[1], torch.randn(n, 1, generator=generator, dtype=torch.float64)


class Formula(VectorField):
    """An average velocity given by a formula of (t, r, x)."""

    def __init__(self, formula: Callable[[Tensor, Tensor, Tensor], Tensor], features: int = 1) -> None:
        super().__init__()
        self.formula, self.event_shape = formula, (features,)

    def average_velocity(self, t: Tensor, r: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return self.formula(t.unsqueeze(-1), r.unsqueeze(-1), x)


# -- mean flow: the identity ------------------------------------------------------------------------------------


def test_target_is_the_derivative_along_the_path() -> None:
    """continuous-C.10.7: v + (r - t) du/dt against central differences of u along (t, r, x) + h (1, 0, v), 1e-6 in float64."""
    torch.manual_seed(0)
    field = AverageVelocityField(3, (16, 16)).double()
    generator = torch.Generator().manual_seed(1)
    t, r = torch.rand(2, 50, generator=generator, dtype=torch.float64).sort(0).values
    x, v = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        target, h = MeanFlow().target(field, t, r, x, v), 1e-5
        slope = (field.average_velocity(t + h, r, x + h * v) - field.average_velocity(t - h, r, x - h * v)) / (2 * h)
    assert (target - (v + (r - t)[:, None] * slope)).abs().max() <= 1e-6


LINEAR = {  # velocity v(t, x) and its average u(t, r, x): x_r = x exp(int_t^r a)
    "constant_rate": (lambda t, x: RATE * x, lambda t, r, x: x * torch.expm1(RATE * (r - t)) / (r - t)),
    "growing_rate": (lambda t, x: RATE * t * x, lambda t, r, x: x * torch.expm1(RATE * (r * r - t * t) / 2) / (r - t)),
}


@pytest.mark.parametrize("name", list(LINEAR))
def test_identity_holds_for_linear_fields(name: str) -> None:
    """continuous-C.10.7: u = v + (r - t) du/dt to 1e-10 for linear fields in one dimension; with the other sign, the paper's time, it does not."""
    velocity, average = LINEAR[name]
    t, r, x = sizes(200)
    r = (r + 0.05).clamp(max=1.0)
    t = torch.minimum(t, r - 0.01)
    field, v = Formula(average), velocity(t[:, None], x)
    u, target = field.average_velocity(t, r, x), MeanFlow().target(field, t, r, x, v)
    assert (target - u).abs().max() <= 1e-10
    assert (2 * v - target - u).abs().max() > 0.1  # v - (r - t) du/dt
    still = v + (r - t)[:, None] * torch.func.jvp(lambda time: field.average_velocity(time, r, x), (t,), (torch.ones_like(t),))[1]
    assert (still - u).abs().max() > 0.1  # x held still


def test_average_velocity_jumps_along_the_trajectory() -> None:
    """continuous-C.5: x + (r - t) u(t, r, x) is where the ODE from x at t is at r, and two jumps are one."""
    t, r, x = torch.tensor([0.2]), torch.tensor([0.9]), torch.tensor([[1.7]])
    for velocity, average in LINEAR.values():
        at, steps = x.double(), 1000
        h = float(r - t) / steps
        for i in range(steps):
            middle = at + 0.5 * h * velocity(torch.tensor([[0.2 + i * h]]).double(), at)
            at = at + h * velocity(torch.tensor([[0.2 + (i + 0.5) * h]]).double(), middle)
        jumped = x + (r - t) * average(t[:, None], r[:, None], x)
        assert abs(float(at - jumped)) <= 1e-5


def test_field_at_equal_times_is_the_velocity() -> None:
    """u(t, t, x) = v(t, x), with the divergence of the same function, and u depends on r."""
    torch.manual_seed(0)
    field = AverageVelocityField(3, (16, 16), context_features=2).double()
    generator = torch.Generator().manual_seed(2)
    t, r = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    x, context = torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.randn(5, 2, generator=generator, dtype=torch.float64)
    assert torch.equal(field.average_velocity(t, t, x, context), field.velocity(t, x, context))
    assert not torch.allclose(field.average_velocity(t, r, x, context), field.velocity(t, x, context))
    assert torch.equal(field.jump(t, t, x, context), x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda at, time, c: field.velocity(time, at, c)))(x, t, context)
    assert (field.divergence(t, x, context) - jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)).abs().max() <= 1e-12


# -- mean flow: the loss ----------------------------------------------------------------------------------------


def small_flow(**options: Any) -> Any:
    torch.manual_seed(0)
    return fk.flows.AverageVelocityFlow(2, hidden=(16, 16), standardize=False, **options)


def batch_of(n: int = 256) -> Tensor:
    return 1.0 + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(3))


def test_times_are_the_papers_in_reversed_time() -> None:
    """continuous-C.5: t <= r; 75 % equal; 1 - time is sigmoid(N(-0.4, 1)), by Kolmogorov's distance."""
    t, r, apart = MeanFlow()._times(torch.zeros(40_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert bool((t <= r).all()) and apart == 10_000
    assert bool((t[apart:] == r[apart:]).all()) and bool((t[:apart] < r[:apart]).all())
    noise_level = 1 - torch.cat([t, r[:apart]]).sort().values
    law = torch.distributions.Normal(-0.4, 1.0).cdf(torch.logit(noise_level.flip(0)))
    n = len(law)
    assert (law - torch.linspace(0, 1, n, dtype=torch.float64)).abs().max() <= 1.95 / math.sqrt(n)  # p = 0.001


def test_adaptive_weight_scales_the_gradient() -> None:
    """continuous-C.5: with power 1 a single row's gradient is that of its squared error over (error + offset)."""
    flow, x = small_flow(), batch_of(1)
    found = []
    for power in (0.0, 1.0):
        flow.zero_grad()
        loss = MeanFlow(power=power).loss(flow, Batch(x), torch.Generator().manual_seed(0))
        loss.value.backward()
        found.append((torch.cat([p.grad.flatten() for p in flow.parameters()]), loss.terms["squared_error"]))
    (plain, error), (weighted, _) = found
    assert torch.allclose(weighted, plain / (error + 0.01), rtol=1e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_guidance_replaces_the_velocity(classes: int) -> None:
    """continuous-C.5: rows with a context learn omega v + (1 - omega - kappa) u(null) + kappa u(c), rows without one v."""
    flow = small_flow(classes=classes) if classes else small_flow(context_features=1)
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 64, 2, generator=generator)
    context = torch.randint(0, 3, (64,), generator=generator) if classes else torch.randn(64, 1, generator=generator)
    from flowkit.objectives._ends import Ends
    from flowkit.objectives._label_drop import drop_contexts

    objective = MeanFlow(guidance=2.5, mix=0.4)
    dropped = drop_contexts(flow, context, 0.5, x1, generator)
    t = torch.rand(64, generator=generator)
    got = objective._velocity(flow.field, t, x0, Ends(x0, x1), dropped)
    null = flow.embed_context(torch.full_like(context, -1)) if classes else torch.zeros(64, 1)
    own = flow.embed_context(context)
    wanted = 2.5 * (x1 - x0) + (1 - 2.5 - 0.4) * flow.field.velocity(t, x0, null) + 0.4 * flow.field.velocity(t, x0, own)
    kept = ~dropped.mask
    assert 10 < int(kept.sum()) < 54
    assert torch.allclose(got[kept], wanted[kept], atol=1e-6) and torch.equal(got[~kept], (x1 - x0)[~kept])
    seen = torch.where(dropped.mask[:, None], null, own)
    assert torch.equal(dropped.seen, seen)


# -- sampling ---------------------------------------------------------------------------------------------------


def test_steps_are_jumps_from_noise_to_data() -> None:
    """sample(steps=k) takes k jumps over equal times; with renoise every jump but the first starts from noise mixed in again."""
    flow = small_flow().double()
    z = flow.base.sample(4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        zero, half, one = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 0.5, 1.0))
        assert torch.equal(flow.sample(4, generator=torch.Generator().manual_seed(5), steps=1), flow.field.jump(zero, one, z))
        two = flow.field.jump(half, one, flow.field.jump(zero, half, z))
        assert torch.allclose(flow.sample(4, generator=torch.Generator().manual_seed(5), steps=2), two)
        generator = torch.Generator().manual_seed(5)
        first = flow.field.jump(zero, one, flow.base.sample(4, generator=generator))
        again = 0.5 * flow.base.sample(4, generator=generator) + 0.5 * first
        renoised = flow.sample(4, generator=torch.Generator().manual_seed(5), steps=2, renoise=True)
        assert torch.allclose(renoised, flow.field.jump(half, one, again))
    standardized = fk.flows.AverageVelocityFlow(2, hidden=(8, 8))
    standardized.set_standardizer([10.0 + 2.0 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))])
    assert abs(float(standardized.sample(500, generator=torch.Generator().manual_seed(0), steps=1).mean()) - 10.0) < 3.0


# -- consistency ------------------------------------------------------------------------------------------------


def test_consistency_function() -> None:
    """continuous-C.5: f(1, x) = x bitwise; f is constant along the trajectories of a linear field whose average velocity is exact."""
    flow = small_flow()
    x = batch_of(16)
    assert torch.equal(ConsistencyTraining.consistency(flow.field, torch.ones(16), x), x)
    for velocity, average in LINEAR.values():
        t, _, at = sizes(100)
        t = t.clamp(max=0.98)
        value = functools.partial(ConsistencyTraining.consistency, Formula(average))
        _, slope = torch.func.jvp(value, (t, at), (torch.ones_like(t), velocity(t[:, None], at)))
        assert slope.abs().max() <= 1e-10


def test_grid_doubles() -> None:
    """N grows by doublings from the first of ``intervals`` to the second, and stays there."""
    objective, seen = ConsistencyTraining(intervals=(10, 70), growth_steps=400), []
    for step in (0, 99, 100, 200, 300, 399, 400, 10_000):
        objective.on_step_end(torch.nn.Identity(), step)
        seen.append(int(objective.count()))
    assert seen == [10, 10, 20, 40, 70, 70, 70, 70]


# -- reflow -----------------------------------------------------------------------------------------------------


class NormalVelocity(VectorField):
    """The velocity of straight independent paths from N(0, 1) to N(1, s^2)."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread, self.event_shape = spread, (1,)

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        t = t.unsqueeze(-1) if t.dim() else t
        variance = (1 - t) ** 2 + (t * self.spread) ** 2
        return 1.0 + ((t * self.spread**2 - (1 - t)) / variance) * (x - t)


def test_straightness_of_a_normal_flow() -> None:
    """continuous-C.3: S = int E|x1 - x0 - v|^2 dt against its closed form int (s - 1 - d sqrt(V)/dt)^2 dt, within Monte Carlo error."""
    spread, n = 0.3, 20_000
    flow = fk.flows.ContinuousFlow(1, field=NormalVelocity(spread), standardize=False).double()
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    deviation = ((1 - t) ** 2 + (t * spread) ** 2).sqrt()
    rate = (t * spread**2 - (1 - t)) / deviation
    wanted = float(torch.trapezoid((spread - 1 - rate) ** 2, t))
    got = Reflow.straightness(flow, n, steps=200, generator=torch.Generator().manual_seed(0))
    assert abs(got - wanted) <= 5 * wanted * math.sqrt(2 / n) + 1e-4 * wanted, (got, wanted)


def test_teacher_is_left_alone() -> None:
    """A fit by reflow of the teacher itself moves the model, but neither the pairs nor the objective's copy of the teacher."""
    torch.manual_seed(0)
    model = fk.flows.ContinuousFlow(2, hidden=(8, 8), solver="rk4", steps=4, standardize=False)
    objective = Reflow(model)
    before = {key: value.clone() for key, value in objective.teacher.state_dict().items()}
    ends = objective.pairs(model, Batch(size=8), torch.Generator().manual_seed(0))
    fit = fk.fit(model, None, objective, max_steps=5, batch_size=32, seed=0, progress=False)
    assert fit.steps == 5
    assert all(torch.equal(value, before[key]) for key, value in objective.teacher.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again = objective.pairs(model, Batch(size=8), torch.Generator().manual_seed(0))
    assert torch.equal(ends.x0, again.x0) and torch.equal(ends.x1, again.x1)
    assert torch.allclose(ends.x1, objective.teacher.to_data(ends.x0), atol=1e-6)
    assert "straightness" in " ".join(fit.history)


def test_distilling_trains_where_euler_steps_look() -> None:
    """continuous-C.3: with distill=k the velocity is trained at times 0, 1/k, .., (k-1)/k only."""
    seen: list[Tensor] = []

    class Recorder(NormalVelocity):
        def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
            seen.append(t)
            return super().velocity(t, x, context)

    teacher = fk.flows.ContinuousFlow(1, field=NormalVelocity(0.5), standardize=False, solver="rk4", steps=4)
    student = fk.flows.ContinuousFlow(1, field=Recorder(0.5), standardize=False)
    Reflow(teacher, distill=4).loss(student, Batch(size=500), torch.Generator().manual_seed(0))
    assert sorted(set(seen[-1].tolist())) == [0.0, 0.25, 0.5, 0.75]


# -- trainings --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reflow_from_eight_gaussians_to_moons(monkeypatch: pytest.MonkeyPatch) -> None:
    """continuous-C.10.6: straightness falls at least fivefold and the W2 of one Euler step improves by at least 30 %."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = runpy.run_path(str(BENCHMARKS / "reflow_2d.py"))
    rows = study["study"](seed=0)
    first, second = rows["rectified"], rows["reflowed"]
    assert first.straightness >= 5 * second.straightness, rows
    assert second.one_step <= 0.7 * first.one_step, rows


@pytest.mark.slow
def test_mean_flow_in_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """continuous-C.10.7: W2 of one step within 0.35 of the two-sample floor; with the tangent (v, 0, 0) at least twice as bad."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = runpy.run_path(str(BENCHMARKS / "mean_flow_2d.py"))
    rows = study["study"](seed=0, only=("mean_flow", "wrong_tangent"))
    floor = rows["floor"]
    assert rows["mean_flow"].one_step <= floor + 0.35, rows
    assert rows["wrong_tangent"].one_step >= 2 * rows["mean_flow"].one_step, rows
