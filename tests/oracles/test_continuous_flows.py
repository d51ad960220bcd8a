"""Continuous flows: likelihood against closed forms, the time span's gradient, costs and STEER."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import Continuous
from flowkit.continuous import MLPField, OTPotentialField
from flowkit.core.errors import ConfigError, FlowkitError, IntegrationError, NonFiniteError
from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.flows import ContinuousFlow, RealNVP
from flowkit.kernels import use
from flowkit.objectives import ContinuousLikelihood, MaximumLikelihood, TemporalOptimization

D = torch.float64


class Linear(VectorField):
    """v = A x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(matrix)
        self.event_shape = (len(matrix),)

    def velocity(self, t: Tensor, x: Tensor, context: object = None) -> Tensor:
        return x @ self.matrix.T


def small(**options: object) -> ContinuousFlow:
    torch.manual_seed(0)
    flow = ContinuousFlow(3, hidden=(16, 16), standardize=False, **options).to(D)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return flow


@pytest.mark.parametrize("divergence", ["exact", "exact_forward"])
def test_linear_field(divergence: str) -> None:
    """continuous-D.8.3: log p is the Gaussian's to 1e-8."""
    torch.manual_seed(0)
    a = 0.5 * torch.randn(3, 3, dtype=D)
    flow = ContinuousFlow(field=Linear(a), divergence=divergence, rtol=1e-10, atol=1e-10, standardize=False).to(D)
    x = torch.randn(20, 3, dtype=D)
    m = torch.linalg.matrix_exp(a)
    wanted = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=D), m @ m.T).log_prob(x)
    assert float((flow.log_prob(x) - wanted).detach().abs().max()) <= 1e-8


def test_hutchinson_is_unbiased_and_evaluations_stay() -> None:
    """continuous-D.8.2: one probe per solve keeps the solver's evaluations within 1.5 of the exact divergence's."""
    flow = small(rtol=1e-6, atol=1e-6)
    x = torch.randn(16, 3, dtype=D)
    with torch.no_grad():
        exact = flow.bijector.transport(x, inverse=True)  # type: ignore[operator]
        estimated = flow.with_solver(divergence="hutchinson").bijector.transport(x, inverse=True)  # type: ignore[operator]
        draws = torch.stack([flow.with_solver(divergence="hutchinson").log_prob(x, generator=torch.Generator().manual_seed(i)) for i in range(200)])
    assert float(estimated.stats.nfe.double().mean()) <= 1.5 * float(exact.stats.nfe.double().mean())
    wanted = flow.log_prob(x).detach()
    assert bool(((draws.mean(0) - wanted).abs() <= 4.5 * draws.std(0) / 200**0.5 + 1e-6).all())
    assert flow.density == "exact" and flow.with_solver(divergence="hutchinson").bijector.traits.log_det == "estimate"


def test_round_trip_and_one_pass_sampling() -> None:
    """continuous-D.8.4: data to latent and back to 1e-5 at tolerance 1e-6."""
    flow = small(rtol=1e-6, atol=1e-6)
    x = 2 * torch.randn(50, 3, dtype=D)
    assert float((flow.to_data(flow.to_latent(x)) - x).detach().abs().max()) <= 1e-5
    samples, log_prob = flow.sample_and_log_prob((50,), generator=torch.Generator().manual_seed(1))
    assert float((flow.log_prob(samples) - log_prob).detach().abs().max()) <= 1e-4
    assert torch.allclose(flow.sample((50,), generator=torch.Generator().manual_seed(1)), samples, atol=1e-5)


def test_kernel_equals_reference() -> None:
    """The fused trajectory and the plain solver agree in float32: values, log_dets, gradients; also through contexts and to the latent."""
    torch.manual_seed(0)
    flow = ContinuousFlow(4, 2, hidden=(32, 32), rtol=1e-6, atol=1e-6)
    x, context = torch.randn(40, 4), torch.randn(40, 2)
    found = []
    for choice in ("fused", "reference"):
        with use(choice):  # type: ignore[arg-type]
            c = context.clone().requires_grad_()
            log_prob = flow.log_prob(x, c)
            gradients = torch.autograd.grad(log_prob.mean(), (c, *flow.parameters()))
            found.append((log_prob.detach(), *gradients))
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * max(1.0, float(b.abs().max()))


