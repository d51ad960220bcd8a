"""Flows at their edges: supports, far points, contexts, views."""

from __future__ import annotations

import math

import pytest
import torch

import flowkit as fk
from flowkit.bijectors import Affine, Chain, Identity, Indexed
from flowkit.core.domain import Ball, Box, HalfSpace, Simplex
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.distributions import StandardNormal


@pytest.mark.parametrize(
    "support", [Box(-2.0, -0.8, 2), Box(0.1, 0.7, 2), HalfSpace([1.0, 2.0], 0.5), Ball(0.3, 2), Simplex(2)], ids=["box", "box2", "half", "ball", "simplex"]
)
def test_a_flow_gives_its_own_extreme_samples_a_density(support: fk.core.domain.Domain) -> None:
    torch.manual_seed(0)
    flow = fk.Flow(StandardNormal((2,)), Affine((2,), scale=30.0), support)
    x = flow.sample((20_000,))
    assert bool(support.contains(x).all())
    assert torch.isfinite(flow.log_prob(x)).all()


def test_ends_of_a_box_are_inside_in_every_precision() -> None:
    flow = fk.Flow(StandardNormal((1,)), Affine((1,)), Box(0.1, 0.9, 1)).double()
    assert torch.isfinite(flow.log_prob(torch.tensor([[0.1], [0.9]], dtype=torch.float64))).all()


@pytest.mark.parametrize("name", ["real_nvp", "nice", "maf", "neural_spline_flow"])
def test_far_points_have_no_density_and_no_nan(name: str) -> None:
    torch.manual_seed(0)
    flow = fk.core.registry.FLOWS[name](3, layers=3, hidden=(8,))
    for parameter in flow.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    x = torch.tensor([[1e36, 0.0, 0.0], [1e38, -1e38, 1.0], [math.inf, 0.0, 0.0], [math.nan, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    log_prob = flow.log_prob(x)
    assert log_prob[:4].tolist() == [-math.inf] * 4 and math.isfinite(log_prob[4].item())
    log_prob[4].backward()
    assert torch.isfinite(x.grad).all()


def test_scores_broadcast_like_densities() -> None:
    flow = fk.Flow(StandardNormal((2,)), Affine((2,), context_features=3))
    assert flow.score(torch.ones(2), torch.randn(5, 3)).shape == (5, 2)
    joint = Affine((1,), context_features=3) & Identity((1,))
    x, log_det, score = joint.push_score(torch.zeros(2), torch.ones(2), torch.randn(5, 3))
    assert x.shape == score.shape == (5, 2) and log_det.shape == (5,)


def test_conditioned_flow_has_the_whole_surface() -> None:
    flow = fk.flows.RealNVP(2, 3, layers=2, hidden=(8,))
    context = torch.ones(3)
    fixed = flow.condition(context)
    x = torch.randn(64, 2).cumsum(1)
    before = fixed.log_prob(x)
    context.zero_()
    assert torch.equal(fixed.log_prob(x), before)
    assert fixed.bijector is flow.bijector and fixed.embedding is None
    fk.fit(fixed, x, max_steps=3, batch_size=32, seed=0, progress=False)
    assert bool(flow.standardizer.fitted)


def test_view_expands_and_knows_its_support() -> None:
    view = fk.Flow(StandardNormal((2,)), Affine((2,)))().expand((3,))
    assert view.batch_shape == (3,) and view.sample().shape == (3, 2) and view.sample((4,)).shape == (4, 3, 2)
    assert view.log_prob(torch.zeros(2)).shape == (3,)
    boxed = fk.Flow(StandardNormal((2,)), Affine((2,)), Box(-1.0, 1.0, 2))()
    assert boxed.support.check(torch.tensor([[0.0, 0.5], [5.0, 0.0]])).tolist() == [True, False]


def test_wrong_dtype_and_wrong_base_are_told() -> None:
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,))
    with pytest.raises(ShapeError, match=r"expected torch\.float32"):
        flow.log_prob(torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ConfigError, match="TorchDistribution"):
        fk.Flow(torch.distributions.Normal(0.0, 1.0), Affine((2,)))


def test_slices_pick_what_python_picks() -> None:
    assert Affine((2,)).on(slice(3, 1, -1), shape=5).chosen.tolist() == [3, 2]
    assert Affine((3,)).on(slice(4, None, -2), shape=5).chosen.tolist() == [4, 2, 0]
    for index in ([], [0.5]):
        with pytest.raises(ConfigError, match="Indexed"):
            Indexed(Affine((1,)), index, 3)


def test_chain_takes_chains_apart() -> None:
    f, g, h = Affine((2,)), Identity((2,)), Affine((2,))
    assert (f >> g >> h)[0] is f and len(f >> (g >> h)) == 3 and isinstance((f >> g >> h)[1:], Chain)


def test_far_points_in_half_precision() -> None:
    """Only what overflows is cut off: the squares of many moderate numbers add up in float32."""
    flow = fk.Flow(fk.distributions.StandardNormal((1000,)), fk.bijectors.Affine(shape=(1000,), scale=10.0)).half()
    x = torch.full((2, 1000), 10.0, dtype=torch.float16)
    x[1, 0] = 3e4
    log_prob = flow.log_prob(x)
    assert torch.isfinite(log_prob[0]) and log_prob[1] == -torch.inf


def test_one_event_in_chunks_and_a_context_shape_that_is_none() -> None:
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,))
    torch.testing.assert_close(flow.log_prob(torch.ones(2), batch_size=3), flow.log_prob(torch.ones(2)))
    assert flow.to_latent(torch.ones(2), batch_size=3).shape == (2,)
    with pytest.raises(ConfigError, match="expected context_shape to be a tuple of sizes"):
        fk.Flow(StandardNormal((2,)), Affine((2,)), embed=torch.nn.Linear(3, 3), context_shape=3)  # type: ignore[arg-type]


def test_scores_under_inference_mode() -> None:
    """Where nothing is recorded, what needs derivatives inside gives the same numbers."""
    flow, target = fk.flows.RealNVP(4, layers=2, hidden=(8,)), fk.targets.ManyWell(4)
    wanted = flow.sample_and_score((5,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = flow.sample_and_score((5,), generator=torch.Generator().manual_seed(0))
        scores = target.score(found[0]), flow.score(found[0]), flow.pull_score(found[0], found[2])[2]
        chains = fk.sampling.hmc(target, torch.randn(8, 4), 5, warmup=0, progress=False)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach())
    torch.testing.assert_close(scores[0], target.score(wanted[0].detach()))
    torch.testing.assert_close(scores[1], wanted[2], rtol=1e-4, atol=1e-4)
    assert scores[2].shape == (5, 4) and chains.samples.shape[-1] == 4
