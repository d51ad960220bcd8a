"""How far a first batch goes through a flow: to the last map that needs it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import ActNorm, Affine, Chain, Continuous, Coupling, Permutation, Scan, Sigmoid, Tanh
from flowkit.continuous import MLPField
from flowkit.core.errors import DomainError
from flowkit.core.flow import Flow
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.univariates import Affine as AffineMap

X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


class Counting(MLPField):
    """Counts its evaluations."""

    count = 0

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        Counting.count += 1
        return super().velocity(t, x, context)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(0)
    Counting.count = 0


def _continuous() -> Continuous:
    return Continuous(Counting(2, (8,)), divergence="exact")


def test_nothing_to_initialise_costs_no_evaluation() -> None:
    flow = Flow(StandardNormal((2,)), Chain([_continuous(), Permutation((1, 0)), ~_continuous()]), standardize=True)
    flow.initialize(X)
    assert Counting.count == 0
    flow.log_prob(X)
    assert Counting.count > 0  # so they are counted
    assert fk.flows.ContinuousFlow(features=2, hidden=(8,)).initialize(X) is None


def test_fit_solves_no_equation_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow matching never solves one."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an equation is solved")

    monkeypatch.setattr(Continuous, "transport", never)
    flow = fk.flows.ContinuousFlow(features=2, hidden=(8,))
    fk.fit(flow, X, objective=fk.objectives.FlowMatching(), max_steps=2, batch_size=10, progress=False, seed=0)


def test_maps_before_the_last_that_needs_data_run() -> None:
    """From data: the continuous map, then the one it is for, and no further."""
    norm = ActNorm((2,))
    flow = Flow(StandardNormal((2,)), Chain([_continuous(), Chain([Affine((2,)), norm]), _continuous()]))
    flow.initialize(X)
    once = Counting.count
    assert bool(norm.initialized) and once > 0
    z = flow.bijector[2].inverse(X)[0]
    reached = norm.inverse(z)[0].detach()
    torch.testing.assert_close(reached.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(reached.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    Counting.count = 0
    flow.log_prob(X)
    assert Counting.count >= 2 * once  # that runs both


def _holders() -> list[Any]:
    coupling = Coupling(2, AffineMap(), (8,))
    return [
        pytest.param(lambda norm: ~norm, id="inverse"),
        pytest.param(lambda norm: Chain([coupling, norm, Tanh(2)]), id="chain"),
        pytest.param(lambda norm: ~Chain([coupling, ~norm]), id="inverse_of_chain"),
        pytest.param(lambda norm: norm.on([0, 1], (4,)), id="indexed"),
        pytest.param(lambda norm: norm & Affine((2,)), id="concat"),
        pytest.param(lambda norm: Scan(norm, 3), id="scan"),
    ]


@pytest.mark.parametrize("holder", _holders())
def test_state_is_found_inside(holder: Any) -> None:
    """However a map that needs data is wrapped up, it gets its batch, as from the map's own ``initialize``."""
    made = holder(ActNorm((2,)))
    flow = Flow(StandardNormal(made.in_shape), made)
    size = int(made.in_shape[0])
    x = 0.3 * torch.rand(20, size) + 0.2
    flow.initialize(x)
    flags = [buffer for name, buffer in flow.named_buffers() if name.endswith("initialized")]
    norms = [part for part in flow.modules() if isinstance(part, ActNorm)]
    assert norms or flags
    assert all(bool(flag.all()) for flag in flags)


def test_a_users_own_state_is_set() -> None:
    class Centred(Bijector):
        """Shifts by the mean of its first batch, around a map of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.in_shape = self.out_shape = (2,)
            self.inner = Affine((2,))
            self.register_buffer("mean", torch.zeros(2))

        def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
            return z + self.mean, z.new_zeros(z.shape[:-1])

        def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
            return x - self.mean, x.new_zeros(x.shape[:-1])

        def initialize(self, value: Tensor, context: Any = None, *, inverse: bool = False, generator: Any = None) -> Tensor:
            self.mean.copy_(value.mean(0))
            return super().initialize(value, context, inverse=inverse, generator=generator)

    made = Centred()
    Flow(StandardNormal((2,)), Chain([made, Permutation((1, 0))])).initialize(X)
    torch.testing.assert_close(made.mean, X.mean(0).flip(0))


def test_data_outside_is_still_refused() -> None:
    with pytest.raises(DomainError, match=r"Sigmoid\.inverse"):
        Flow(StandardNormal((2,)), Chain([Affine((2,)), Sigmoid(2)])).initialize(5 + X)
