"""Fixed elementwise maps fused in one pass: a chain gives what its parts give."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diagonal_chain_cases import CHAINS, fused, made_chain, points
from torch import Tensor

import flowkit
from flowkit.bijectors import Affine, Chain, Sigmoid, SoftClip, Standardize
from flowkit.core.algebra._diagonal import DiagonalRun
from flowkit.core.transform import Bijector
from flowkit.kernels import OPS, use
from flowkit.kernels.diagonal_chain import Steps
from flowkit.testing.ops import cast, results, worst


def _one_by_one(chain: Chain, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    total: Any = 0
    with use("reference"):
        for part in reversed(list(chain)) if inverse else chain:
            value, log_det = part.inverse(value) if inverse else part(value)
            total = total + log_det
    return value, total


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_chain_is_its_parts(name: str, batch: tuple[int, ...], inverse: bool) -> None:
    """Values, log_det and all gradients, those that a log_det alone sends back too."""
    chain = made_chain(name)
    found, wanted = [], []
    for made, call in ((found, lambda v: chain.inverse(v) if inverse else chain(v)), (wanted, lambda v: _one_by_one(chain, v, inverse))):
        value = points(chain, *batch, inverse=inverse).requires_grad_()
        out, log_det = call(value)
        inputs = [value, *chain.parameters()]
        weights = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape)
        made += [out, log_det, *torch.autograd.grad((out * weights).sum() + (log_det * log_det.detach().cos()).sum(), inputs, retain_graph=True)]
        made += torch.autograd.grad(log_det.sum(), inputs, materialize_grads=True)
    for mine, other in zip(found, wanted, strict=True):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        assert (mine - other).abs().max() <= 1e-11 * other.abs().max().clamp(min=1.0) if mine.numel() else True


@pytest.mark.parametrize("name", CHAINS)
def test_scores_are_those_of_the_parts(name: str) -> None:
    chain = made_chain(name)
    z = points(chain, 4)
    score = torch.sin(torch.arange(z.numel(), dtype=z.dtype)).reshape(z.shape)
    _, _, pushed = chain.push_score(z, score)
    # a chain inside a chain is not taken apart: its score goes through the fused run
    _, _, through = Bijector.push_score(chain, z, score)
    assert worst(through, pushed) <= 1e-10


@pytest.mark.parametrize("name", CHAINS)
def test_second_derivatives(name: str) -> None:
    chain = made_chain(name)
    z = points(chain, 3)

    def total(call: Any) -> tuple[Tensor, ...]:
        value = z.clone().requires_grad_()
        out, log_det = call(value)
        inputs = [value, *chain.parameters()]
        first = torch.autograd.grad((out * out).sum() + log_det.sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((part * part).sum() for part in first), inputs)

    for mine, other in zip(total(chain), total(lambda value: _one_by_one(chain, value, False)), strict=True):
        assert worst(mine, other) <= 1e-9


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("name", CHAINS)
def test_parts_on_their_own_are_the_run(name: str, inverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = made_chain(name)
    value = points(chain, 4, inverse=inverse)
    if not inverse and chain[0]._domain is None:
        value = 3 * value
    calls = [lambda: chain.inverse(value) if inverse else chain(value), lambda: chain.masked(value, inverse=inverse)[:2],
             lambda: chain.masked_normal(value, inverse=inverse)[:1]]  # fmt: skip
    together = [call() for call in calls]
    monkeypatch.setattr(DiagonalRun, "_steps", lambda self, value: None)
    for mine, other in zip(together, [call() for call in calls], strict=True):
        for one, two in zip(mine, other, strict=True):
            assert worst(one.detach(), two.detach()) <= 1e-11


@fused
@pytest.mark.parametrize("size", [1e6, 1e-6])
def test_a_scale_from_data_keeps_its_digits(size: float) -> None:
    """Between neighbours that run together: a few roundings, not those of exp(log(scale))."""
    made = Standardize(3)
    made.scale.copy_(size * torch.tensor([1.1, 2.3, 3.7]))
    made.loc.copy_(size * torch.tensor([0.3, -0.2, 0.1]))
    z = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    chain = Chain([Affine((3,)), made, Affine((3,))])
    wanted = z.double() * made.scale.double() + made.loc.double()
    eps = torch.finfo(torch.float32).eps
    assert ((chain(z)[0].double() - wanted) / wanted).abs().max() <= 1.5 * eps
    x = wanted.float()
    back = (x.double() - made.loc.double()) / made.scale.double()
    assert ((chain.inverse(x)[0].double() - back) / back).abs().max() <= 1.5 * eps


@pytest.mark.parametrize(("kind", "name", "start", "later"), [(Sigmoid, "temperature", 1.0, 3.0), (SoftClip, "bound", 1.0, 5.0)])
def test_numbers_set_later_count(kind: Any, name: str, start: float, later: float) -> None:
    made, wanted = (kind(3, **{name: number}).double() for number in (start, later))
    setattr(made, name, later)
    z = torch.linspace(-4, 4, 12, dtype=torch.float64).reshape(4, 3)
    x, log_det = wanted(z)
    for one in (made, Chain([Affine((3,)).double(), made])):
        assert worst(one(z)[0].detach(), x) == 0 and worst(one(z)[1].detach(), log_det) <= 1e-14
        assert worst(one.inverse(x)[0].detach(), z) <= 1e-12
    assert made.describe() == wanted.describe()
    assert {buffer.dtype for buffer in made.buffers()} == {torch.float64}


def test_a_bound_must_be_positive_later_too() -> None:
    made = SoftClip(3)
    with pytest.raises(flowkit.core.errors.ConfigError, match="bound > 0"):
        made.bound = -1.0
    assert made.bound == 5.0


@fused
def test_a_default_device_leaves_nothing_behind() -> None:
    steps, z = Steps("sigmoid:1.234,tanh"), torch.linspace(-1, 1, 6).reshape(2, 3)
    with use("reference"):
        wanted = steps(z, 1)
    with torch.device("meta"), use("fused"):
        found = steps(z, 1)
    with use("fused"):
        again = steps(z, 1)
    for one in (found, again):
        assert worst(one[0], wanted[0]) <= 1e-6 and worst(one[1], wanted[1]) <= 1e-6


@pytest.mark.parametrize("shape", [(3,), (1,), (), (2, 1), (1, 3), (2, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("choice", ["reference", pytest.param("fused", marks=fused)])
def test_parameters_broadcast_to_the_event(shape: tuple[int, ...], choice: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    value, shift, log_scale = (torch.randn(size, generator=generator) for size in ((4, 2, 3), shape, shape))
    with use(choice):
        out, log_det = Steps("affine", (shift, log_scale))(value, 2)
    assert worst(out, value * log_scale.exp() + shift) <= 1e-5
    assert worst(log_det, log_scale.expand(2, 3).sum().expand(4)) <= 1e-5


def test_a_vmap_over_nothing() -> None:
    for dim in (0, 1):
        value, params = torch.randn(4, 3).unsqueeze(dim).narrow(dim, 0, 0), torch.zeros(1, 2, 3)
        out, log_det = torch.vmap(lambda v: torch.ops.flowkit.diagonal_chain(v, params, "affine,tanh", 1, "none"), in_dims=dim)(value)  # noqa: B023
        assert out.shape == (0, 4, 3) and log_det.shape == (0, 4)
    back = torch.ops.flowkit.diagonal_chain_backward
    grads = torch.vmap(lambda g: back(g, torch.zeros(4), torch.randn(4, 3), params, "affine,tanh", 1, "none"), randomness="same")(torch.zeros(0, 4, 3))
    assert [grad.shape for grad in grads] == [(0, 4, 3), (0, 1, 2, 3)]


def test_copies_and_conversions_follow() -> None:
    """A run is made at each call: nothing of an older state is left in it."""
    chain = made_chain("to_the_unit_interval")
    z = points(chain, 4)
    other = copy.deepcopy(chain)
    with torch.no_grad():
        other[2].shift.add_(1.0)
    assert worst(other(z)[0].detach(), chain(z)[0].detach() + 1) <= 1e-12
    assert worst(chain.float()(z.float())[0].detach().double(), other.double()(z)[0].detach() - 1) <= 1e-5
    swapped = {name: torch.zeros_like(parameter) for name, parameter in chain.named_parameters()}
    assert torch.func.functional_call(chain, swapped, (z.float(),))[0].abs().max() <= 1


@fused
@pytest.mark.parametrize(("program", "affine"), [("affine", 1), ("inverse_affine", 1), ("affine,inverse_affine,affine", 3)])
@pytest.mark.parametrize("base", ["none", "normal"])
@pytest.mark.parametrize("event", [(1,), (7,), (16,), (17, 16), (3, 100)], ids=str)
def test_float32_error_without_divisions(program: str, affine: int, base: str, event: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    value, params = (torch.randn(*size, generator=generator) for size in ((500, *event), (affine, 2, event[0])))
    args = (value, 0.3 * params, program, len(event), base)
    op = OPS["diagonal_chain"]
    with use("fused"):
        found = results(op, args)
    for mine, true in zip(found, results(op.reference, cast(args, torch.float64)), strict=True):
        assert worst(mine, true) < 2e-6