def test_options_change_nothing_else() -> None:
    flow = small(rtol=1e-9, atol=1e-9)
    x = torch.randn(5, 3, dtype=D)
    other = flow.with_solver(solver="dopri8", rtol=1e-10, per_sample=False)
    assert torch.allclose(other.log_prob(x), flow.log_prob(x), atol=1e-7)
    assert other.field is flow.field and flow.solver == "dopri5" and other.solver == "dopri8"
    path = flow.path(x, (0.0, 0.3, 1.0))
    assert torch.equal(path[0], x) and torch.allclose(path[-1], flow.to_data(x), atol=1e-7)
    with pytest.raises(ConfigError, match="with_solver: expected some of"):
        flow.with_solver(tolerance=1e-3)
    with pytest.raises(ConfigError, match="this one has none"):
        flow.guided(2.0)


def test_guidance_of_a_flow() -> None:
    """continuous-C.10.10: scale 1 is the conditional flow and scale 0 the unconditional one, bit for bit."""
    torch.manual_seed(0)
    flow = ContinuousFlow(2, hidden=(8, 8), classes=3, solver="rk4", steps=4).to(D)
    labels = torch.tensor([0, 2, 1, 0])
    z = torch.randn(4, 2, dtype=D)
    assert torch.equal(flow.guided(1.0).to_data(z, labels), flow.to_data(z, labels))
    assert torch.equal(flow.guided(0.0).to_data(z, labels), flow.to_data(z, torch.full_like(labels, -1)))
    assert not torch.allclose(flow.guided(3.0).to_data(z, labels), flow.to_data(z, labels))


def nll(flow: ContinuousFlow, x: Tensor, span: float, objective: ContinuousLikelihood) -> float:
    flow.bijector.time_span.fill_(span)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        return float(objective.loss(flow, Batch(x), torch.Generator().manual_seed(5)).value)


def endpoint(flow: ContinuousFlow, x: Tensor, objective: TemporalOptimization) -> float:
    objective.train()
    flow.bijector.time_span.fill_(1.0)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        return float(objective.loss(flow, Batch(x), torch.Generator().manual_seed(5)).terms["duration_gradient"])


def relative_error(flow: ContinuousFlow, objective: TemporalOptimization, step: float) -> float:
    x = torch.randn(64, 3, dtype=D, generator=torch.Generator().manual_seed(2))
    quiet = TemporalOptimization(mode="off", alpha=objective.alpha, kinetic=objective.kinetic, jacobian=objective.jacobian).to(D)
    found = endpoint(flow, x, objective)
    fd = (nll(flow, x, 1 + step, quiet) - nll(flow, x, 1 - step, quiet)) / (2 * step)
    return abs(found - fd) / abs(fd)


def test_gradient_of_the_span() -> None:
    """continuous-B.7.1: against central differences of the discrete loss, O(h^4) with RK4."""
    flow, objective = small(), TemporalOptimization(alpha=0.0).to(D)
    errors = {n: relative_error(flow.with_solver(solver="rk4", steps=n, per_sample=False), objective, 1e-4) for n in (5, 10, 20)}
    assert errors[10] <= 1e-5 and errors[20] <= 1e-6
    assert 3.5 <= math.log2(errors[5] / errors[20]) / 2 <= 4.5


@pytest.mark.parametrize("costs", [{}, {"kinetic": 0.3, "jacobian": 0.2, "alpha": 0.1}], ids=["plain", "costs"])
def test_gradient_of_the_span_under_error_control(costs: dict[str, float]) -> None:
    """continuous-B.7.2, B.7.3: dopri5 at 1e-10, with and without costs along the path: 1e-5."""
    flow = small(rtol=1e-10, atol=1e-10, per_sample=False)
    assert relative_error(flow, TemporalOptimization(**{"alpha": 0.0, **costs}).to(D), 1e-4) <= 1e-5  # type: ignore[arg-type]


