"""Bad input to reflected flows: clear errors that name the sample and the remedy (continuous O-7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flowkit.core.domain import Ball, Box, HalfSpace, Integers, MeanFree, Product, Real, Simplex, Sphere
from flowkit.core.errors import ConfigError, DomainError, FlowkitError, NonFiniteError, ShapeError
from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.data import Corners
from flowkit.distributions import StandardNormal, TruncatedNormal, UniformOn
from flowkit.flows import ReflectedFlow
from flowkit.objectives import ReflectedFlowMatching


class Broken(VectorField):
    """NaN from t = 0.5 on."""

    event_shape = (2,)

    def velocity(self, t: Any, x: Any, context: Any = None) -> Any:
        return torch.where(t.reshape(-1, 1) < 0.5, 0.0 * x, torch.nan)


def flow(**options: Any) -> ReflectedFlow:
    return ReflectedFlow(Box(-1.0, 1.0, 2), (8,), **options)


@pytest.mark.parametrize("domain", [Sphere(2), Integers(4, 2), MeanFree(3), Product([Box(0.0, 1.0, 1), Integers(4, 1)]), Real((2,))])
def test_domains_without_mirrors(domain: Any) -> None:
    """A domain that is not convex, or has no mirrors, is refused by the flow and the objective; the message lists what is possible."""
    for make in (lambda: ReflectedFlow(domain), lambda: ReflectedFlowMatching(domain)):
        with pytest.raises(DomainError, match=r"convex domain with mirrors \(Box, HalfSpace, Ball, Simplex, Polytope"):
            make()


def test_data_outside() -> None:
    """Data outside name the first sample, its values, how many there are and the remedy, from the objective and the flow."""
    x = torch.zeros(5, 2)
    x[3] = torch.tensor([0.5, 1.25])
    for call in (lambda: ReflectedFlowMatching().loss(flow(), Batch(x)), lambda: flow().endpoint(x)):
        with pytest.raises(DomainError, match=r"sample 3 = \(0\.5, 1\.25\) outside, 1 of 5 samples\. Rescale"):
            call()
    x[3, 0] = torch.nan
    with pytest.raises(DomainError, match="sample 3"):
        ReflectedFlowMatching().loss(flow(), Batch(x))
    with pytest.raises(DomainError, match="Rescale"):
        flow().to_latent(torch.full((1, 2), 3.0))


def test_unnormalised_simplex() -> None:
    """Parts that do not sum to at most one are named, with the remedy for proportions."""
    counts = torch.tensor([[0.2, 0.3], [3.0, 5.0]])
    with pytest.raises(DomainError, match=r"sample 1 = \(3, 5\) outside.*divide by the sum"):
        ReflectedFlowMatching().loss(ReflectedFlow(Simplex(2), (8,)), Batch(counts))


def test_models_that_do_not_fit() -> None:
    """A model without a velocity, on another domain, of another shape, or with a prior outside the domain is refused."""
    x = torch.zeros(4, 2)
    for model, objective, error, words in (
        (nn.Linear(2, 2), ReflectedFlowMatching(), ConfigError, "ReflectedFlow"),
        (flow(), ReflectedFlowMatching(Box(-2.0, 2.0, 2)), ConfigError, "Leave domain= out"),
        (flow(), ReflectedFlowMatching(Ball(1.0, 3)), ShapeError, "same domain"),
    ):
        with pytest.raises(error, match=words):
            objective.loss(model, Batch(x))
    with pytest.raises(DomainError, match="draws of the prior: expected data in"):
        flow(prior=StandardNormal((2,)))
    with pytest.raises(ShapeError, match="prior has events"):
        flow(prior=UniformOn(Ball(1.0, 3)))
    assert torch.isfinite(flow(prior=TruncatedNormal(-1.0, 1.0, (2,))).log_prob(x[:1])).all()
    with pytest.raises(ConfigError, match="batch of data"):
        ReflectedFlowMatching().loss(flow(), Batch(size=4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prior": "normal"}, "prior to be one of 'uniform', 'truncated_normal'"),
        ({"prior": 3}, "prior to be 'uniform', 'truncated_normal' or a distribution"),
        ({"on_exit": "inf"}, "on_exit to be one of"),
        ({"boundary": "absorb"}, "boundary to be one of"),
        ({"solver": "euler"}, "steps="),
        ({"classes": 2, "context_features": 3}, "classes="),
    ],
)
def test_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(FlowkitError, match=words):
        flow(**options)


def test_domains_that_need_more() -> None:
    """An unbounded domain has no uniform prior; one of images needs a field; objectives check their own options."""
    with pytest.raises(ConfigError, match=r"unbounded. Use a TruncatedNormalOn"):
        ReflectedFlow(HalfSpace([1.0, 0.0], 1.0))
    with pytest.raises(ConfigError, match="needs field="):
        ReflectedFlow(Box(0.0, 1.0, (1, 4, 4)))
    with pytest.raises(ConfigError, match="label_drop"):
        ReflectedFlowMatching(label_drop=1.0)
    with pytest.raises(ConfigError, match="at most 8 components"):
        Corners(dim=2, components=9)


def test_fields_that_break() -> None:
    """A field that turns NaN is reported with the time and the sample."""
    broken = ReflectedFlow(Box(-1.0, 1.0, 2), field=Broken(), solver="dopri5")
    with pytest.raises(NonFiniteError, match=r"t = 0\.\d+ .*sample 0, 3 of 3"):
        broken.sample(3)
