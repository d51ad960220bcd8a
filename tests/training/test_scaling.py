"""A fit does not depend on the units of the data, and never leaves its support (spine-F10)."""

from __future__ import annotations

import math

import pytest
import torch

import flowkit as fk
from flowkit.core.domain import Ball, Box, HalfSpace, Product, Simplex


def crescent(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator)
    return torch.stack([x[:, 0], 0.5 * x[:, 0] ** 2 + 0.3 * x[:, 1]], dim=1)


def fitted(x: torch.Tensor, validation: torch.Tensor, **options: object) -> fk.Flow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = fk.flows.NeuralSplineFlow(2, layers=2, hidden=(16,), bins=4, **options)
    fk.fit(flow, x, validation=validation, max_epochs=4, batch_size=128, lr=5e-3, seed=0, progress=False)
    return flow


def test_powers_of_two_give_the_same_fit() -> None:
    train, held_out = crescent(1000, 0), crescent(300, 1)
    reference = fitted(train, held_out).log_prob(held_out)
    for exponent in (-20, 20):
        scale = 2.0**exponent
        log_prob = fitted(scale * train, scale * held_out).log_prob(scale * held_out) + 2 * math.log(scale)
        torch.testing.assert_close(log_prob, reference, rtol=0, atol=1e-4)


def test_any_units_give_the_same_held_out_likelihood() -> None:
    train, held_out = crescent(1000, 0), crescent(300, 1)
    reference = fitted(train, held_out).log_prob(held_out).mean()
    for scale in (1e-6, 1e6):
        log_prob = fitted(scale * train, scale * held_out).log_prob(scale * held_out) + 2 * math.log(scale)
        assert log_prob.mean().item() == pytest.approx(reference.item(), abs=0.05)


def test_box_support_is_never_left_and_the_mass_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1000, 2, generator=generator) ** 3 * torch.tensor([2.0, 0.5]) - torch.tensor([1.0, 0.0])
    box = Box([-1.0, 0.0], [1.0, 0.5])
    flow = fitted(x[:800], x[800:], support=box)
    samples = flow.sample((1_000_000,), generator=generator)
    assert int((~box.contains(samples)).sum()) == 0
    share = torch.sigmoid(torch.linspace(-25.0, 25.0, 1201, dtype=torch.float64))  # dense at the ends, where the data pile up
    ends = torch.tensor([[-1.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    edges = [low + (high - low) * share for low, high in ends]
    grid = torch.stack(torch.meshgrid(*[(edge[1:] + edge[:-1]) / 2 for edge in edges], indexing="ij"), -1)
    area = edges[0].diff()[:, None] * edges[1].diff()
    with torch.no_grad():
        mass = (flow.double().log_prob(grid, batch_size=200_000).exp() * area).sum()
    assert mass.item() == pytest.approx(1.0, abs=1e-3)
    assert flow.log_prob(torch.tensor([[-1.1, 0.1], [0.0, 0.6]], dtype=torch.float64)).tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize(
    "support",
    [HalfSpace([1.0, 2.0], 1.0), Ball(2.0, 2), Simplex(2), Product([Box(0.0, float("inf"), 1), Box(-1.0, 1.0, 1)])],
    ids=["half_space", "ball", "simplex", "product"],
)
def test_other_supports(support: fk.core.domain.Domain) -> None:
    torch.manual_seed(0)
    flow = fk.flows.RealNVP(2, layers=2, hidden=(8,), support=support)
    for parameter in flow.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    samples = flow.sample((20_000,))
    assert bool(support.contains(samples).all())
    fk.fit(flow, samples[:1000], max_steps=20, batch_size=200, seed=0, progress=False)
    outside = torch.full((1, 2), 5.0)
    assert flow.log_prob(outside).item() == -math.inf
    assert torch.isfinite(flow.log_prob(samples[:1000])).all()
