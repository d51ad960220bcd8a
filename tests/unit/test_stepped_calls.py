"""When the inverse of an autoregressive layer is one kernel, and when its levels are taken one by one instead (kernels-K3)."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from stepped_layers import by_reference, fused, given, made, note_calls
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import flowkit as fk
from flowkit.bijectors import Autoregressive
from flowkit.kernels import KernelError, use
from flowkit.kernels.steps import Run
from flowkit.univariates import LogisticMixtureCDF


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return note_calls(monkeypatch)


@fused
def test_weights_are_those_of_the_call(calls: list[str]) -> None:
    """Weights changed in place, replaced, seen through a parametrization or copied with the layer."""
    layer = made("reversed")
    x, _ = given(layer, 8)
    assert layer.net is not None
    linear: Any = layer.net.layers[1]

    def check(of: Autoregressive) -> Tensor:
        mine, true = of.inverse(x), by_reference(of, x, None)
        assert calls.pop().startswith("stepped_")
        torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-12)
        return mine[0]

    before = check(layer)
    linear.weight.data *= 1.5
    scaled = check(layer)
    assert not torch.allclose(before, scaled)
    linear.weight = nn.Parameter(linear.weight.t().contiguous().t())  # other strides
    assert torch.equal(check(layer), scaled)
    for other in (copy.deepcopy(layer), torch.load(_saved(layer), weights_only=False)):
        assert torch.equal(check(other), scaled)
    assert not any("plan" in key for key in layer.state_dict())
    x = x.float()
    assert layer.float().inverse(x)[0].dtype == torch.float32 and calls.pop().startswith("stepped_")


def _saved(module: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return file


def _with_hook(layer: Any) -> None:
    layer.net.layers[0].register_forward_hook(lambda module, args, out: out)


def _with_hooked_activation(layer: Any) -> None:
    layer.net.act.register_forward_pre_hook(lambda module, args: None)


def _with_dense_layer(layer: Any) -> None:
    linear = layer.net.layers[0]
    layer.net.layers[0] = nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
    layer.net.layers[0].weight.data = linear.mask * linear.weight
    layer.net.layers[0].bias.data = linear.bias.data


def _with_slope(layer: Any) -> None:
    layer.net.act = nn.LeakyReLU(0.2)


def _with_gelu(layer: Any) -> None:
    layer.net.act = nn.GELU()


def _with_mixture(layer: Any) -> None:
    made = Autoregressive(6, LogisticMixtureCDF(2), (16,)).double()
    layer.__dict__.update(made.__dict__)


@fused
@pytest.mark.parametrize("change", [_with_hook, _with_hooked_activation, _with_dense_layer, _with_slope, _with_gelu, _with_mixture])
def test_a_net_the_kernel_does_not_know_goes_level_by_level(change: Callable[[Any], None], calls: list[str]) -> None:
    layer = made("relu")
    change(layer)
    x, _ = given(layer, 9)
    z, log_det = layer.inverse(x)
    assert not any(call.startswith("stepped_") for call in calls)
    again, forward = layer(z)
    torch.testing.assert_close(again, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forward, -log_det, rtol=1e-9, atol=1e-9)


@fused
def test_what_has_to_see_the_levels_does(calls: list[str]) -> None:
    layer = made("relu", torch.float32)
    x, _ = given(layer, 9, dtype=torch.float32)

    def stepped() -> bool:
        found = any(call.startswith("stepped_") for call in calls)
        calls.clear()
        return found

    wanted = layer.inverse(x)
    assert stepped()
    with torch.enable_grad():
        z, log_det = layer.inverse(x)
        assert not stepped() and z.requires_grad and log_det.requires_grad
        torch.testing.assert_close(z, wanted[0], rtol=1e-4, atol=1e-4)
        copy.deepcopy(layer).requires_grad_(False).inverse(x)
        assert stepped()
        layer.requires_grad_(False).inverse(x.clone().requires_grad_())
        assert not stepped()
    with torch.autocast("cpu", torch.bfloat16):
        layer.inverse(x)
    assert not stepped()
    torch.func.vmap(lambda row: layer.inverse(row)[0])(x)
    assert not stepped()
    torch.func.jvp(lambda row: layer.inverse(row)[0], (x,), (x,))
    assert not stepped()
    with torch.autograd.forward_ad.dual_level():
        layer.inverse(torch.autograd.forward_ad.make_dual(x, x))
    assert not stepped()
    with use("reference"):
        layer.inverse(x)
    assert not calls
    with FlopCounterMode(display=False):
        layer.inverse(x)
    assert not stepped()


def _arguments(layer: Any, x: Tensor) -> tuple[Any, tuple[Any, ...]]:
    """The op of a layer's inverse and its arguments."""
    run = layer.net.start_steps(layer._arranged, x)
    assert isinstance(run, Run)
    op, constants = layer.univariate.as_op(inverse=True)
    return op.stepped, (x, run.stack, *constants)


@fused
def test_the_op_by_itself() -> None:
    layer = made("relu")
    x, _ = given(layer, 5)
    op, args = _arguments(layer, x)
    assert op.name == "stepped_inverse_rational_quadratic_spline" and fk.kernels.OPS[op.name] is op
    with use("fused"):
        mine = op(*args)
    with use("reference"):
        torch.testing.assert_close(mine, op(*args), rtol=1e-12, atol=1e-12)
    with torch.enable_grad():
        z, log_det = op(*args)
    torch.testing.assert_close((z.detach(), log_det.detach()), mine, rtol=1e-12, atol=1e-12)
    assert z.requires_grad


@fused
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda x, stack, *rest: (x.half(), stack, *rest), "float16"),
        (lambda x, stack, *rest: (x.float(), stack, *rest), "differ"),
        (lambda x, stack, *rest: (x[:, :3], stack, *rest), "6 features"),
        (lambda x, stack, *rest: (x, stack._replace(act=nn.GELU()), *rest), "GELU"),
        (lambda x, stack, bins, *rest: (x, stack, bins + 1, *rest), "23 outputs for each input are not 26"),
        (lambda x, stack, *rest: (x, stack._replace(layers=[stack.layers[0]._replace(offset=x[:2, :1].expand(2, 20)), *stack.layers[1:]]), *rest), "5 rows"),
    ],
)
def test_forced_kernel_says_why_it_cannot_serve(change: Callable[..., Any], why: str) -> None:
    layer = made("relu")
    op, args = _arguments(layer, given(layer, 5)[0])
    with use("fused"), pytest.raises(KernelError, match=why):
        op(*change(*args))


@fused
def test_forced_kernel_does_not_record_gradients() -> None:
    layer = made("relu")
    op, args = _arguments(layer, given(layer, 5)[0])
    with torch.enable_grad(), use("fused"):
        with pytest.raises(KernelError, match="gradients are recorded"):
            op(*args)
        assert layer.inverse(args[0])[0].requires_grad  # the layer takes the levels one by one, each with its own kernel


@fused
def test_samples_of_a_whole_flow(calls: list[str]) -> None:
    flow = fk.flows.NeuralSplineFlow(6, layers=3, hidden=(16, 16), autoregressive=True).double()
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=parameter.dtype)
    x, log_prob = flow.sample_and_log_prob((50,), generator=torch.Generator().manual_seed(2))
    assert sum(call.startswith("stepped_") for call in calls) == 3
    torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.to_data(flow.to_latent(x)), x, rtol=1e-9, atol=1e-9)
