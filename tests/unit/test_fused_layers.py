"""Coupling and autoregressive layers as one call: the same numbers as part by part, and part by part where somebody looks at the parts."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import flowkit as fk
from flowkit.core.transform import Bijector
from flowkit.kernels import use
from flowkit.kernels.cpu import library, loans
from flowkit.testing.ops import worst

pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason="no C++ compiler")

SPLINE = fk.univariates.RationalQuadraticSpline(5)


def _stirred(layer: Bijector, dtype: torch.dtype = torch.float64) -> Bijector:
    layer, generator = copy.deepcopy(layer), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return layer.to(dtype)


def _layers() -> Iterator[tuple[str, Bijector]]:
    yield "spline", fk.bijectors.Coupling(5, SPLINE, (16, 12))
    yield "context", fk.bijectors.Coupling(4, fk.univariates.Affine(), (16,), (True, False, False, True), context_features=2, activation="tanh")
    yield "context_only", fk.bijectors.Coupling(1, fk.univariates.Affine(scale="exp"), (16,), context_features=2, activation="silu")
    yield "no_hidden", fk.bijectors.Coupling(3, fk.univariates.LinearSpline(4, ends="bounded", bound=4.0), ())
    yield "own_net", fk.bijectors.Coupling(3, fk.univariates.QuadraticSpline(4), conditioner=fk.nets.MLP(1, 2 * 7, (9,), activation="elu"))
    yield "autoregressive", fk.bijectors.Autoregressive(4, SPLINE, (16, 12), order=(2, 0, 3, 1))
    yield "autoregressive_context", fk.bijectors.Autoregressive(3, fk.univariates.LogisticMixtureCDF(3), (16,), context_features=2, activation="leaky_relu")


CASES = [pytest.param(layer, id=name) for name, layer in _layers()]


def _inputs(layer: Bijector, rows: int = 70, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(rows, *layer.in_shape, generator=generator, dtype=torch.float64).to(dtype)  # type: ignore[misc]
    return value, None if layer.context_shape is None else torch.randn(rows, *layer.context_shape, generator=generator, dtype=torch.float64).to(dtype)


def _is_whole(out: Tensor) -> bool:
    """Whether one call made it: what is behind it is that call's node."""
    return "FlowkitLayer" in type(out.grad_fn).__name__


def _results(layer: Bijector, value: Tensor, context: Tensor | None, call: str) -> tuple[bool, list[Tensor]]:
    given = [tensor.clone().requires_grad_() for tensor in (value, context) if tensor is not None]
    out, log_det = getattr(layer, call)(*given)
    grads = torch.autograd.grad((out, log_det), [*given, *layer.parameters()], (out.detach().cos(), log_det.detach().sin()), materialize_grads=True)
    return _is_whole(out), [out.detach(), log_det.detach(), *grads]


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 200])
@pytest.mark.parametrize("layer", CASES)
def test_same_as_its_parts(layer: Bijector, rows: int) -> None:
    layer = _stirred(layer)
    directions = ["forward"] if isinstance(layer, fk.bijectors.Autoregressive) else ["forward", "inverse"]
    for call in directions:
        whole, found = _results(layer, *_inputs(layer, rows), call)
        with use("reference"):
            in_parts, wanted = _results(layer, *_inputs(layer, rows), call)
        assert whole
        assert not in_parts
        for mine, other in zip(found, wanted, strict=True):
            assert mine.shape == other.shape
            assert worst(mine, other) <= 1e-11
        with torch.no_grad():
            unrecorded = getattr(layer, call)(*(tensor for tensor in _inputs(layer, rows) if tensor is not None))
            assert all(torch.equal(mine, other) for mine, other in zip(unrecorded, found[:2], strict=True))


@pytest.mark.parametrize("call", ["push_score", "pull_score"])
@pytest.mark.parametrize("layer", CASES[:5])
def test_scores_as_in_parts(layer: Bijector, call: str) -> None:
    layer = _stirred(layer)
    value, context = _inputs(layer)
    score, found = torch.cos(3 * value), []
    for choice in ("fused", "reference"):
        with use(choice):  # type: ignore[arg-type]
            given = value.t().contiguous().t().requires_grad_()  # strided, as its parts do not mind either
            out, log_det, carried = getattr(layer, call)(given, score, context)
            grads = torch.autograd.grad((out, log_det), [given, *layer.parameters()], (out.detach().cos(), log_det.detach().sin()))
            found.append([out.detach(), log_det.detach(), carried, *grads])
            assert _is_whole(out) == (choice == "fused")
            with torch.no_grad():
                assert torch.allclose(getattr(layer, call)(value, score, context)[2], carried, rtol=1e-12)
    assert all(worst(mine, other) <= 1e-11 for mine, other in zip(*found, strict=True))


