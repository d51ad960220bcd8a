"""Flow matching against finite differences, and closed forms: paths, conversions, fields, the objective (spec continuous C)."""

from __future__ import annotations

import math
import sys
from pathlib import Path as FilePath
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from flowkit.continuous import GuidedField, MLPField, PredictionField, RescheduledField
from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.flows import ContinuousFlow
from flowkit.numerics.schedules import Quantity, Schedule, convert
from flowkit.objectives import FlowMatching
from flowkit.objectives._paths import Path
from flowkit.objectives._times import TimeLaw

sys.path.insert(0, str(FilePath(__file__).parents[2] / "benchmarks"))
import flow_matching_2d as study  # type: ignore[import-not-found]

AFFINE: tuple[Any, ...] = ("linear", "trig", "vp", "linear_vp", "polynomial", {"name": "polynomial", "power": 3.0}, "target_ot")
SMOOTH: tuple[Any, ...] = ("linear", "trig", "polynomial", {"name": "polynomial", "power": 1.5})  # from pure noise to pure data, finite rates
QUANTITIES = get_args(Quantity)
DTYPE = torch.float64


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


# -- C.10.1 -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("path", [*AFFINE, "bridge"], ids=str)
def test_velocity_is_the_derivative_of_the_place(path: Any, sigma: float) -> None:
    """continuous-C.10.1: u_t equals the finite-difference derivative of x_t at fixed eps to 1e-7."""
    if path == "bridge" and sigma == 0:
        sigma = 1.0
    made, h = Path.of(path, sigma, "test"), 1e-5
    x0, x1, eps = (draws(40, 3, seed=seed) for seed in range(3))
    t = torch.linspace(0.05, 0.95, 40, dtype=DTYPE)
    after, before = (made.at(t + step, x0, x1, eps).x for step in (h, -h))
    velocity = made.at(t, x0, x1, eps).velocity
    assert ((after - before) / (2 * h) - velocity).abs().max() <= 1e-7


@pytest.mark.parametrize("path", AFFINE, ids=str)
def test_conversions_round_trip(path: Any) -> None:
    """continuous-C.10.1: velocity <-> data <-> noise <-> score round-trip to 1e-12, and agree with the path they come from."""
    schedule = Schedule.of(path, "test", smallest=0.1)
    x0, x1, t = draws(50, 2), draws(50, 2, seed=1), torch.linspace(0.1, 0.9, 50, dtype=DTYPE).unsqueeze(1)
    at = schedule.coefficients(t)
    x = at.alpha * x1 + at.sigma * x0
    true: dict[str, Tensor] = {"velocity": at.alpha_rate * x1 + at.sigma_rate * x0, "data": x1, "noise": x0, "score": -x0 / at.sigma}
    for source in QUANTITIES:
        for target in QUANTITIES:
            there = convert(true[source], x, source, target, at)
            assert ((there - true[target]) / (1 + true[target].abs())).abs().max() <= 1e-11
            back = convert(there, x, target, source, at)
            assert ((back - true[source]) / (1 + true[source].abs())).abs().max() <= 1e-12


