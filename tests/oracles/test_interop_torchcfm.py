"""torchcfm's names on flowkit's paths and pairings, against torchcfm itself where it is installed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowkit.interop import torchcfm as shim

DTYPE = torch.float64


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


MATCHERS = ("ConditionalFlowMatcher", "TargetConditionalFlowMatcher", "VariancePreservingConditionalFlowMatcher", "SchrodingerBridgeConditionalFlowMatcher",
            "ExactOptimalTransportConditionalFlowMatcher")  # fmt: skip


@pytest.mark.parametrize("sigma", [0.1, 0.5])
@pytest.mark.parametrize("name", MATCHERS)
def test_torchcfm_matchers(name: str, sigma: float) -> None:
    """Same seed, same pairs: t, x_t, u_t and the noise are torchcfm's; so are the parts they are made of."""
    peer = getattr(pytest.importorskip("torchcfm"), name)(sigma=sigma)
    ours = getattr(shim, name)(sigma=sigma)
    x0, x1 = draws(30, 3), draws(30, 3, seed=1)
    if ours.ot_sampler is not None:  # pairs are drawn with replacement there, a permutation here: give both the same
        x0, x1 = ours.ot_sampler.sample_plan(x0, x1)
        peer.ot_sampler.sample_plan = ours.ot_sampler.sample_plan = lambda a, b: (a, b)
    for t in (None, torch.linspace(0.01, 0.99, 30, dtype=DTYPE)):
        torch.manual_seed(3)
        theirs = peer.sample_location_and_conditional_flow(x0, x1, t, return_noise=True)
        torch.manual_seed(3)
        found = ours.sample_location_and_conditional_flow(x0, x1, t, return_noise=True)
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(found, theirs, strict=True))
    t, xt, noise = theirs[0], theirs[1], theirs[3]
    assert torch.allclose(ours.compute_mu_t(x0, x1, t), peer.compute_mu_t(x0, x1, t))
    assert torch.allclose(torch.as_tensor(ours.compute_sigma_t(t)), torch.as_tensor(peer.compute_sigma_t(t)))
    assert torch.allclose(ours.sample_xt(x0, x1, t, noise), peer.sample_xt(x0, x1, t, noise))
    assert torch.allclose(ours.compute_conditional_flow(x0, x1, t, xt), peer.compute_conditional_flow(x0, x1, t, xt), rtol=1e-6, atol=1e-6)
    assert torch.allclose(torch.as_tensor(ours.compute_lambda(t)), torch.as_tensor(peer.compute_lambda(t)))


@pytest.mark.parametrize("method", ["exact", "sinkhorn", "unbalanced"])
def test_torchcfm_plans(method: str) -> None:
    """The plans are torchcfm's; labels follow their rows."""
    peer = pytest.importorskip("torchcfm.optimal_transport").OTPlanSampler(method, reg=0.5)
    ours = shim.OTPlanSampler(method, reg=0.5, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    x0, x1 = draws(20, 2), draws(20, 2, seed=1) + 1
    theirs = torch.from_numpy(peer.get_map(x0, x1))
    assert (ours.get_map(x0, x1) - theirs).abs().max() * 20 <= 1e-4
    a, b, ya, yb = ours.sample_plan_with_labels(x0, x1, x0.clone(), x1.clone())
    assert torch.equal(a, ya) and torch.equal(b, yb) and a.shape == x0.shape
    i, j = ours.sample_map(theirs, 50)
    assert bool((theirs[i, j] > 0).all())


def test_torchcfm_guided_and_trajectories() -> None:
    x0, x1, labels = draws(12, 2), draws(12, 2, seed=1), torch.arange(12)
    for name in MATCHERS:
        made = getattr(shim, name)(sigma=0.1)
        t, place, velocity, y0, y1, noise = made.guided_sample_location_and_conditional_flow(x0, x1, labels, labels, return_noise=True)
        assert t.shape == (12,) and place.shape == velocity.shape == noise.shape == (12, 2)
        assert sorted(y0.tolist()) == list(range(12)) and torch.equal(y1, labels)
    linked = shim.OTPlanSampler("exact").sample_trajectory(torch.stack([x0, x1, x0], 1))
    assert torch.equal(linked[:, 0], x0) and torch.equal(linked[:, 2], x0)
