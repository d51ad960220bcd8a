"""Fixed elementwise maps fused in one pass: a chain gives what its parts give, and flows count a normal base in the last map's op."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit.bijectors import ActNorm, Affine, Autoregressive, BatchNorm, Chain, Elementwise, Exp, Power, Sigmoid, SoftClip, Softplus, Standardize, Tanh
from flowkit.core.algebra._diagonal import DiagonalRun, in_runs
from flowkit.core.errors import DomainError
from flowkit.core.flow import Flow
from flowkit.core.transform import Bijector
from flowkit.distributions import DiagonalNormal, StandardNormal
from flowkit.kernels import OPS, use
from flowkit.kernels.cpu import library
from flowkit.kernels.diagonal_chain import Steps
from flowkit.kernels.diagonal_steps import MAPS, NAMES, inverted
from flowkit.testing._case import perturb
from flowkit.testing.ops import cast, results, worst
from flowkit.univariates import Affine as AffineMap

fused = pytest.mark.skipif(library.unavailable() is not None, reason="no C++ compiler")


def _standardize(*shape: int) -> Standardize:
    made = Standardize(shape)
    made.set_from(torch.linspace(0, 2, 40).reshape(-1, *([1] * len(shape))) ** 2 + torch.rand(40, *shape, generator=torch.Generator().manual_seed(0)))
    return made


def _normalized(*shape: int) -> BatchNorm:
    made = BatchNorm(shape)
    made.update(3 + 2 * torch.randn(50, *shape, generator=torch.Generator().manual_seed(1)), momentum=1.0)
    return made


CHAINS: dict[str, Any] = {
    "to_the_unit_interval": lambda: [ActNorm((3,)), Sigmoid(3), Affine((3,), loc=0.3, scale=1.4)],
    "standardized": lambda: [Sigmoid(3), Affine((3,), scale=2.0), _standardize(3), Tanh(3), ~_normalized(3)],
    "two_affine": lambda: [Affine((3,), loc=-1.0, scale=0.5), ActNorm((3,))],
    "tempered": lambda: [ActNorm((3,)), Sigmoid(3, temperature=2.0), ~Sigmoid(3, temperature=0.5), Tanh(3)],
    "positive": lambda: [Exp(3), ~Softplus(3), _normalized(3), SoftClip(3, bound=3.0), Affine((3,), scale=0.3), ~Tanh(3)],
    "broken": lambda: [Affine((3,)), Exp(3), Power(3, exponent=1.5), ~Exp(3), Affine((3,), loc=1.0)],
    "image": lambda: [ActNorm((3, None, None)), Affine((3, 2, 5), scale=2.0), Softplus((3, 2, 5)), ~_normalized(3, 2, 5)],
    "scalar": lambda: [Affine((), scale=2.0), Tanh(())],
}


def _made(name: str, dtype: torch.dtype = torch.float64) -> Chain:
    chain = Chain(CHAINS[name]()).to(dtype)
    perturb(chain)
    return chain


def _points(chain: Chain, *batch: int, inverse: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = {"image": (3, 2, 5), "scalar": ()}.get(str(chain.in_shape), tuple(size or 4 for size in chain.in_shape))
    z = torch.randn((*batch, *shape), generator=torch.Generator().manual_seed(2), dtype=dtype)
    return chain(z)[0].detach() if inverse else z


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
    chain = _made(name)
    found, wanted = [], []
    for made, call in ((found, lambda v: chain.inverse(v) if inverse else chain(v)), (wanted, lambda v: _one_by_one(chain, v, inverse))):
        value = _points(chain, *batch, inverse=inverse).requires_grad_()
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
    chain = _made(name)
    z = _points(chain, 4)
    score = torch.sin(torch.arange(z.numel(), dtype=z.dtype)).reshape(z.shape)
    _, _, pushed = chain.push_score(z, score)
    # a chain inside a chain is not taken apart: its score goes through the fused run
    _, _, through = Bijector.push_score(chain, z, score)
    assert worst(through, pushed) <= 1e-10


@pytest.mark.parametrize("name", CHAINS)
def test_second_derivatives(name: str) -> None:
    chain = _made(name)
    z = _points(chain, 3)

    def total(call: Any) -> tuple[Tensor, ...]:
        value = z.clone().requires_grad_()
        out, log_det = call(value)
        inputs = [value, *chain.parameters()]
        first = torch.autograd.grad((out * out).sum() + log_det.sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((part * part).sum() for part in first), inputs)

    for mine, other in zip(total(chain), total(lambda value: _one_by_one(chain, value, False)), strict=True):
        assert worst(mine, other) <= 1e-9


@fused
def test_what_runs_together() -> None:
    def kinds(chain: Chain, inverse: bool) -> list[str]:
        return [type(part).__name__ for part in in_runs(chain._steps(inverse), inverse)]

    assert kinds(_made("to_the_unit_interval"), False) == ["DiagonalRun"]
    # the logit has a domain: its run begins there
    assert kinds(_made("to_the_unit_interval"), True) == ["Affine", "DiagonalRun"]
    assert kinds(_made("tempered"), False) == ["DiagonalRun", "DiagonalRun"]
    assert kinds(_made("broken"), False) == ["DiagonalRun", "Power", "DiagonalRun"]
    assert kinds(_made("standardized"), False) == ["DiagonalRun", "Standardize", "DiagonalRun"]
    conditional = Chain([Affine((3,), context_features=2), Affine((3,)), Affine((3,))])
    assert kinds(conditional, False) == ["Affine", "DiagonalRun"]
    with flowkit.checks(finite=True):
        assert kinds(_made("two_affine"), False) == ["Affine", "ActNorm"]


def test_hooks_are_called() -> None:
    chain, seen = _made("two_affine"), []
    chain[0].register_forward_hook(lambda *_: seen.append(1))
    chain(_points(chain, 2))
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


def test_a_base_of_its_own_density() -> None:
    class Lower(StandardNormal):
        def log_prob(self, x: Tensor, context: Any = None) -> Tensor:
            return super().log_prob(x, context) - 100

    x = torch.zeros(2)
    assert Flow(Lower((2,)), Affine(2)).log_prob(x) == Flow(StandardNormal((2,)), Affine(2)).log_prob(x) - 100


class _Halved:
    """Half of what the class after it gives."""

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._inverse(x, context, generator)  # type: ignore[misc]
        return value / 2, log_det - x.shape[-1] * torch.log(torch.tensor(2.0))

    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._forward(z, context, generator)  # type: ignore[misc]
        return value / 2, log_det - z.shape[-1] * torch.log(torch.tensor(2.0))


class _HalvedElementwise(_Halved, Elementwise):
    pass


class _OwnElementwise(Elementwise):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._inverse(x, context, generator)
        return value / 2, log_det - x.shape[-1] * torch.log(torch.tensor(2.0))


class _OwnAutoregressive(Autoregressive):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._forward(z, context, generator)
        return value / 2, log_det - z.shape[-1] * torch.log(torch.tensor(2.0))


class _Heir(_OwnAutoregressive):
    pass


class _HalvedAffine(_Halved, Affine):
    pass


@pytest.mark.parametrize("made", [
    lambda: _OwnElementwise(3, AffineMap()),
    lambda: _HalvedElementwise(3, AffineMap()),
    lambda: ~_OwnAutoregressive(3, AffineMap(), (8,)),
    lambda: ~_Heir(3, AffineMap(), (8,)),
    lambda: Chain([_HalvedAffine((3,)), Affine((3,), loc=1.0)]),
])  # fmt: skip
def test_log_prob_of_a_subclass_is_that_of_its_own_formula(made: Any) -> None:
    flow = Flow(StandardNormal((3,)), made())
    perturb(flow)
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    z, log_det = flow.bijector.inverse(x)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det
    assert worst(flow.log_prob(x).detach(), wanted.detach()) <= 1e-5


def test_shortcuts_are_kept_where_the_formula_is() -> None:
    class Named(Elementwise):
        pass

    class Hooked(Autoregressive):
        def _params(self, value: Tensor, context: Any) -> Tensor:
            return super()._params(value, context)

    assert Named.masked_normal is Elementwise.masked_normal is not Bijector.masked_normal
    assert Hooked.masked_normal is Autoregressive.masked_normal is not Bijector.masked_normal


def test_elsewhere_and_compiled_each_part_runs_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other devices than the CPU, and where a part has a formula of its own in its instance, as compiled ones have."""
    chain = _made("tempered")
    wanted = chain(_points(chain, 4))
    part = chain[0]
    part.__dict__["_formula"] = lambda *args: type(part)._formula(part, *args)
    assert [type(step).__name__ for step in in_runs(chain._steps(False), False)] == ["ActNorm", "Sigmoid", "DiagonalRun"]
    assert worst(chain(_points(chain, 4))[0].detach(), wanted[0].detach()) <= 1e-12

    def never(*args: Any) -> None:
        raise AssertionError("steps were built")

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "__call__", never)
        patch.setattr(ActNorm, "diagonal_steps", never)
        chain = Chain([ActNorm((3,)), Affine((3,))]).to("meta")
        z = torch.empty(4, 3, device="meta")
        assert chain(z)[1].shape == chain.inverse(z)[1].shape == (4,)
        assert chain.masked(z, inverse=False)[1].device.type == chain.masked_normal(z, inverse=True)[0].device.type == "meta"


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("name", CHAINS)
def test_parts_on_their_own_are_the_run(name: str, inverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = _made(name)
    value = _points(chain, 4, inverse=inverse)
    if not inverse and chain[0]._domain is None:
        value = 3 * value
    calls = [lambda: chain.inverse(value) if inverse else chain(value), lambda: chain.masked(value, inverse=inverse)[:2],
             lambda: chain.masked_normal(value, inverse=inverse)[:1]]  # fmt: skip
    together = [call() for call in calls]
    monkeypatch.setattr(DiagonalRun, "_steps", lambda self, value: None)
    for mine, other in zip(together, [call() for call in calls], strict=True):
        for one, two in zip(mine, other, strict=True):
            assert worst(one.detach(), two.detach()) <= 1e-11


def test_steps_are_asked_of_neighbours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    own = BatchNorm.diagonal_steps
    monkeypatch.setattr(BatchNorm, "diagonal_steps", lambda self: asked.append(1) or own(self))
    alone = Chain([_normalized(3), Power(3, exponent=3.0), _normalized(3), Autoregressive(3, AffineMap(), (8,)), ~_normalized(3)])
    for inverse in (False, True):
        assert in_runs(alone._steps(inverse), inverse) == alone._steps(inverse)
    alone[0:1](torch.rand(4, 3))
    assert asked == []
    Chain([_normalized(3), Tanh(3)])(torch.rand(4, 3))
    assert asked == [1]


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


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
def test_a_run_is_one_graph(inverse: bool) -> None:
    chain = _made("tempered")
    value = _points(chain, 4, inverse=inverse)
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


def test_copies_and_conversions_follow() -> None:
    """A run is made at each call: nothing of an older state is left in it."""
    chain = _made("to_the_unit_interval")
    z = _points(chain, 4)
    other = copy.deepcopy(chain)
    with torch.no_grad():
        other[2].shift.add_(1.0)
    assert worst(other(z)[0].detach(), chain(z)[0].detach() + 1) <= 1e-12
    assert worst(chain.float()(z.float())[0].detach().double(), other.double()(z)[0].detach() - 1) <= 1e-5
    swapped = {name: torch.zeros_like(parameter) for name, parameter in chain.named_parameters()}
    assert torch.func.functional_call(chain, swapped, (z.float(),))[0].abs().max() <= 1


def test_every_map_has_its_inverse_beside_it() -> None:
    assert all(inverted(inverted(name)) == name and inverted(name) != name for name in NAMES)
    x = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    for name in NAMES[2::2]:
        value, log_slope = MAPS[name](x, 2.0)
        back, other = MAPS[inverted(name)](value, 2.0)
        assert worst(back, x) <= 1e-12 and worst(other, -log_slope) <= 1e-12


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


@fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("program", [*MAPS, "sigmoid:0.7", "logit:0.7", "softclip:2.0", "inverse_softclip:2.0"])
def test_far_out(program: str, dtype: torch.dtype) -> None:
    """Values, slopes and gradients are the reference's where a map saturates, number by number."""
    info = torch.finfo(dtype)
    size = torch.cat([torch.logspace(-30, 1.5, 200), torch.tensor([0.0, 16.6, 40.0, 87.0, 88.5, 95.0, 700.0, 750.0, 1e4])]).to(dtype)
    ends = torch.tensor([0.0, info.tiny, 0.5, 1 - info.eps, 1 - info.eps / 2, 1.0], dtype=dtype)
    name = program.split(":")[0]
    unit, positive = name in ("logit", "atanh", "inverse_softclip"), name in ("log", "inverse_softplus")
    x = torch.cat([ends, torch.linspace(0, 1, 50, dtype=dtype)]) if unit else size if positive else torch.cat([-size, size])
    found, wanted = [], []
    for made, call in ((found, OPS["diagonal_chain"]), (wanted, OPS["diagonal_chain"].reference)):
        value = x.clone().requires_grad_()
        with use("fused"):
            parts = call(value, x.new_empty(0, 2, 1), program, 0, "none")
        made += [part.detach() for part in parts]
        made += [torch.autograd.grad(part.sum(), value, retain_graph=True)[0] for part in parts]
    for place, (mine, other) in enumerate(zip(found, wanted, strict=True)):
        assert torch.isfinite(mine).all()
        # the reference loses the gradient of what saturates to cancellation, 1 - tanh^2
        torch.testing.assert_close(mine, other, rtol=64 * info.eps if place < 2 else 1e-3, atol=8 * info.eps if place < 2 else 64 * info.eps)


@pytest.mark.parametrize("bijector", [
    lambda: Autoregressive(3, AffineMap(), (8,)),
    lambda: ~Autoregressive(3, AffineMap(), (8,)),
    lambda: ~Chain([Autoregressive(3, AffineMap(), (8,)), Autoregressive(3, AffineMap(), (8,))]),
    lambda: Elementwise(3, AffineMap()),
    lambda: Elementwise(3, AffineMap(), context_features=2),
    lambda: Chain([Autoregressive(3, AffineMap(), (8,), context_features=2), Affine((3,)), ActNorm((3,))]),
    lambda: Chain([ActNorm((3,)), Tanh(3)], memory="invert"),
    lambda: Chain([ActNorm((3,)), Tanh(3)]),
    lambda: Tanh(3),
])  # fmt: skip
def test_flows_with_a_normal_base(bijector: Any) -> None:
    """``log_prob`` and its gradients are those of the base's density at the latent, plus log_det."""
    flow = Flow(StandardNormal((3,)), bijector()).double()
    perturb(flow)
    generator = torch.Generator().manual_seed(3)
    context = None if flow.context_shape is None else torch.randn(5, 2, generator=generator, dtype=torch.float64)
    x = flow.to_data(torch.randn(5, 3, generator=generator, dtype=torch.float64), context).detach().requires_grad_()
    z, log_det = flow.bijector.inverse(x, context)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det
    found = flow.log_prob(x, context)
    inputs = [x, *flow.parameters()]
    assert worst(found.detach(), wanted.detach()) <= 1e-12
    for mine, other in zip(*(torch.autograd.grad(total.sum(), inputs) for total in (found, wanted)), strict=True):
        assert worst(mine, other) <= 1e-10
    with flowkit.checks(finite=True):
        assert worst(flow.log_prob(x, context).detach(), wanted.detach()) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_normals(dtype: torch.dtype) -> None:
    """Densities of the two normals, float32 at least, against torch's in float64."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(100, 4, 3, generator=generator).to(dtype)
    diagonal = DiagonalNormal((4, 3), loc=0.5, scale=2.0).to(dtype)
    perturb(diagonal)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    for own, loc, scale in ((StandardNormal((4, 3)), 0.0, 1.0), (diagonal, diagonal.mean.double(), diagonal.log_scale.double().exp())):
        wanted = torch.distributions.Normal(loc, scale).log_prob(x.double()).sum((-2, -1))
        found = own.log_prob(x)
        assert found.dtype == torch.promote_types(dtype, torch.float32) and worst(found.detach(), wanted.detach()) <= tolerance


def test_steps_add_up() -> None:
    shift = torch.zeros(3)
    steps = Steps("affine", (shift, shift + 1)) + Steps("tanh") + Steps("inverse_affine", (shift + 2, shift + 3))
    assert steps.program == "affine,tanh,inverse_affine" and len(steps.params) == 4
    back = steps.inverted()
    assert back.program == "affine,atanh,inverse_affine" and [part[0].item() for part in back.params] == [2.0, 3.0, 0.0, 1.0]
    assert isinstance(in_runs([Affine((3,)), Tanh(3)], False)[0], DiagonalRun)