@pytest.mark.parametrize("layer", CASES)
def test_batches_of_any_shape_and_stride(layer: Bijector) -> None:
    layer = _stirred(layer)
    value, context = _inputs(layer, 24)
    flat = layer(value, context)
    shaped = layer(value.reshape(4, 6, -1), None if context is None else context.reshape(4, 6, -1))
    strided = layer(value.t().contiguous().t(), None if context is None else context.t().contiguous().t())
    assert torch.equal(shaped[0].reshape(24, -1), flat[0])
    assert torch.equal(shaped[1].flatten(), flat[1])
    assert all(torch.equal(mine, other) for mine, other in zip(strided, flat, strict=True))


def test_one_context_for_all_rows() -> None:
    layer = _stirred(fk.bijectors.Coupling(4, fk.univariates.Affine(), (8,), context_features=2))
    value, context = torch.randn(6, 4, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    found, wanted = layer(value, context), layer(value, context.expand(6, 2))
    assert all(torch.allclose(mine, other, rtol=1e-12) for mine, other in zip(found, wanted, strict=True))


class _Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _replace(layer: Any) -> None:
    layer._net.layers[0] = _Doubled(2, 16, dtype=torch.float64)


def _patch(layer: Any) -> None:
    layer._net.last.forward = lambda x: 2 * nn.functional.linear(x, layer._net.last.weight, layer._net.last.bias)


def _generate(layer: Any) -> None:
    weight = layer._net.last.weight.detach().clone()
    del layer._net.last.weight
    layer._net.last.weight = 2 * weight  # an attribute, as a hypernetwork would set it


LOOKS: dict[str, Callable[[Any], Any]] = {
    "hook": lambda layer: layer._net.last.register_forward_hook(lambda module, given, out: 2 * out),
    "pre_hook": lambda layer: layer._net.register_forward_pre_hook(lambda module, given: (2 * given[0], *given[1:])),
    "replaced_layer": _replace,
    "own_forward": _patch,
    "generated_weight": _generate,
    "parametrization": lambda layer: nn.utils.parametrizations.weight_norm(layer._net.last),
    "dropout_in_between": lambda layer: layer._net.layers.append(nn.Dropout(0.0)),
}


@pytest.mark.parametrize("look", LOOKS)
def test_parts_that_somebody_changed_are_called(look: str) -> None:
    layer: Any = _stirred(fk.bijectors.Coupling(5, SPLINE, (16, 12)))
    value, _ = _inputs(layer)
    LOOKS[look](layer)
    whole, found = _results(layer, value, None, "forward")
    with use("reference"):
        wanted = _results(layer, value, None, "forward")[1]
    assert not whole
    assert all(torch.allclose(mine, other, atol=1e-11) for mine, other in zip(found, wanted, strict=True))


def test_global_hooks_see_the_parts() -> None:
    layer, seen = _stirred(fk.bijectors.Coupling(5, SPLINE, (16,))), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.append(type(module)))
    try:
        layer(_inputs(layer)[0])
    finally:
        handle.remove()
    assert nn.Linear in seen


