"""Latents that overflow between two maps: the density there is below all numbers, and NaN is kept for what is wrong."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit.bijectors import Affine, Chain, Coupling, Exp, LULinear, SoftClip
from flowkit.core.errors import NonFiniteError
from flowkit.core.flow import Flow
from flowkit.distributions import StandardNormal
from flowkit.kernels import use
from flowkit.testing._case import perturb
from flowkit.univariates import Affine as AffineMap

FAR = torch.tensor([[1e17, 1e17, 1e18], [-1e18, 1.0, 1e17]])


def _flow() -> Flow:
    """Data of size 1e-22: large ones overflow in the map next to them, and those after it make NaN of infinity."""
    flow = Flow(StandardNormal((3,)), Chain([LULinear(3), Coupling(3, AffineMap(), (8,)), Affine((3,), scale=1e-22)]))
    with torch.no_grad():
        for part in (flow.bijector[0], flow.bijector[1]):
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return flow


def _near(flow: Flow) -> Tensor:
    return flow.to_data(torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).detach()


@pytest.mark.parametrize("choice", ["chosen", "reference"])
def test_overflown_latents_have_no_density(choice: str) -> None:
    flow = _flow()
    x = torch.cat([_near(flow), FAR])
    with use(choice) if choice == "reference" else nullcontext():
        found = flow.log_prob(x)
        alone = flow.log_prob(x[:2])
    assert torch.isfinite(found[:2]).all() and found[2:].tolist() == [-torch.inf, -torch.inf]
    assert torch.equal(found[:2], alone)
    assert torch.equal(flow.log_prob(x, batch_size=3), found)


def test_gradients_of_the_others_do_not_meet_infinity() -> None:
    flow = _flow()
    x = torch.cat([_near(flow), FAR[:1]])
    found = flow.log_prob(x)
    grads = torch.autograd.grad(found[found.isfinite()].sum(), list(flow.parameters()))
    wanted = torch.autograd.grad(flow.log_prob(x[:2]).sum(), list(flow.parameters()))
    for mine, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_no_density_is_plus_infinity() -> None:
    """The log-slope of exp at an infinite latent is infinite, and a bounded map hides the latent from the base."""
    flow = Flow(StandardNormal((3,)), ~Chain([Affine((3,), scale=1e30), Affine((3,), scale=1e30), Exp(3), SoftClip(3)]))
    assert flow.log_prob(FAR[[0]]).item() == -torch.inf


def test_the_support_counts_too() -> None:
    flow = Flow(StandardNormal((3,)), _flow().bijector, flowkit.core.domain.Box(0.0, torch.inf, (3,)))
    found = flow.log_prob(torch.tensor([[1e18, 1e18, 1e18], [1.0, 1.0, -1.0]]))
    assert found.tolist() == [-torch.inf, -torch.inf]


def test_the_guard_names_the_map() -> None:
    with flowkit.checks(finite=True), pytest.raises(NonFiniteError, match=r"Affine\.inverse: 3 of 3 output values"):
        _flow().log_prob(FAR[0])


def test_nan_of_parameters_stays() -> None:
    """Among events that overflow, too."""
    flow = _flow()
    x = torch.cat([_near(flow), FAR[:1]])
    with torch.no_grad():
        next(flow.bijector[0].parameters()).fill_(torch.nan)
    found = flow.log_prob(x)
    assert found.isnan().tolist() == [True, True, False] and found[2].item() == -torch.inf


def test_nothing_is_looked_at_where_nothing_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(StandardNormal((3,)), Coupling(3, AffineMap(), (8,)))
    perturb(flow)

    def never(*args: object) -> None:
        raise AssertionError("the maps were gone through")

    monkeypatch.setattr("flowkit.core._overflow.layers", never)
    assert torch.isfinite(flow.log_prob(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))).all()
    assert flow.log_prob(torch.full((1, 3), torch.nan)).item() == -torch.inf
