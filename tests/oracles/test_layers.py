"""Layers against nflows with copied parameters, and masked networks against the graph they were built from; float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nflows.nn.nets
import nflows.transforms as peer
import pytest
import torch
import zuko
from torch import Tensor, nn
from zuko_parameters import raw_parameters

from flowkit.bijectors import ActNorm, Autoregressive, Coupling, Householder, LULinear
from flowkit.nets import MaskedMLP
from flowkit.univariates import Affine, RationalQuadraticSpline

FEATURES, ROWS = 5, 64


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _both_directions(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    value = torch.randn(ROWS, FEATURES, dtype=torch.float64)
    for name, mine, other in (("forward", ours.forward, theirs.forward), ("inverse", ours.inverse, theirs.inverse)):
        for part, got, want in zip(("value", "log_det"), mine(value), other(value), strict=True):
            error = float((got - want).detach().abs().max())
            assert error <= tolerance, f"{name} {part} differs by {error:.2e}"


def _perturbed(module: nn.Module) -> Any:
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def test_act_norm() -> None:
    theirs = _perturbed(peer.ActNorm(FEATURES)).eval()
    ours = ActNorm((FEATURES,)).double()
    ours.load_state_dict(theirs.state_dict())
    _both_directions(ours, theirs)


def test_householder() -> None:
    theirs = _perturbed(peer.HouseholderSequence(FEATURES, 3))
    ours = Householder(FEATURES, 3).double()
    ours.load_state_dict({"directions": theirs.q_vectors})
    _both_directions(ours, theirs)


def test_lu_linear() -> None:
    """nflows has the diagonal of U as softplus(raw) + 1e-3, ours is its logarithm."""
    theirs = _perturbed(peer.LULinear(FEATURES, identity_init=False))
    ours = LULinear(FEATURES).double()
    lower, upper = theirs._create_lower_upper()
    with torch.no_grad():
        assert ours.factors is not None and ours.shift is not None
        ours.factors.copy_(lower.tril(-1) + upper.triu(1))
        ours.log_diagonal.copy_(theirs.upper_diag.log())
        ours.shift.copy_(theirs.bias)
    torch.testing.assert_close(ours.matrix(), theirs.weight(), rtol=0, atol=1e-12)
    value = torch.randn(ROWS, FEATURES, dtype=torch.float64)
    for got, want in zip(ours(value), theirs(value), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    back, log_det = ours.inverse(theirs(value)[0])  # nflows' own inverse calls a function that torch has dropped
    torch.testing.assert_close(back, value, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det, -theirs(value)[1], rtol=0, atol=1e-10)


class _Copied(nn.Module):
    """Their conditioner in the place of ours, its output changed to our parametrisation."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.change(self.net(x, context))


class _WithoutContext(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x)


def test_spline_coupling() -> None:
    """nflows divides widths and heights by the square root of the conditioner's width; everything else coincides."""
    bins, bound, width = 6, 3.0, 16
    mask = [0, 1, 0, 1, 1]
    theirs = _perturbed(
        peer.PiecewiseRationalQuadraticCouplingTransform(
            mask, lambda i, o: nflows.nn.nets.ResidualNet(i, o, hidden_features=width), num_bins=bins, tails="linear", tail_bound=bound
        )
    )
    scale = torch.ones(3 * bins - 1, dtype=torch.float64)
    scale[: 2 * bins] = width**-0.5
    conditioner = _Copied(theirs.transform_net, lambda out: (out.unflatten(-1, (-1, len(scale))) * scale).flatten(-2))
    ours = Coupling(FEATURES, RationalQuadraticSpline(bins, bound), mask=[bool(flag) for flag in mask], conditioner=conditioner)
    _both_directions(ours, theirs)


def test_affine_autoregression() -> None:
    """Their (raw scale, shift), scale = softplus(raw) + 1e-3, as our (shift, raw log-scale)."""
    theirs = _perturbed(peer.MaskedAffineAutoregressiveTransform(FEATURES, hidden_features=20))
    affine = Affine()

    def change(out: Tensor) -> Tensor:
        raw, shift = out.unflatten(-1, (FEATURES, 2)).unbind(-1)
        log_scale = (nn.functional.softplus(raw) + 1e-3).log()
        return torch.stack([shift, affine.bound * torch.atanh(log_scale / affine.bound)], dim=-1).flatten(-2)

    ours = Autoregressive(FEATURES, affine).double()
    ours.net = _Copied(theirs.autoregressive_net, change)
    _both_directions(ours, theirs)


@pytest.mark.parametrize("passes", [2, 4])
def test_spline_autoregression_against_zuko(passes: int) -> None:
    """Groups of equal size, where both libraries cut the order alike; zuko's net gives the parameters of both."""
    features, bins = 4, 8
    theirs = _perturbed(zuko.flows.NSF(features, bins=bins, transforms=1, passes=passes, hidden_features=(32,))).transform.transforms[0]

    def change(out: Tensor) -> Tensor:
        parts = out.unflatten(-1, (features, -1)).split([bins, bins, bins - 1], dim=-1)
        return raw_parameters(zuko.transforms.MonotonicRQSTransform(*parts)).flatten(-2)

    ours = Autoregressive(features, RationalQuadraticSpline(bins, 5.0), passes=passes).double()
    ours.net = _Copied(_WithoutContext(theirs.hyper), change)
    x = 2 * torch.randn(ROWS, features, dtype=torch.float64)
    value, log_det = theirs().call_and_ladj(x)
    for got, want in zip((*ours(x), *ours.inverse(value)), (value, log_det, x, -log_det), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def _random_graph(seed: int) -> Tensor:
    """A random directed acyclic graph in a random order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(FEATURES, generator=generator)
    graph = (torch.rand(FEATURES, FEATURES, generator=generator) < 0.5).tril(-1)
    return graph[order][:, order]


@pytest.mark.parametrize("seed", range(5))
def test_jacobian_of_the_masked_net_is_the_graph(seed: int) -> None:
    graph = _random_graph(seed)
    net = MaskedMLP(graph, 2, (64, 64), activation="tanh").double()
    jacobian = torch.func.vmap(torch.func.jacrev(net))(torch.randn(ROWS, FEATURES, dtype=torch.float64))
    depends = (jacobian != 0).any(0).unflatten(0, (FEATURES, 2)).any(1)
    assert torch.equal(depends, graph)
