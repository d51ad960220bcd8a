"""Pyro: a flow in a model, and a flow as the guide of one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError

pyro = pytest.importorskip("pyro")

import pyro.distributions as dist  # noqa: E402
from pyro.infer import SVI, Trace_ELBO  # noqa: E402

from flowkit.interop import pyro as interop  # noqa: E402


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    validate = torch.distributions.Distribution._validate_args
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()
    torch.distributions.Distribution.set_default_validate_args(validate)


OBSERVED, NOISE = torch.tensor([[1.0, -0.5], [2.0, 0.5], [1.5, -1.5], [0.5, 0.0]]), 1.5


def conjugate(observed: Tensor = OBSERVED) -> None:
    """theta ~ N(0, 4 I); rows of the data ~ N((theta_0 + theta_1 / 2, theta_1), 2.25 I)."""
    theta = pyro.sample("theta", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    mean = torch.stack([theta[..., 0] + 0.5 * theta[..., 1], theta[..., 1]], dim=-1)
    with pyro.plate("rows", len(observed)):
        pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=observed)


def exact(observed: Tensor = OBSERVED) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior mean and covariance, and the log-evidence."""
    design = torch.tensor([[1.0, 0.5], [0.0, 1.0]]).repeat(len(observed), 1)
    y = observed.flatten()
    covariance = torch.linalg.inv(torch.eye(2) / 4 + design.T @ design / NOISE**2)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(len(y)), 4 * design @ design.T + NOISE**2 * torch.eye(len(y))).log_prob(y)
    return covariance @ (design.T @ y) / NOISE**2, covariance, evidence


def train(model: Any, guide: Any, steps: int, *args: Any) -> list[float]:
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.05 ** (1 / steps)}), elbo)
    return [svi.step(*args) for _ in range(steps)]


def test_guide_finds_the_posterior() -> None:
    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.LULinear(2))
    guide = interop.guide(conjugate, flow)
    losses = train(conjugate, guide, 200)
    mean, covariance, evidence = exact()
    assert abs(sum(losses[-20:]) / 20 + float(evidence)) < 0.05 < losses[0] + float(evidence)
    with torch.no_grad():
        matrix, shift = flow.bijector.matrix(), flow.bijector.shift
    torch.testing.assert_close(shift, mean, rtol=0, atol=0.1)
    torch.testing.assert_close((matrix @ matrix.T).detach(), covariance, rtol=0, atol=0.12)
    torch.testing.assert_close(guide.median(draws=4000)["theta"], mean, rtol=0, atol=0.15)
    assert guide()["theta"].shape == (2,)


def test_one_pass_for_a_draw_and_its_density() -> None:
    flow = fk.flows.MAF(2, layers=1, hidden=(8,), standardize=False)
    law = interop.guide(conjugate, flow).get_posterior()
    x = law.rsample((5,))
    (step,) = (part for part in flow.modules() if isinstance(part, fk.bijectors.Autoregressive))
    calls: list[int] = []
    step.net.register_forward_hook(lambda *_: calls.append(1))
    log_prob = law.log_prob(x)
    assert not calls
    torch.testing.assert_close(log_prob, law.log_prob(x.clone()))
    assert calls
    with torch.no_grad():
        assert not law.log_prob(x).requires_grad


def test_guide_with_a_context_is_amortised() -> None:
    def model(observed: Tensor) -> None:
        conjugate(observed)

    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.LULinear(2, context_features=2))
    guide = interop.guide(model, flow, context=lambda observed: observed.mean(0))
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.98}), elbo)
    for step in range(150):
        svi.step(OBSERVED + torch.randn(2, generator=torch.Generator().manual_seed(step)))
    for shift in (torch.tensor([0.0, 0.0]), torch.tensor([-1.0, 1.0])):
        mean, _, _ = exact(OBSERVED + shift)
        drawn = flow.sample(4000, (OBSERVED + shift).mean(0))
        torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.25)


def test_guide_of_constrained_variables() -> None:
    def model() -> None:
        pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("weights", dist.Dirichlet(torch.ones(3)))

    flow = fk.Flow(fk.distributions.StandardNormal((3,)), fk.bijectors.Affine((3,), loc=0.3, scale=0.5))
    guide = interop.guide(model, flow)
    trace = pyro.poutine.trace(guide).get_trace()
    rate, weights = trace.nodes["rate"]["value"], trace.nodes["weights"]["value"]
    assert rate > 0 and torch.isclose(weights.sum(), torch.tensor(1.0))
    z = torch.cat([rate.log().reshape(1), torch.distributions.biject_to(dist.Dirichlet(torch.ones(3)).support).inv(weights)])
    volume = rate.log() + torch.distributions.biject_to(dist.Dirichlet(torch.ones(3)).support).log_abs_det_jacobian(z[1:], weights)
    torch.testing.assert_close(trace.log_prob_sum(), flow.log_prob(z) - volume, rtol=0, atol=1e-4)


def test_guide_of_the_wrong_size() -> None:
    flow = fk.Flow(fk.distributions.StandardNormal((3,)), fk.bijectors.Affine((3,)))
    with pytest.raises(ConfigError, match=r"2 unconstrained numbers \(theta\(2,\)\).*features=2"):
        interop.guide(conjugate, flow)()
    with pytest.raises(ConfigError, match="expected a flowkit Flow"):
        interop.guide(conjugate, torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_flow_as_a_prior() -> None:
    flow = fk.flows.RealNVP(2, 1, layers=2, hidden=(8,), standardize=False)
    context = torch.tensor([[0.1], [0.2], [0.3]])

    def model() -> Tensor:
        pyro.module("prior", flow)
        with pyro.plate("contexts", 3):
            return pyro.sample("z", interop.to_pyro(flow, context))

    trace = pyro.poutine.trace(model).get_trace()
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(trace.log_prob_sum(), flow.log_prob(z, context).sum())
    assert len(list(pyro.get_param_store())) == len(list(flow.parameters()))
    with pyro.plate("outer", 5, dim=-2), pyro.plate("inner", 3, dim=-1):
        assert pyro.sample("many", interop.to_pyro(flow, context)).shape == (5, 3, 2)


def test_surface() -> None:
    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,)), support=Box(0.0, 1.0, 2))
    law = interop.to_pyro(flow)
    assert isinstance(law, dist.torch_distribution.TorchDistributionMixin) and law.event_dim == 1 and law.has_rsample
    x = law()
    torch.testing.assert_close(law.log_prob(x), flow.log_prob(x))
    before = law.log_prob(x)
    with torch.no_grad():
        flow.bijector.log_scale.add_(1.0)
    assert law.log_prob(x) != before
    assert law.expand((4,)).sample().shape == (4, 2) and law.expand_by((3,)).to_event(1).event_shape == (3, 2)
    assert law.mask(False).log_prob(x) == 0
    inside = torch.distributions.biject_to(law.support)(torch.randn(2))
    assert torch.isfinite(flow.log_prob(inside)) and law.support.check(inside) and not law.support.check(inside + 1)
    free = interop.to_pyro(fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,))))
    assert torch.distributions.biject_to(free.support)(torch.ones(2)).tolist() == [1.0, 1.0]


def test_pickled() -> None:
    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,)))
    law = pickle.loads(pickle.dumps(interop.to_pyro(flow)))
    assert law.log_prob(torch.zeros(2)) == flow.log_prob(torch.zeros(2))
