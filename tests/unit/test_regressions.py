"""Faults that users of other libraries reported, one test each; the number is that library's issue or pull request."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import ActNorm, Affine, Autoregressive, Coupling, Elementwise, Householder, LULinear, Standardize
from flowkit.core.errors import DomainError, ShapeError
from flowkit.core.registry import FLOWS
from flowkit.distributions import GaussianMixture, StandardNormal, TorchDistribution, UniformBox
from flowkit.univariates import Affine as ScalarAffine
from flowkit.univariates import RationalQuadraticSpline


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _perturbed(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


# -- splines: nflows 23, 62, 71, 87; sbi 373 -------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("points", [[], [0.5, -0.5], [7.0, -9.0], [0.5, 7.0, -7.0, 3.0]], ids=["empty", "inside", "outside", "mixed"])
def test_spline_tails(points: list[float], inverse: bool) -> None:
    """A batch that lies wholly in the tails, or is empty, is no special case."""
    spline = RationalQuadraticSpline(4, 3.0)
    value, params = torch.tensor(points), torch.randn(len(points), spline.parameter_count, requires_grad=True)
    out, log_slope = (spline.untransform if inverse else spline.transform)(value, params)
    outside = value.abs() > 3.0
    assert out.shape == log_slope.shape == value.shape
    assert torch.equal(out[outside], value[outside]) and bool((log_slope[outside] == 0).all())
    (out.sum() + log_slope.sum()).backward()
    assert params.grad is not None and bool(torch.isfinite(params.grad).all())


def test_data_outside_the_bound() -> None:
    """A spline flow is a density everywhere, far outside its bound too."""
    flow = _perturbed(fk.flows.NeuralSplineFlow(2, layers=2, hidden=(8,)))
    x = torch.tensor([[1e4, -1e4], [50.0, 0.0]], requires_grad=True)
    log_prob = flow.log_prob(x)
    log_prob.sum().backward()
    assert bool(torch.isfinite(log_prob).all()) and x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_bounded_spline_names_its_domain() -> None:
    bounded = Elementwise((2,), RationalQuadraticSpline(4, (0.0, 1.0), ends="bounded"))
    with pytest.raises(DomainError, match="Elementwise"):
        bounded(torch.tensor([0.5, 1.5]))


# -- contexts and bases: nflows 17, 54, 60, 68, 90 ----------------------------------------------------------------------


def test_context_shapes_when_sampling() -> None:
    """sample(shape, context): (*shape, *context batch, *event), each sample under its own context."""
    flow = _perturbed(fk.flows.MAF(3, 2, layers=2, hidden=(8,)))
    context = torch.randn(5, 4, 2)
    x, log_prob = flow.sample_and_log_prob((7,), context)
    assert x.shape == (7, 5, 4, 3) and log_prob.shape == (7, 5, 4)
    assert flow.sample((), context[0, 0]).shape == (3,)
    assert flow.sample((6,), context[:, 0]).shape == (6, 5, 3)
    torch.testing.assert_close(flow.log_prob(x, context), log_prob, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow.log_prob(x[2, 3, 1], context[3, 1]), log_prob[2, 3, 1], atol=1e-4, rtol=1e-4)
    one = flow.condition(context[3, 1])
    torch.testing.assert_close(one.log_prob(x[2, 3, 1]), log_prob[2, 3, 1], atol=1e-4, rtol=1e-4)


def test_context_missing_or_unwanted_is_an_error() -> None:
    with pytest.raises(ShapeError, match="context"):
        fk.flows.MAF(2, 3, layers=1).log_prob(torch.zeros(2))
    with pytest.raises(ShapeError, match="context"):
        fk.flows.MAF(2, layers=1).log_prob(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize(
    "base",
    [
        UniformBox(-4.0, 4.0, 2),
        GaussianMixture(2, 3),
        TorchDistribution(torch.distributions.Uniform(torch.full((2,), -4.0), 4.0), event_rank=1),
        TorchDistribution(torch.distributions.Laplace(torch.zeros(2), 1.0), event_rank=1),
    ],
    ids=["uniform", "mixture", "torch_uniform", "torch_laplace"],
)
def test_base_that_knows_no_context_under_a_conditional_map(base: Any) -> None:
    flow = fk.Flow(base, _perturbed(Coupling(2, ScalarAffine(), (8,), context_features=3)))
    x, log_prob = flow.sample_and_log_prob((6,), torch.randn(5, 3))
    assert x.shape == (6, 5, 2) and log_prob.shape == (6, 5) and bool(torch.isfinite(log_prob).all())
    assert flow.log_prob(x, torch.randn(5, 3)).shape == (6, 5)


def test_uniform_base_and_data_outside_its_image() -> None:
    """flowjax 147: minus infinity with finite gradients, not NaN."""
    flow = fk.Flow(UniformBox(0.0, 1.0, 1), Affine((1,)))
    x = torch.tensor([[0.5], [3.0]])
    log_prob = flow.log_prob(x)
    log_prob[0].backward()
    assert log_prob.tolist() == [0.0, -torch.inf]
    assert all(bool(torch.isfinite(p.grad).all()) for p in flow.parameters() if p.grad is not None)


# -- state: nflows 4; nessai 167; normflows 2, 43; sbi 1893, 1932 -----------------------------------------------------


def test_act_norm_does_not_initialise_again_after_load() -> None:
    norm = ActNorm((3,))
    norm.initialize(5 + 2 * torch.randn(100, 3))
    loaded = ActNorm((3,))
    loaded.load_state_dict(norm.state_dict())
    x = torch.randn(50, 3)
    expected = norm(x)[0]
    for copied in (loaded, copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        copied.train().initialize(-3 + 7 * torch.randn(100, 3))
        assert torch.equal(copied(x)[0], expected)


def test_act_norm_forward_never_initialises() -> None:
    norm = ActNorm((3,)).train()
    x = 5 + torch.randn(10, 3)
    assert torch.equal(norm(x)[0], x) and not bool(norm.initialized)


def test_standardisation_is_set_once() -> None:
    flow = fk.flows.NICE(2, layers=1, hidden=(4,))
    data = 5 + 2 * torch.randn(200, 2)
    flow.set_standardizer([data])
    before = flow.standardizer.loc.clone()
    flow.set_standardizer([data * 100])
    assert torch.equal(flow.standardizer.loc, before)


@pytest.mark.parametrize("make", [lambda: LULinear(3), lambda: Householder(3, 2), lambda: ActNorm((3,))], ids=["lu", "householder", "act_norm"])
def test_inverse_follows_loaded_and_edited_weights(make: Any) -> None:
    """Nothing derived from the weights is kept between calls."""
    first, second = _perturbed(make()), _perturbed(make())
    x = torch.randn(4, 3)
    first(x)
    first.inverse(x)
    first.load_state_dict(second.state_dict())
    assert torch.equal(first.inverse(x)[0], second.inverse(x)[0])
    _perturbed(first)
    torch.testing.assert_close(first.inverse(first(x)[0])[0], x, atol=1e-5, rtol=1e-5)
    wide = first.double()
    torch.testing.assert_close(wide.inverse(wide(x.double())[0])[0], x.double(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["nice", "real_nvp", "maf", "iaf", "neural_spline_flow"])
def test_flow_follows_dtype_and_pickles(name: str) -> None:
    """Every constant is a buffer, and nothing in a flow is a local function."""
    flow = _perturbed(FLOWS[name](3, layers=2, hidden=(8,)))
    flow.set_standardizer([torch.randn(50, 3)])
    x = torch.randn(6, 3, dtype=torch.float64)
    expected = flow.double().log_prob(x)
    assert expected.dtype == torch.float64
    assert torch.equal(pickle.loads(pickle.dumps(flow)).log_prob(x), expected)
    assert flow.sample(2).dtype == torch.float64
    assert all(tensor.dtype == torch.float64 for tensor in flow.state_dict().values() if tensor.is_floating_point())


# -- scales and shapes: normflows 17, 22, 47, 67; nflows 49; FrEIA 89 -------------------------------------------------


def test_affine_scales_reach_far_and_never_overflow() -> None:
    univariate = ScalarAffine()
    z, huge = torch.ones(3), torch.tensor([[0.0, -1e8], [0.0, 0.0], [0.0, 1e8]])
    x, log_slope = univariate.transform(z, huge)
    assert bool(torch.isfinite(x).all()) and log_slope[0] < -4 and log_slope[2] > 4
    back, _ = univariate.untransform(x, huge)
    torch.testing.assert_close(back, z)


@pytest.mark.parametrize("batch", [(), (0,), (4,), (2, 3)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Coupling(1, RationalQuadraticSpline(4)),
        lambda: Autoregressive(1, ScalarAffine()),
        lambda: LULinear(1),
        lambda: Standardize((1,)),
        lambda: fk.flows.NeuralSplineFlow(1, layers=2, bins=4).bijector,
    ],
    ids=["coupling", "autoregressive", "lu", "standardize", "recipe"],
)
def test_one_dimension_and_every_batch(make: Any, batch: tuple[int, ...]) -> None:
    """log_det has the batch shape, never one that broadcasts by accident."""
    bijector, z = _perturbed(make()), torch.randn(*batch, 1)
    x, log_det = bijector(z)
    back, inverse_log_det = bijector.inverse(x)
    assert x.shape == back.shape == z.shape and log_det.shape == inverse_log_det.shape == batch
    torch.testing.assert_close(back, z, atol=1e-4, rtol=1e-4)


def test_standard_normal_log_prob_is_per_event() -> None:
    def total(x: Tensor) -> Tensor:
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum((-1, -2))

    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(StandardNormal((2, 3)).log_prob(x), total(x))
