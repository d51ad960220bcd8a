"""Values and log-determinants against torch.distributions and closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Beta,
    ComposeTransform,
    Dirichlet,
    HalfNormal,
    LogNormal,
    MultivariateNormal,
    SigmoidTransform,
    SoftplusTransform,
    StickBreakingTransform,
    Transform,
)

import flowkit as fk
from flowkit.bijectors import Affine, LULinear, Standardize, ToBox, ToSimplex
from flowkit.core.domain import Box

ROWS = 256


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _agree(ours: tuple[Tensor, Tensor], value: Tensor, log_det: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours[0], value, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours[1], log_det, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("low", "high", "theirs"),
    [
        (-1.0, 3.0, ComposeTransform([SigmoidTransform(), AffineTransform(-1.0, 4.0)])),
        (2.0, math.inf, ComposeTransform([SoftplusTransform(), AffineTransform(2.0, 1.0)])),
        (-math.inf, 2.0, ComposeTransform([AffineTransform(0.0, -1.0), SoftplusTransform(), AffineTransform(2.0, -1.0)])),
        (-math.inf, math.inf, AffineTransform(0.0, 1.0)),
    ],
)
def test_box(low: float, high: float, theirs: Transform) -> None:
    ours, z = ToBox(low, high, 3).double(), 2 * torch.randn(ROWS, 3, dtype=torch.float64)
    x = theirs(z)
    log_det = torch.as_tensor(theirs.log_abs_det_jacobian(z, x)).expand_as(z).sum(-1)
    _agree(ours(z), x, log_det)
    _agree(ours.inverse(x), z, -log_det, 1e-10)


@pytest.mark.parametrize("features", [1, 2, 6])
def test_simplex(features: int) -> None:
    """torch keeps the last proportion, which we leave out; the volume is the same."""
    ours, theirs, z = ToSimplex(features).double(), StickBreakingTransform(), torch.randn(ROWS, features, dtype=torch.float64)
    x = theirs(z)
    _agree(ours(z), x[..., :-1], theirs.log_abs_det_jacobian(z, x), 1e-11)
    _agree(ours.inverse(x[..., :-1]), z, -theirs.log_abs_det_jacobian(z, x), 1e-10)


def test_simplex_carries_the_dirichlet_to_r_n() -> None:
    """Dirichlet(1) is uniform, so its pull-back is the Jacobian times the factorial."""
    z = torch.randn(ROWS, 3, dtype=torch.float64)
    x, log_det = ToSimplex(3).double()(z)
    whole = torch.cat([x, 1 - x.sum(-1, keepdim=True)], dim=-1)
    dirichlet = Dirichlet(torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(dirichlet.log_prob(whole) + log_det, log_det + math.lgamma(4))


def test_linear_map_of_a_normal_is_a_normal() -> None:
    linear = LULinear(4).double()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    flow = fk.Flow(fk.distributions.StandardNormal((4,)).double(), linear)
    assert linear.shift is not None
    matrix = linear.matrix()
    expected = MultivariateNormal(linear.shift, matrix @ matrix.mT)
    x = torch.randn(ROWS, 4, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(x), expected.log_prob(x), rtol=1e-10, atol=1e-10)


def test_standardised_normal_is_a_normal() -> None:
    data = torch.randn(1000, 2, dtype=torch.float64) * torch.tensor([3.0, 0.01]) + 5
    standardize = Standardize((2,)).double()
    standardize.set_from(data)
    flow = fk.Flow(fk.distributions.StandardNormal((2,)).double(), standardize)
    expected = torch.distributions.Normal(data.mean(0), data.std(0, correction=0))
    torch.testing.assert_close(flow.log_prob(data), expected.log_prob(data).sum(-1), rtol=1e-10, atol=1e-10)


def test_support_map_gives_the_density_on_the_interval() -> None:
    """A normal behind a sigmoid is the logit-normal density."""
    flow = fk.Flow(fk.distributions.StandardNormal((1,)), Affine(shape=(1,), loc=0.3), support=Box(0.0, 1.0, 1)).double()
    x = Beta(2.0, 2.0).sample((ROWS, 1)).double().clamp(1e-6, 1 - 1e-6)
    logit = x.log() - (-x).log1p()
    expected = torch.distributions.Normal(0.3, 1.0).log_prob(logit) - x.log() - (-x).log1p()
    torch.testing.assert_close(flow.log_prob(x), expected.squeeze(-1), rtol=1e-6, atol=1e-6)


def test_half_line_density() -> None:
    """Softplus of a normal, by the change of variables of torch.distributions."""
    flow = fk.Flow(fk.distributions.StandardNormal((1,)), Affine(shape=(1,)), support=Box(0.0, torch.inf, 1)).double()
    x = HalfNormal(2.0).sample((ROWS, 1)).double().clamp(min=1e-3)
    pushed = torch.distributions.TransformedDistribution(torch.distributions.Normal(torch.zeros(1).double(), 1.0), [SoftplusTransform()])
    torch.testing.assert_close(flow.log_prob(x), pushed.log_prob(x).squeeze(-1), rtol=1e-9, atol=1e-9)


def test_scaled_log_normal_is_a_log_normal() -> None:
    """Scaling by exp(a) moves the location of a log-normal base by a."""
    affine = Affine(shape=(2,), scale=2.0).double()
    base = fk.distributions.TorchDistribution(LogNormal(torch.zeros(2).double(), 1.0), event_rank=1)
    law = LogNormal(affine.log_scale.detach(), 1.0)
    x = law.sample((ROWS,))
    torch.testing.assert_close(fk.Flow(base, affine).log_prob(x), law.log_prob(x).sum(-1), rtol=1e-10, atol=1e-10)