def test_solver_time_gradient_equals_the_formula() -> None:
    """continuous-B.7.2: the adjoint's gradient in the end time is the endpoint formula's to 1e-10."""
    flow = small(rtol=1e-10, atol=1e-10, per_sample=False)
    x = torch.randn(8, 3, dtype=D)
    found = []
    for adjoint in ("discrete", "continuous"):
        times = torch.tensor([1.0, 0.0], dtype=D, requires_grad=True)
        moved = flow.with_solver(adjoint=adjoint).bijector.transport(x, inverse=True, times=times)  # type: ignore[operator]
        value = -(flow.base.log_prob(moved.value[-1]) + moved.log_det[-1]).mean()
        found.append(float(torch.autograd.grad(value, times)[0][1]))
    objective = TemporalOptimization(alpha=0.0).to(D)
    wanted = -endpoint(flow, x, objective)  # the latent's time is 1 - T
    assert abs(found[0] - wanted) <= 1e-7 * max(1, abs(wanted)) and abs(found[1] - wanted) <= 1e-10 * max(1, abs(wanted))


def test_stein() -> None:
    """continuous-B.7.4: at z exactly standard normal the likelihood gives no signal: within 3 standard errors at 1e5 samples."""
    torch.manual_seed(0)
    a = 0.5 * torch.randn(3, 3, dtype=D)
    flow = ContinuousFlow(field=Linear(a), divergence="exact", solver="dopri8", steps=4, per_sample=False, standardize=False).to(D)
    z = torch.randn(100_000, 3, dtype=D)
    gradient = endpoint(flow, (z @ torch.linalg.matrix_exp(a).T), TemporalOptimization(alpha=0.0).to(D))
    each = (-z * (z @ a.T)).sum(1) + a.trace()
    assert abs(gradient - float(each.mean())) <= 1e-9
    assert abs(gradient) <= 3 * float(each.std()) / 100_000**0.5


class Slower(VectorField):
    """v(s / 2) / 2, s the time from the data."""

    def __init__(self, field: VectorField) -> None:
        super().__init__()
        self.field, self.event_shape = field, field.event_shape

    def velocity(self, t: Tensor, x: Tensor, context: object = None) -> Tensor:
        return self.field.velocity(1 - (1 - t) / 2, x) / 2


def test_symmetry_of_time() -> None:
    """continuous-B.7.5: half the speed for twice the time is the same flow at the same cost."""
    flow = small(rtol=1e-9, atol=1e-9, per_sample=False, divergence="exact")
    slow = ContinuousFlow(field=Slower(flow.field), duration=2.0, rtol=1e-9, atol=1e-9, per_sample=False, divergence="exact", standardize=False).to(D)
    x = torch.randn(10, 3, dtype=D)
    with torch.no_grad():
        assert float((flow.log_prob(x) - slow.log_prob(x)).abs().max()) <= 1e-8
        counts = [f.bijector.transport(x, inverse=True).stats.nfe for f in (flow, slow)]  # type: ignore[operator]
    assert abs(counts[0] - counts[1]) <= 7


def test_span_moves_within_its_rules() -> None:
    flow, objective = small(), TemporalOptimization(alpha=100.0, lr=1.0, warmup=1, bounds=(0.95, 2.0)).to(D)
    x = torch.randn(32, 3, dtype=D)
    spans = []
    for step in range(6):
        objective.loss(flow, Batch(x))
        objective.on_step_end(flow, step)
        spans.append(float(flow.bijector.time_span))  # type: ignore[arg-type]
    assert spans[0] == 1.0 and spans[1] == pytest.approx(0.98) and spans[2] == pytest.approx(0.96) and spans[-1] == pytest.approx(0.95)


def test_steer() -> None:
    """continuous-D.8.7: spans uniform on (T - b, T + b), KS <= 0.02 over 1e4 draws; evaluation uses T."""
    flow, objective = small(), ContinuousLikelihood(steer=0.5)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([objective.span(flow, generator) for _ in range(10_000)]).sort().values  # type: ignore[arg-type]
    uniform = (draws - 0.5).clamp(0, 1)
    ranks = torch.arange(1, 10_001, dtype=D) / 10_000
    assert float((uniform - ranks).abs().max()) <= 0.02
    x = torch.randn(8, 3, dtype=D)
    objective.eval()
    assert torch.allclose(objective.loss(flow, Batch(x)).value, MaximumLikelihood().loss(flow, Batch(x)).value)
    with pytest.raises(ConfigError, match="steer below the flow's duration"):
        ContinuousLikelihood(steer=1.0).loss(flow, Batch(x))


