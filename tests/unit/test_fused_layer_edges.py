"""Coupling layers as one call at the edges: strided inputs, changed nets, memory that is written over or stands for other numbers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit.kernels import use
from flowkit.kernels.affine import affine
from flowkit.kernels.cpu import library, loans

pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason="no C++ compiler")


def _layer(activation: str = "tanh") -> Any:
    torch.manual_seed(0)
    layer = fk.bijectors.Coupling(4, fk.univariates.RationalQuadraticSpline(4), (8,), activation=activation).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return layer


def _value() -> Tensor:
    return torch.randn(70, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _same(call: Callable[[], tuple[Tensor, ...]]) -> bool:
    found = call()
    with use("reference"):
        return all(torch.allclose(mine, other, rtol=1e-9, atol=1e-10) for mine, other in zip(found, call(), strict=True))


@pytest.mark.parametrize("strided", ["value", "weight"])
def test_second_derivatives_reach_what_is_not_contiguous(strided: str) -> None:
    layer, value = _layer(), _value()
    if strided == "weight":
        layer._net.last.weight = nn.Parameter(layer._net.last.weight.detach().t().contiguous().t())
    value = (value.t().contiguous().t() if strided == "value" else value).requires_grad_()
    inputs = [value, *layer.parameters()]

    def second() -> tuple[Tensor, ...]:
        out, log_det = layer(value)
        grads = torch.autograd.grad(out.sin().sum() + log_det.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((grad.square().sum() for grad in grads), torch.zeros(())), inputs)

    assert _same(second)


class _Tripled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def _triple(net: Any) -> None:
    net.layers = _Tripled(*net.layers)


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "slope": ("leaky_relu", lambda net: setattr(net.layers[1], "negative_slope", 0.3)),
    "alpha": ("elu", lambda net: net.layers.__setitem__(1, nn.ELU(2.0))),
    "sequential": ("tanh", _triple),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_nets_are_called(change: str) -> None:
    activation, apply = CHANGES[change]
    layer, value = _layer(activation), _value()
    before = layer(value)[0]
    apply(layer._net)
    assert _same(lambda: layer(value))
    assert not torch.allclose(layer(value)[0], before)


def test_global_backward_pre_hooks_see_the_parts() -> None:
    layer, seen = _layer(), []
    handle = nn.modules.module.register_module_full_backward_pre_hook(lambda module, grads: seen.append(type(module)))
    try:
        layer(_value().requires_grad_())[0].sum().backward()
    finally:
        handle.remove()
    assert nn.Linear in seen


def test_what_a_layer_returned_may_be_written_over() -> None:
    layer, value = _layer(), _value()
    out, log_det = layer(value)
    out.mul_(2)
    log_det.add_(out.sum(-1))
    log_det.sum().backward()
    found = [parameter.grad for parameter in layer.parameters()]
    out, log_det = layer(value)
    wanted = torch.autograd.grad((log_det + 2 * out.sum(-1)).sum(), list(layer.parameters()))
    assert all(mine is not None and torch.allclose(mine, other) for mine, other in zip(found, wanted, strict=True))


def test_negated_views_and_cotangents_without_memory() -> None:
    layer, value = _layer(), _value()
    assert torch.allclose(layer(torch._neg_view(value))[0], layer(-value)[0], rtol=1e-12)
    value.requires_grad_()
    out, log_det = layer(value)
    nothing = torch._efficientzerotensor(out.shape, dtype=out.dtype)
    found = torch.autograd.grad((out, log_det), value, (nothing, torch.ones_like(log_det)), retain_graph=True)[0]
    assert torch.allclose(found, torch.autograd.grad(log_det.sum(), value)[0])


def test_coordinates_that_are_not_there_are_not_read() -> None:
    op: Any = affine.conditioned
    value, weight, bias = torch.randn(3, 2), torch.randn(2, 1), torch.randn(2)
    assert op.attempt((value, value[:, :0], weight, bias), ((0,), (1,), "relu", "none")) is not None
    for given, mapped in (((2,), (1,)), ((0,), (7,)), ((-1,), (1,))):
        assert op.attempt((value, value[:, :0], weight, bias), (given, mapped, "relu", "none")) is None


def test_saved_tensors_may_come_back_with_other_strides() -> None:
    layer, value = _layer(), _value()

    def turned(tensor: Tensor) -> Tensor:
        return tensor.t().contiguous() if tensor.dim() == 2 else tensor

    def grads() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(value)[1].sum(), list(layer.parameters()))

    with torch.autograd.graph.saved_tensors_hooks(turned, lambda tensor: tensor.t() if tensor.dim() == 2 else tensor):
        found = grads()
    assert all(torch.equal(mine, other) for mine, other in zip(found, grads(), strict=True))


def test_memory_of_sizes_nobody_asks_for_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = loans._Pool()
    monkeypatch.setattr(loans, "_POOL", pool)
    monkeypatch.setattr(loans, "MOST_KEPT", 10_000)
    for size in (4_000, 5_000, 3_000):
        loans.borrow(size, torch.uint8)
    assert list(pool.waiting) == [3_000]
    assert pool.bytes == 3_000


def test_threads_train_beside_each_other() -> None:
    layer, value = _layer(), _value()

    def grads(own: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(own(value)[1].sum(), list(own.parameters()))

    wanted, wrong = grads(layer), list[int]()

    def train() -> None:
        own = copy.deepcopy(layer)
        wrong.extend(1 for _ in range(20) if not all(map(torch.equal, grads(own), wanted)))

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(block.numel() for blocks in list(loans._POOL.waiting.values()) for block in blocks) == loans._POOL.bytes


@pytest.mark.parametrize("kind", [fk.bijectors.Coupling, fk.bijectors.Autoregressive])
def test_a_univariate_that_was_patched_is_called(kind: Any) -> None:
    layer, seen = kind(4, fk.univariates.Affine(), (8,)), []

    def noted(formula: Any) -> Any:
        return lambda *args: (seen.append(formula), formula(*args))[1]

    for name in ("transform_event", "untransform_event", "untransform"):
        setattr(layer._univariate, name, noted(getattr(layer._univariate, name)))
    with torch.no_grad():
        layer(torch.randn(3, 4))
        calls = len(seen)
        layer.inverse(torch.randn(3, 4))
    assert 0 < calls < len(seen)
