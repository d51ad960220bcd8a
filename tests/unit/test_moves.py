"""Values without log_dets: ``move`` of maps made of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import Affine, Continuous
from flowkit.continuous import MLPField
from flowkit.core.algebra import Chain
from flowkit.core.domain import Sphere
from flowkit.core.flow import Flow
from flowkit.core.vector_field import VectorField
from flowkit.distributions import StandardNormal
from flowkit.flows import RiemannianFlow
from flowkit.numerics import manifold_ode

D = torch.float64


class Undivided(VectorField):
    """A field that must not be asked for its divergence."""

    event_shape = (2,)

    def velocity(self, t: Tensor, x: Tensor, context: object = None) -> Tensor:
        return torch.sin(x)

    def divergence(self, t: Tensor, x: Tensor, context: object = None) -> Tensor:  # type: ignore[override]
        raise AssertionError("a divergence was evaluated")


def test_values_alone_need_no_divergence() -> None:
    """Chains, inverses and chains in chains leave the divergence out where only values are wanted."""
    z = torch.randn(5, 2, dtype=D)
    inner, shift = Continuous(Undivided()), Affine((2,), loc=1.0)
    for made in (inner >> shift, ~inner, ~(inner >> shift), Chain([shift, ~Chain([inner, shift])])):
        bijector = made.to(D)
        assert torch.allclose(bijector.move(bijector.move(z), inverse=True), z, atol=1e-3)
        assert Flow(StandardNormal((2,)), bijector).to(D).sample(3).shape == (3, 2)
        with pytest.raises(AssertionError, match="a divergence was evaluated"):
            bijector(z)
    context = torch.randn(4, 3)
    chain = Chain([Continuous(MLPField(2, (8, 8), context_features=3)), ~Affine((2,), context_features=3)])
    assert torch.allclose(chain.move(z[:1].float(), context), chain(z[:1].float(), context)[0], atol=1e-4)


@pytest.mark.parametrize("options", [{"steps": 4}, {"solver": "dopri5", "steps": None}])
def test_manifold_samples_need_no_divergence(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One policy for ``sample``, ``to_data`` and ``to_latent``, which agree; only densities integrate the divergence."""
    flow = RiemannianFlow(Sphere(2), (8, 8), **options)
    z = flow.base.sample(6, generator=torch.Generator().manual_seed(0))
    wanted = flow.bijector(z)[0]

    def refuse(*args: Any) -> Any:
        raise AssertionError("a divergence was evaluated")

    monkeypatch.setattr(manifold_ode, "velocity_and_divergence", refuse)
    x = flow.to_data(z)
    assert torch.equal(flow.sample(6, generator=torch.Generator().manual_seed(0)), x) and torch.allclose(x, wanted, atol=1e-4)
    assert torch.allclose(flow.to_latent(x), z, atol=1e-2)
    with pytest.raises(AssertionError, match="a divergence was evaluated"):
        flow.log_prob(x)
