"""Which neighbours of a chain run in one pass, and that nothing else is passed over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diagonal_chain_cases import fused, made_chain, normalized, points
from torch import Tensor

import flowkit
from flowkit.bijectors import ActNorm, Affine, Autoregressive, BatchNorm, Chain, Elementwise, Power, Sigmoid, Tanh
from flowkit.core.algebra._diagonal import DiagonalRun, in_runs
from flowkit.core.errors import DomainError
from flowkit.core.flow import Flow
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.kernels.diagonal_chain import Steps
from flowkit.testing.ops import worst
from flowkit.univariates import Affine as AffineMap


@fused
def test_what_runs_together() -> None:
    def kinds(chain: Chain, inverse: bool) -> list[str]:
        return [type(part).__name__ for part in in_runs(chain._steps(inverse), inverse)]

    assert kinds(made_chain("to_the_unit_interval"), False) == ["DiagonalRun"]
    # the logit has a domain: its run begins there
    assert kinds(made_chain("to_the_unit_interval"), True) == ["Affine", "DiagonalRun"]
    assert kinds(made_chain("tempered"), False) == ["DiagonalRun", "DiagonalRun"]
    assert kinds(made_chain("broken"), False) == ["DiagonalRun", "Power", "DiagonalRun"]
    assert kinds(made_chain("standardized"), False) == ["DiagonalRun", "Standardize", "DiagonalRun"]
    conditional = Chain([Affine((3,), context_features=2), Affine((3,)), Affine((3,))])
    assert kinds(conditional, False) == ["Affine", "DiagonalRun"]
    with flowkit.checks(finite=True):
        assert kinds(made_chain("two_affine"), False) == ["Affine", "ActNorm"]


def test_hooks_are_called() -> None:
    chain, seen = made_chain("two_affine"), []
    chain[0].register_forward_hook(lambda *_: seen.append(1))
    chain(points(chain, 2))
    assert seen == [1]


def test_a_formula_of_its_own_is_not_passed_over() -> None:
    class Twice(Affine):
        def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
            value, log_det = super()._forward(z, context, generator)
            return 2 * value, log_det + 3 * torch.log(torch.tensor(2.0))

    chain = Chain([Twice((3,)), Affine((3,), loc=1.0)])
    assert chain(torch.ones(3))[0].tolist() == [3.0, 3.0, 3.0]


def test_no_override_is_passed_over() -> None:
    """Not that of a helper, of the public call, or of one instance."""

    class Moved(Affine):
        def _parameters_at(self, *args: Any) -> Any:
            raise RuntimeError("called")

    class Public(Affine):
        def forward(self, z: Tensor, context: Any = None, *, generator: Any = None) -> tuple[Tensor, Tensor]:
            raise RuntimeError("called")

    own = Affine((3,), loc=1.0)

    def raising(z: Tensor, context: Any, generator: Any) -> Any:
        raise RuntimeError("called")

    own._forward = raising  # type: ignore[method-assign]
    for part in (Moved((3,), loc=1.0), Public((3,)), own):
        with pytest.raises(RuntimeError, match="called"):
            Chain([part, Affine((3,))])(torch.ones(3))


def test_elsewhere_and_compiled_each_part_runs_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other devices than the CPU, and where a part has a formula of its own in its instance, as compiled ones have."""
    chain = made_chain("tempered")
    wanted = chain(points(chain, 4))
    part = chain[0]
    part.__dict__["_formula"] = lambda *args: type(part)._formula(part, *args)
    assert [type(step).__name__ for step in in_runs(chain._steps(False), False)] == ["ActNorm", "Sigmoid", "DiagonalRun"]
    assert worst(chain(points(chain, 4))[0].detach(), wanted[0].detach()) <= 1e-12

    def never(*args: Any) -> None:
        raise AssertionError("steps were built")

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "__call__", never)
        patch.setattr(ActNorm, "diagonal_steps", never)
        chain = Chain([ActNorm((3,)), Affine((3,))]).to("meta")
        z = torch.empty(4, 3, device="meta")
        assert chain(z)[1].shape == chain.inverse(z)[1].shape == (4,)
        assert chain.masked(z, inverse=False)[1].device.type == chain.masked_normal(z, inverse=True)[0].device.type == "meta"


def test_steps_are_asked_of_neighbours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    own = BatchNorm.diagonal_steps
    monkeypatch.setattr(BatchNorm, "diagonal_steps", lambda self: asked.append(1) or own(self))
    alone = Chain([normalized(3), Power(3, exponent=3.0), normalized(3), Autoregressive(3, AffineMap(), (8,)), ~normalized(3)])
    for inverse in (False, True):
        assert in_runs(alone._steps(inverse), inverse) == alone._steps(inverse)
    alone[0:1](torch.rand(4, 3))
    assert asked == []
    Chain([normalized(3), Tanh(3)])(torch.rand(4, 3))
    assert asked == [1]


def test_shortcuts_are_kept_where_the_formula_is() -> None:
    class Named(Elementwise):
        pass

    class Hooked(Autoregressive):
        def _params(self, value: Tensor, context: Any) -> Tensor:
            return super()._params(value, context)

    assert Named.masked_normal is Elementwise.masked_normal is not Bijector.masked_normal
    assert Hooked.masked_normal is Autoregressive.masked_normal is not Bijector.masked_normal


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
def test_a_run_is_one_graph(inverse: bool) -> None:
    chain = made_chain("tempered")
    value = points(chain, 4, inverse=inverse)
    call = chain.inverse if inverse else chain
    found = torch.compile(call, fullgraph=True, backend="eager")(value)
    for mine, other in zip(found, call(value), strict=True):
        assert worst(mine.detach(), other.detach()) <= 1e-12


def test_a_run_keeps_the_domain_of_its_first_part() -> None:
    chain = Chain([~Sigmoid(3), Affine((3,)), Tanh(3)])
    outside = torch.tensor([[0.5, 0.5, 0.5], [0.5, 1.5, 0.5]])
    with pytest.raises(DomainError, match=r"Sigmoid\.inverse"):
        chain(outside)
    value, log_det, inside = chain.masked(outside, inverse=False)
    assert inside is not None and inside.tolist() == [True, False] and bool(torch.isfinite(value).all() & torch.isfinite(log_det).all())
    flow = Flow(StandardNormal((3,)), ~chain)
    assert torch.isfinite(flow.log_prob(outside)).tolist() == [True, False]


def test_steps_add_up() -> None:
    shift = torch.zeros(3)
    steps = Steps("affine", (shift, shift + 1)) + Steps("tanh") + Steps("inverse_affine", (shift + 2, shift + 3))
    assert steps.program == "affine,tanh,inverse_affine" and len(steps.params) == 4
    back = steps.inverted()
    assert back.program == "affine,atanh,inverse_affine" and [part[0].item() for part in back.params] == [2.0, 3.0, 0.0, 1.0]
    assert isinstance(in_runs([Affine((3,)), Tanh(3)], False)[0], DiagonalRun)
