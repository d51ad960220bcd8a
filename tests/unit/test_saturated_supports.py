"""Gradients where a map onto the support saturates in float32: samples on the boundary, whose latent cannot be found again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import Affine
from flowkit.core.domain import Box, HalfSpace
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch
from flowkit.core.target import Target
from flowkit.distributions import StandardNormal
from flowkit.flows import RealNVP
from flowkit.objectives import ForwardKL, ReverseKL
from flowkit.objectives._draws import draw

SUPPORTS = pytest.mark.parametrize("support", [Box(0.1, 0.7, 2), HalfSpace([1.0, 2.0], 0.5)], ids=["box", "half_space"])
N, SCALE = 500, 20.0


class Sloped(Target):
    """A density of the plane, to be kept on a support."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return x[..., 0] - x.square().sum(-1)


def _flow(support: Any, **options: Any) -> Flow:
    return Flow(StandardNormal((2,)), Affine((2,), scale=SCALE), support, **options)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _gradient(value: Tensor, flow: Flow) -> Tensor:
    return torch.stack(torch.autograd.grad(value, [flow.get_parameter("bijector.shift"), flow.get_parameter("bijector.log_scale")]))


@SUPPORTS
@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
def test_both_path_gradients_are_one(support: Any, standardize: bool) -> None:
    flow = _flow(support, standardize=standardize)
    if standardize:
        flow.set_standardizer([flow.sample((50,), generator=_seeded())])
    assert flow.support_map is not None
    u = SCALE * flow.base.sample((N,), generator=_seeded())
    lost = (flow.support_map.masked(flow.support_map(u)[0], inverse=True)[0] - u).abs() > 0.1
    assert int(lost.sum()) > 10  # it does saturate
    found = [_gradient(ReverseKL(Sloped(), gradient=kind).loss(flow, Batch(size=N), _seeded()).value, flow) for kind in ("path", "path_two_pass")]  # type: ignore[arg-type]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


@SUPPORTS
def test_the_score_is_at_the_latents_drawn(support: Any) -> None:
    """d log q / d (shift, log_scale) at a fixed sample is (z / scale, z^2 - 1), of mean zero; at what the inverse makes of the boundary it is not."""
    flow = _flow(support)
    drawn = draw(flow, Sloped(), (N,), None, _seeded(), by="score", who="test")
    z = flow.base.sample((N,), generator=_seeded())
    wanted = torch.stack([z / SCALE, z.square() - 1]).mean(1)
    torch.testing.assert_close(_gradient(drawn.carrier.mean(), flow), wanted, rtol=1e-3, atol=1e-5)
    x, log_q = flow.sample_and_log_prob((N,), generator=_seeded())
    torch.testing.assert_close(drawn.log_q, log_q.detach())
    torch.testing.assert_close(drawn.log_w, (Sloped().log_density(x) - log_q).detach())
    assert not drawn.log_w.requires_grad


@SUPPORTS
def test_forward_gradients_of_data_on_the_boundary(support: Any) -> None:
    flow = _flow(support)
    x = flow.sample((N,), generator=_seeded())
    x = x[flow.domain.contains(x)]
    losses = [ForwardKL(Sloped(), gradient=kind).loss(flow, Batch(x)) for kind in ("path", "path_two_pass")]  # type: ignore[arg-type]
    torch.testing.assert_close(losses[1].value, losses[0].value)
    found = [_gradient(loss.value, flow) for loss in losses]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


@pytest.mark.parametrize("kind", ["path_two_pass", "score"])
def test_elsewhere_nothing_changes(kind: Any) -> None:
    """Where nothing saturates, of a conditional flow and of it with its context fixed: the same numbers as in float64 at the samples themselves."""
    torch.manual_seed(0)
    whole = RealNVP(2, layers=2, hidden=(4,), context_features=1, support=Box(-1.0, 1.0, 2)).double()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()), dtype=parameter.dtype))
    context = torch.linspace(-1, 1, 40, dtype=torch.float64).unsqueeze(-1)
    for flow, given, shape in ((whole, context, ()), (whole.condition(context), None, ())):
        drawn = draw(flow, Sloped().double(), shape, given, _seeded(), by=kind, who="test")
        x, log_q = flow.sample_and_log_prob(shape, given, generator=_seeded())
        if kind == "score":
            carrier = flow.log_prob(x.detach(), given)
        else:
            point = x.detach().requires_grad_()
            (score,) = torch.autograd.grad(flow.log_prob(point, given).sum(), point)
            carrier = (x * (torch.stack([1 - 2 * x[..., 0], -2 * x[..., 1]], -1).detach() - score)).sum(-1)
        parameters = list(whole.bijector.parameters())
        found, wanted = (torch.autograd.grad(part.sum(), parameters, materialize_grads=True) for part in (drawn.carrier, carrier))
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(drawn.log_q, log_q.detach(), rtol=1e-10, atol=1e-10)