def test_a_subclass_with_another_formula_is_not_passed_over() -> None:
    class Shifted(fk.univariates.Affine):
        def transform_event(self, z: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
            x, log_det = super().transform_event(z, params, event_dims, base)
            return x + 1, log_det

    torch.manual_seed(0)
    plain = fk.bijectors.Coupling(4, fk.univariates.Affine(), (8,))
    torch.manual_seed(0)
    shifted = fk.bijectors.Coupling(4, Shifted(), (8,))
    value = torch.randn(3, 4)
    assert torch.allclose(shifted(value)[0][:, 2:], plain(value)[0][:, 2:] + 1)


def test_another_net_with_an_own_forward_is_called() -> None:
    class Doubled(fk.nets.MLP):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return 2 * super().forward(x, context)

    net = Doubled(2, 4, (8,))
    layer = fk.bijectors.Coupling(4, fk.univariates.Affine(), conditioner=net)
    value = torch.randn(3, 4)
    wanted = value[:, 2:] * torch.exp(5 * torch.tanh(net(value[:, :2]).reshape(3, 2, 2)[..., 1] / 5)) + net(value[:, :2]).reshape(3, 2, 2)[..., 0]
    assert torch.allclose(layer(value)[0][:, 2:], wanted, atol=1e-5)


def test_autocast_runs_the_net_in_half_precision() -> None:
    layer = _stirred(fk.bijectors.Coupling(4, fk.univariates.Affine(), (8,)), torch.float32)
    value = torch.randn(50, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = layer(value)[0]
    assert halved.dtype == torch.float32
    assert not torch.equal(halved, layer(value)[0])


def test_only_gradients_that_are_wanted() -> None:
    layer = _stirred(fk.bijectors.Coupling(4, SPLINE, (8,), context_features=1))
    value, context = _inputs(layer)
    layer.requires_grad_(False)
    frozen = value.clone().requires_grad_()
    out, log_det = layer(frozen, context)
    (out.sum() + log_det.sum()).backward()
    assert frozen.grad is not None
    assert all(parameter.grad is None for parameter in layer.parameters())
    layer.requires_grad_(True)
    out, log_det = layer(value, context)
    (out.sum() + log_det.sum()).backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    whole = value.clone().requires_grad_()
    out, log_det = layer(whole, context)
    (out.sum() + log_det.sum()).backward()
    assert whole.grad is not None
    assert torch.equal(whole.grad, frozen.grad)


def test_backward_twice_and_checkpoints() -> None:
    layer = _stirred(fk.bijectors.Coupling(4, SPLINE, (8,)))
    value = _inputs(layer)[0].requires_grad_()

    def loss(given: Tensor) -> Tensor:
        out, log_det = layer(given)
        return out.square().sum() + log_det.sum()

    total = loss(value)
    first = torch.autograd.grad(total, value, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(total, value)[0], first)
    assert torch.equal(torch.autograd.grad(checkpoint(loss, value, use_reentrant=False), value)[0], first)
    total = loss(value)
    with torch.no_grad():
        next(layer.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_the_output_may_be_changed_in_place() -> None:
    layer = _stirred(fk.bijectors.Coupling(4, SPLINE, (8,)))
    value = _inputs(layer)[0].requires_grad_()
    out, log_det = layer(value)
    (first,) = torch.autograd.grad((2 * out).sum() + log_det.sum(), value)
    out, log_det = layer(value)
    out *= 2
    assert torch.equal(torch.autograd.grad(out.sum() + log_det.sum(), value)[0], first)


@contextmanager
def _own_pool() -> Iterator[Any]:
    before, loans._POOL = loans._POOL, loans._Pool()
    try:
        yield loans._POOL
    finally:
        loans._POOL = before


def test_memory_on_loan_comes_back_and_is_lent_to_one_at_a_time() -> None:
    with _own_pool() as pool:
        first, second = loans.borrow(1000, torch.float32), loans.borrow(1000, torch.float32)
        assert first.data_ptr() != second.data_ptr()
        place, view = first.data_ptr(), first[10:]
        del first
        gc.collect()
        assert pool.bytes == 0  # a view still holds it
        del view
        assert pool.bytes == 4000
        assert loans.borrow(1000, torch.float32).data_ptr() == place
        assert loans.borrow(500, torch.float64).data_ptr() == place  # the same bytes, given back at once
        assert loans.borrow(0, torch.float32).numel() == 0
        large = loans.borrow(loans.MOST_BLOCK, torch.float32)
        del large
        assert pool.bytes == 4000


def test_training_takes_its_memory_from_the_step_before() -> None:
    layer = _stirred(fk.bijectors.Coupling(4, SPLINE, (8,)))
    value = _inputs(layer)[0]
    with _own_pool() as pool:
        sizes = []
        for _ in range(3):
            layer(value)[1].sum().backward()
            sizes.append(pool.bytes)
        assert sizes[0] > 0
        assert sizes == sizes[:1] * 3


def test_the_density_of_an_autoregressive_flow_is_one_call_a_layer() -> None:
    flow = fk.flows.MAF(features=3, layers=2, hidden=(8,))
    x = torch.randn(5, 3)
    fused = flow.log_prob(x)
    with use("reference"):
        assert torch.allclose(fused, flow.log_prob(x), atol=1e-5)