def test_costs_of_a_straight_path() -> None:
    """A constant field v = c over time 1: kinetic |c|^2 / (2 d), no Jacobian; minus a potential's gradient satisfies Hamilton-Jacobi."""
    field = MLPField(2, (4,)).to(D)
    with torch.no_grad():
        for p in field.parameters():
            p.zero_()
        field.layers[-1].bias.copy_(torch.tensor([0.6, -0.8]))
    flow = ContinuousFlow(field=field, standardize=False, solver="rk4", steps=4).to(D)
    terms = ContinuousLikelihood(kinetic=1.0, jacobian=1.0).loss(flow, Batch(torch.randn(7, 2, dtype=D))).terms
    assert float(terms["kinetic"]) == pytest.approx(0.25) and float(terms["jacobian"]) == pytest.approx(0.0, abs=1e-12)
    potential = ContinuousFlow(field=OTPotentialField(2, 8), standardize=False, solver="rk4", steps=4).to(D)
    loss = ContinuousLikelihood(kinetic=2.0, hjb=1.0).loss(potential, Batch(torch.randn(7, 2, dtype=D)))
    loss.value.backward()
    assert {"kinetic", "hjb"} <= set(loss.terms) and all(p.grad is not None for p in potential.field.parameters())
    with pytest.raises(ConfigError, match="Use OTPotentialField"):
        ContinuousLikelihood(hjb=1.0).loss(flow, Batch(torch.randn(7, 2, dtype=D)))


def test_errors() -> None:
    """O-7: models, fields and inputs that cannot be followed."""
    with pytest.raises(ConfigError, match="expected a continuous flow; got RealNVP"):
        ContinuousLikelihood().loss(RealNVP(2), Batch(torch.randn(4, 2)))
    with pytest.raises(ConfigError, match="got neither"):
        ContinuousFlow()
    with pytest.raises(ConfigError, match="solver 'rk4' has no error estimate"):
        ContinuousFlow(2, solver="rk4")
    with pytest.raises(ConfigError, match=r"features=3, but the field is on events of shape \(2,\)"):
        ContinuousFlow(3, field=MLPField(2))

    class Broken(VectorField):
        event_shape = (2,)

        def velocity(self, t: Tensor, x: Tensor, context: object = None) -> Tensor:
            return torch.where(x[..., :1] > 3, torch.nan, 1.0) * torch.ones_like(x)

    with pytest.raises(NonFiniteError, match=r"after t = .* \(sample 1, 1 of 3 samples\)"):
        Continuous(Broken())(torch.tensor([[0.0, 0.0], [5.0, 0.0], [-1.0, 0.0]]))
    fused = ContinuousFlow(2, hidden=(8, 8))
    with torch.no_grad():
        fused.field.time.fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(NonFiniteError, match="not finite"):
        fused.sample((4,))


def test_solver_options_are_checked_when_built() -> None:
    for options, said in (
        ({"solver": "rk44", "steps": 3}, "Nearest: 'rk4'"),
        ({"adjoint": "foo"}, "expected adjoint to be"),
        ({"adjoint": "reversible"}, "cannot be taken back"),
        ({"rtol": -1.0}, "expected rtol"),
    ):
        with pytest.raises(FlowkitError, match=said):
            ContinuousFlow(2, hidden=(8, 8), **options)  # type: ignore[arg-type]
    x = torch.randn(4, 3, dtype=D)
    wanted = small(rtol=1e-9, atol=1e-9).log_prob(x)
    for options in ({"solver": "alf", "adjoint": "reversible"}, {"solver": "torchdiffeq:dopri5", "per_sample": False}):
        assert torch.allclose(small(rtol=1e-7, atol=1e-7, **options).log_prob(x), wanted, atol=1e-4)


def test_fused_failures_name_the_time() -> None:
    """O-7: the kernel's failures are told as the plain solver's are."""
    flow = ContinuousFlow(2, hidden=(8, 8), max_steps=2, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        for p in flow.parameters():
            p.mul_(8)
    with pytest.raises(IntegrationError, match="more than max_steps = 2 steps, stopped at t = "):
        flow.sample((4,))