@pytest.mark.parametrize("path", AFFINE, ids=str)
def test_time_of_a_ratio(path: Any) -> None:
    schedule = Schedule.of(path, "test", smallest=0.1)
    t = torch.linspace(0.01, 0.99, 60, dtype=DTYPE)
    at = schedule.coefficients(t)
    assert torch.allclose(schedule.time_at(3 * at.alpha, 3 * at.sigma), t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", [*AFFINE, "bridge"], ids=str)
def test_finite_at_the_ends_in_single_precision(path: Any) -> None:
    made = Path.of(path, 0.5, "test")
    t = torch.tensor([0.0, 1e-30, 1e-7, 0.5, 1 - 6e-8, 1.0])
    x0, x1, eps = (draws(6, 2, seed=seed).float() for seed in range(3))
    located = made.at(t, x0, x1, eps)
    assert located.x.isfinite().all() and located.velocity.isfinite().all() and located.velocity.abs().max() < 1e3


def test_ends_of_the_linear_path_are_exact() -> None:
    x0, x1 = 1e3 * draws(9, 4).float(), draws(9, 4, seed=1).float()
    path = Path.of("linear", 0.0, "test")
    assert torch.equal(path.at(torch.zeros(9), x0, x1).x, x0) and torch.equal(path.at(torch.ones(9), x0, x1).x, x1)


# -- C.10.2 -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.2, 0.7])
@pytest.mark.parametrize(("path", "sigma"), [("linear", 0.0), ("linear", 0.4), ("vp", 0.0), ("trig", 0.0), ("target_ot", 0.2), ("bridge", 0.8)])
def test_conditional_velocities_average_to_the_marginal_one(path: str, sigma: float, t: float) -> None:
    """continuous-C.10.2: two-point data in one dimension, 1e6 draws: within 3 standard errors of the closed-form field, in each of six intervals."""
    n, generator = 1_000_000, torch.Generator().manual_seed(4)
    points, share = torch.tensor([-0.4, 0.6], dtype=DTYPE), torch.tensor([0.3, 0.7], dtype=DTYPE)
    x1 = points[(torch.rand(n, generator=generator) < share[1]).long()].unsqueeze(1)
    x0, eps = (torch.randn(n, 1, generator=generator, dtype=DTYPE) for _ in range(2))
    made, time = Path.of(path, sigma, "test"), torch.full((n,), t, dtype=DTYPE)
    x, u = (part.squeeze(1) for part in made.at(time, x0, x1, eps))
    residual = u - marginal_velocity(made, torch.tensor(t, dtype=DTYPE), x, points, share)
    edges = torch.quantile(x[:100_000], torch.linspace(0, 1, 7, dtype=DTYPE)[1:-1])
    for interval in range(6):
        part = residual * (torch.bucketize(x, edges) == interval)
        assert abs(part.mean()) <= 3 * part.std() / math.sqrt(n)


def marginal_velocity(path: Path, t: Tensor, x: Tensor, points: Tensor, share: Tensor) -> Tensor:
    """E[u | x_t = x] for normal x0 and data on the points: x_t is a mixture of normals, u linear in (x0, eps) given the point."""
    if path.schedule is None:
        a, s, da, ds = t, 1 - t, torch.ones_like(t), -torch.ones_like(t)
        e, de = path.sigma * (t * (1 - t)).sqrt(), path.sigma * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
    else:
        (a, s, da, ds), e, de = path.schedule.coefficients(t), torch.tensor(path.sigma, dtype=DTYPE), torch.zeros_like(t)
    variance, rest = s**2 + e**2, x.unsqueeze(1) - a * points
    weight = torch.softmax(share.log() - rest**2 / (2 * variance), 1)
    return (weight * (da * points + (ds * s + de * e) * rest / variance)).sum(1)


# -- C.10.5 -----------------------------------------------------------------------------------------------------------------------------------------


class NormalField(VectorField):
    """What flow matching converges to on data N(m, S): a prediction that is affine in x, with its exact divergence."""

    def __init__(self, schedule: Schedule, predicts: Quantity = "velocity") -> None:
        super().__init__()
        self.event_shape, self.schedule, self.predicted = (2,), schedule, predicts
        self.mean, self.covariance = torch.tensor([1.0, -2.0], dtype=DTYPE), torch.tensor([[1.5, 0.6], [0.6, 0.5]], dtype=DTYPE)

    def _affine(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre, constant and matrix of the conditional expectation of the prediction given x."""
        a, s, da, ds = (part[..., None, None] for part in self.schedule.coefficients(t))
        eye = torch.eye(2, dtype=DTYPE)
        inverse = torch.linalg.inv(a**2 * self.covariance + s**2 * eye)
        data, noise = a * self.covariance @ inverse, s * inverse
        matrix = {"velocity": da * data + ds * noise, "data": data, "noise": noise, "score": -inverse}[self.predicted]
        constant = {"velocity": da.squeeze(-1) * self.mean, "data": self.mean}.get(self.predicted, torch.zeros(2, dtype=DTYPE))
        return a.squeeze(-1) * self.mean, constant, matrix

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        centre, constant, matrix = self._affine(t)
        return constant + (matrix @ (x - centre).unsqueeze(-1)).squeeze(-1)

    def divergence(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:  # type: ignore[override]
        return self._affine(t)[2].diagonal(dim1=-2, dim2=-1).sum(-1).expand(x.shape[:-1])


def normal_flow(field: VectorField) -> ContinuousFlow:
    return ContinuousFlow(field=field, standardize=False, rtol=1e-10, atol=1e-10).double()


@pytest.mark.parametrize("path", SMOOTH, ids=str)
def test_normal_data_are_reached_exactly(path: Any) -> None:
    """continuous-C.10.5: the analytic velocity carries N(0, I) to N(m, S) to 1e-6, and log_prob is the normal's to 1e-6."""
    field = NormalField(Schedule.of(path, "test"))
    flow = normal_flow(field)
    check_normal(flow, field)


@pytest.mark.parametrize("predicts", QUANTITIES)
def test_normal_data_by_any_prediction(predicts: Quantity) -> None:
    """continuous-C.10.5 through ``PredictionField``: whatever is predicted, the flow is the same, its exact divergence too."""
    inner = NormalField(Schedule.of("linear", "test"), predicts)
    field = PredictionField(inner, predicts=predicts, path="linear")
    check_normal(normal_flow(field), inner)
    x, t = draws(7, 2), torch.linspace(0.1, 0.9, 7, dtype=DTYPE)
    velocity = NormalField(inner.schedule)
    assert torch.allclose(field.velocity(t, x), velocity.velocity(t, x), rtol=0, atol=1e-12)
    assert field.divergence is not None and torch.allclose(field.divergence(t, x), velocity.divergence(t, x), rtol=0, atol=1e-12)
    assert torch.allclose(field.converted("data", t, x), NormalField(inner.schedule, "data").velocity(t, x), rtol=0, atol=1e-12)


def check_normal(flow: ContinuousFlow, field: NormalField) -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=DTYPE)
    offset, *columns = flow.to_data(corners)
    matrix = torch.stack([column - offset for column in columns], 1)
    assert (offset - field.mean).abs().max() <= 1e-6 and (matrix @ matrix.T - field.covariance).abs().max() <= 1e-6
    z = 2 * draws(20, 2)
    assert (flow.to_data(z) - (offset + z @ matrix.T)).abs().max() <= 1e-6  # the map is affine, so three points told all of it
    x = field.mean + 2 * draws(50, 2, seed=3)
    expected = torch.distributions.MultivariateNormal(field.mean, field.covariance).log_prob(x)
    assert (flow.log_prob(x) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(("trained", "sampled"), [("linear", "trig"), ("trig", "linear"), ("vp", "linear"), ("linear", "vp"), ("vp", "linear_vp"),
                                                  ("polynomial", "trig"), ("linear", "polynomial"), ("linear_vp", "linear")])  # fmt: skip
def test_another_schedule_at_sampling(trained: str, sampled: str) -> None:
    """On normal data the rescheduled field is the analytic velocity of the new path, divergence too, wherever the old one reaches."""
    old, new = Schedule.of(trained, "test"), Schedule.of(sampled, "test")
    field = RescheduledField(NormalField(old), trained=trained, sampled=sampled)
    r, x = torch.linspace(0.02, 0.98, 49, dtype=DTYPE), draws(49, 2)
    exact = NormalField(new)
    assert torch.allclose(field.velocity(r, x), exact.velocity(r, x), rtol=1e-10, atol=1e-10)
    assert field.divergence is not None and torch.allclose(field.divergence(r, x), exact.divergence(r, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("trained", "sampled", "tolerance"), [("linear", "trig", 1e-7), ("linear", "polynomial", 1e-7), ("vp", "linear", 2e-3)])
def test_rescheduling_keeps_the_ends(trained: str, sampled: str, tolerance: float) -> None:
    """Trajectories of a net on the old and the new schedule end at the same data; a vp path starts at sigma(0) = 0.99998 in place of 1."""
    torch.manual_seed(0)
    inner, z = MLPField(2, (16, 16)).double(), draws(30, 2)
    fields = inner, RescheduledField(inner, trained=trained, sampled=sampled)
    plain, changed = (ContinuousFlow(field=field, standardize=False, rtol=1e-9, atol=1e-9).double() for field in fields)
    assert (plain.to_data(z) - changed.to_data(z)).abs().max() <= tolerance
    assert (plain.log_prob(z) - changed.log_prob(z)).abs().max() <= tolerance


# -- C.10.10 ----------------------------------------------------------------------------------------------------------------------------------------


class LabelField(VectorField):
    """Moves by the label, or by 10 without one."""

    event_shape, context_shape = (2,), ()

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return x + torch.where(context < 0, 10.0, context.double()).unsqueeze(-1)


def test_guidance_of_vectors_is_exact_at_one_and_nought() -> None:
    """continuous-C.10.10: scale 1 is the conditional field and 0 the null one, bitwise."""
    field, context = MLPField(2, (8, 8), context_features=3).double(), draws(5, 3)
    x, t = draws(5, 2), torch.rand(5, dtype=DTYPE)
    given, none = field.velocity(t, x, context), field.velocity(t, x, torch.zeros_like(context))
    assert torch.equal(GuidedField(field, 1).velocity(t, x, context), given) and torch.equal(GuidedField(field, 0.0).velocity(t, x, context), none)
    assert torch.allclose(GuidedField(field, 3.0).velocity(t, x, context), none + 3 * (given - none), rtol=0, atol=1e-13)
    own = torch.ones(3, dtype=DTYPE)
    assert torch.equal(GuidedField(field, 0.0, null=own).velocity(t, x, context), field.velocity(t, x, own.expand(5, 3)))
    guided = GuidedField(field, 3.0)
    trace = torch.stack([torch.func.jacrev(lambda y, i=i: guided.velocity(t[i], y, context[i]))(x[i]).trace() for i in range(5)])  # type: ignore[misc]
    assert guided.divergence is not None and torch.allclose(guided.divergence(t, x, context), trace, rtol=0, atol=1e-12)


def test_guidance_of_labels() -> None:
    x, labels = draws(4, 2), torch.tensor([0, 1, -1, 2])
    t = torch.tensor(0.5)
    assert torch.equal(GuidedField(LabelField(), 0.0).velocity(t, x, labels), x + 10)
    assert torch.equal(GuidedField(LabelField(), 1.0).velocity(t, x, labels), LabelField().velocity(t, x, labels))
    assert torch.allclose(GuidedField(LabelField(), 2.0).velocity(t, x, labels)[1], x[1] + 10 + 2 * (1 - 10))


def test_guided_flow_of_classes() -> None:
    """continuous-C.10.10 through the flow: samples of scale 1 are the conditional ones and of scale 0 those of label -1, bitwise."""
    torch.manual_seed(0)
    flow = ContinuousFlow(2, hidden=(8, 8), classes=3, solver="rk4", steps=4)
    z, labels = draws(6, 2).float(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(flow.guided(1.0).to_data(z, labels), flow.to_data(z, labels))
    assert torch.equal(flow.guided(0.0).to_data(z, labels), flow.to_data(z, torch.full_like(labels, -1)))
    assert not torch.equal(flow.guided(2.0).to_data(z, labels), flow.to_data(z, labels))


# -- the objective ----------------------------------------------------------------------------------------------------------------------------------


class Recorder(VectorField):
    """Keeps what it is asked."""

    def __init__(self, event: tuple[int, ...] = (2,), context: Any = None) -> None:
        super().__init__()
        self.event_shape, self.context_shape = event, context
        self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=DTYPE))
        self.seen: Any = None

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        self.seen = (t, x, context)
        return self.scale * x


def recorded(objective: FlowMatching, batch: Batch, **options: Any) -> tuple[Any, Tensor]:
    assert batch.x is not None
    field = Recorder(tuple(batch.x.shape[1:]))
    flow = ContinuousFlow(field=field, standardize=False).double()
    return field, objective.loss(flow, batch, torch.Generator().manual_seed(0), **options).value


@pytest.mark.parametrize("pairing", ["independent", "ot", "conditional_ot", "sinkhorn", "unbalanced"])
def test_what_belongs_to_the_data_stays_with_them(pairing: str) -> None:
    """Labels, a dict of contexts and weights are those of the data row they came with."""
    labels = torch.arange(24) % 3
    x = labels.unsqueeze(1).double() * torch.ones(24, 2) + 0.01 * draws(24, 2)
    context = {"label": labels, "place": x.clone()}
    objective = FlowMatching(pairing)
    flow = ContinuousFlow(field=Recorder(), standardize=False).double()
    x0, x1, after, _ = objective._pairs(flow, Batch(x, context), torch.Generator().manual_seed(0))
    assert torch.equal(after["place"], x1) and torch.equal(x1.mean(1).round().long(), after["label"]) and x0.shape == x1.shape
    if pairing in ("independent", "ot", "conditional_ot", "sinkhorn"):
        assert torch.equal(x1, x)


def test_weights_count_and_leave_the_noise_its_law() -> None:
    """Paired or not, the loss estimates the weighted expectation, and the noise of weighted data stays centred."""
    n = 512
    x = torch.cat([draws(n // 2, 2) + 4, draws(n // 2, 2, seed=1) - 4])
    weight = torch.cat([torch.full((n // 2,), 1.9), torch.full((n // 2,), 0.1)]).double()
    flow = ContinuousFlow(field=Recorder(), standardize=False).double()
    for pairing in ("ot", "independent"):
        x0, x1, _, after = FlowMatching(pairing)._pairs(flow, Batch(x, extra={"weight": weight}), torch.Generator().manual_seed(0))
        share = (after * (x1.mean(1) > 0)).mean() / after.mean()
        assert abs(share - 0.95) < 0.05 and abs((after.unsqueeze(1) * x0).mean(0)).max() < 0.2
    plain, weighted = (recorded(FlowMatching(), Batch(x, extra=extra))[1] for extra in ({}, {"weight": torch.ones(n, dtype=DTYPE)}))
    assert torch.allclose(plain, weighted)


def test_source_takes_the_place_of_the_base() -> None:
    source, x = draws(16, 2) + 100, draws(16, 2, seed=1)
    field, _ = recorded(FlowMatching(time="stratified"), Batch(x, extra={"source": source}))
    t, place, _ = field.seen
    assert torch.allclose(place, torch.lerp(source, x, t.unsqueeze(1)))


@pytest.mark.parametrize("pairing", ["ot", "sinkhorn"])
def test_images(pairing: str) -> None:
    images = draws(6, 1, 4, 4)
    field, loss = recorded(FlowMatching(pairing, "bridge", 0.3), Batch(images))
    assert loss.isfinite() and field.seen[1].shape == images.shape and field.seen[0].shape == (6,)


def test_labels_are_dropped() -> None:
    flow = ContinuousFlow(2, hidden=(8, 8), classes=3).double()
    seen: list[Tensor] = []
    flow.class_embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    FlowMatching(label_drop=0.25).loss(flow, Batch(draws(4000, 2), torch.ones(4000, dtype=torch.int64)), torch.Generator().manual_seed(0))
    assert set(seen[-1].unique().tolist()) == {-1, 1} and abs((seen[-1] < 0).double().mean() - 0.25) < 0.03
    flow = ContinuousFlow(field=Recorder(context=(3,)), context_features=3, standardize=False).double()
    FlowMatching(label_drop=0.25).loss(flow, Batch(draws(4000, 2), torch.ones(4000, 3, dtype=DTYPE)), torch.Generator().manual_seed(0))
    context = flow.field.seen[2]
    assert abs((context == 0).all(1).double().mean() - 0.25) < 0.03 and (context == 1).all(1).double().mean() > 0.7


@pytest.mark.parametrize("predicts", ["data", "noise", "score"])
@pytest.mark.parametrize("measured", QUANTITIES)
def test_errors_are_measured_in_any_quantity(predicts: Quantity, measured: Quantity) -> None:
    """With ``weight`` the loss is the error of that quantity, converted from the one predicted."""
    inner = Recorder()
    flow = ContinuousFlow(field=PredictionField(inner, predicts=predicts, path="trig"), standardize=False).double()
    objective = FlowMatching(path="trig", weight={"name": measured, "limit": 1e12}, time={"name": "logit_normal", "std": 0.3})
    x1, x0 = draws(200, 2), draws(200, 2, seed=1)
    loss = objective.loss(flow, Batch(x1, extra={"source": x0}), torch.Generator().manual_seed(0)).value
    t, x, _ = inner.seen
    at = Schedule.of("trig", "test").coefficients(t.unsqueeze(1))
    true = {"velocity": at.alpha_rate * x1 + at.sigma_rate * x0, "data": x1, "noise": x0, "score": -x0 / at.sigma}[measured]
    assert torch.allclose(loss, (convert(inner.velocity(t, x), x, predicts, measured, at) - true).square().mean(), rtol=1e-9)


def test_laws_of_time() -> None:
    like, generator = torch.zeros(20_000, 1, dtype=DTYPE), torch.Generator().manual_seed(0)
    uniform, stratified, normal, edm = (TimeLaw.of(law, "test").draw(like, generator) for law in ("uniform", "stratified", "logit_normal", "edm"))
    assert all(bool(((t >= 0) & (t <= 1)).all()) for t in (uniform, stratified, normal, edm))
    assert torch.equal((stratified * 20_000).floor(), torch.arange(20_000).double()) and abs(uniform.mean() - 0.5) < 0.01
    assert abs(torch.logit(normal.double()).std() - 1) < 0.02 and abs(torch.logit(edm.double()).mean() - 1.2) < 0.03
    assert edm.min() >= 1e-4


def test_regression_finds_the_normal_field() -> None:
    """The loss of the exact velocity is lowest: nudging it any way raises the loss on common draws."""
    field = NormalField(Schedule.of("linear", "test"))
    x = field.mean + draws(20_000, 2, seed=9) @ torch.linalg.cholesky(field.covariance).T

    class Nudged(VectorField):
        event_shape = (2,)

        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = torch.nn.Parameter(torch.tensor(by, dtype=DTYPE))

        def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
            return (1 + self.by) * field.velocity(t, x) + self.by

    losses = [FlowMatching().loss(normal_flow(Nudged(by)), Batch(x), torch.Generator().manual_seed(0)).value for by in (-0.1, 0.0, 0.1)]
    assert losses[1] < min(losses[0], losses[2])


# -- C.10.4 -----------------------------------------------------------------------------------------------------------------------------------------


def trained(task: str, method: str) -> Any:
    """W2 by Euler and by RK4, and NPE, after 5,000 steps; the floor of W2."""
    return study.compare(task, method, steps=5000, seed=0, libraries=("flowkit",))["flowkit"].quality, study.floor(task, 0)


@pytest.mark.slow
def test_gaussians_to_moons() -> None:
    """continuous-C.10.4: both reach the moons, the optimal pairing by straighter and shorter ways."""
    (plain, floor), (paired, _) = trained("8g->moons", "I-CFM"), trained("8g->moons", "OT-CFM")
    assert max(plain.w2_rk4, paired.w2_rk4) <= floor + 0.20
    assert paired.npe <= 0.08 and plain.npe >= 0.5 and paired.w2_euler5 <= 0.6 * plain.w2_euler5


@pytest.mark.slow
def test_normal_to_gaussians() -> None:
    """continuous-C.10.4: normalised path energies around the published 0.222 (I-CFM) and 0.018 (OT-CFM)."""
    assert 0.15 <= trained("N->8g", "I-CFM")[0].npe <= 0.35 and trained("N->8g", "OT-CFM")[0].npe <= 0.05


@pytest.mark.slow
def test_moons_to_gaussians() -> None:
    """continuous-C.10.4: W2 of OT-CFM at most 0.6."""
    assert trained("moons->8g", "OT-CFM")[0].w2_rk4 <= 0.6


def test_shared_study_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of the benchmark's own code on fewer points."""
    monkeypatch.setattr(study, "POINTS", 100)
    quality = study.compare("N->8g", "OT-CFM", steps=3, seed=0, libraries=("flowkit",))["flowkit"].quality
    assert all(math.isfinite(value) for value in quality) and study.floor("N->8g", 0) > 0
