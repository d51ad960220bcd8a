"""Autoregressive splines in sixteen dimensions (spine-F4), and inverses that evaluate every unit of the masked net once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stepped_layers import graph, with_own_net
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import flowkit as fk
from flowkit.bijectors import Autoregressive
from flowkit.nets import MaskedLayers, MaskedMLP
from flowkit.univariates import Affine


@pytest.fixture(scope="module")
def flow() -> fk.Flow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = fk.flows.NeuralSplineFlow(16, layers=3, hidden=(64, 64), autoregressive=True)
        for parameter in flow.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return flow.double()


def test_sample_and_log_prob_agree(flow: fk.Flow) -> None:
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob((256,), generator=torch.Generator().manual_seed(1))
        z = flow.to_latent(x)
        assert (flow.log_prob(x) - log_prob).abs().max() < 1e-9
        assert (flow.to_data(z) - x).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_row_changes_no_other_row(flow: fk.Flow, dtype: torch.dtype) -> None:
    flow = fk.core.build.build(flow.describe(), fk.Flow).to(dtype)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(33, 16, generator=generator, dtype=dtype)
    other = x.clone()
    other[7] = 100.0 * torch.randn(16, generator=generator, dtype=dtype)
    rest = torch.arange(33) != 7
    with torch.no_grad():
        for call in (flow.log_prob, flow.to_latent, flow.to_data):
            assert torch.equal(call(x)[rest], call(other)[rest])
            assert not torch.equal(call(x)[7], call(other)[7])


def _randomised(layer: Autoregressive) -> Autoregressive:
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.double()


LAYERS: dict[str, Callable[[], Autoregressive]] = {
    "wide": lambda: Autoregressive(5, Affine(), (16, 16), activation="tanh"),
    "narrow": lambda: Autoregressive(12, Affine(), (3, 7), activation="tanh"),
    "narrow_conditional": lambda: Autoregressive(12, Affine(), (16, 4), order=torch.randperm(12).tolist(), context_features=3, activation="tanh"),
    "no_hidden": lambda: Autoregressive(5, Affine(), ()),
    "groups": lambda: Autoregressive(7, Affine(), (16,), 3, order=torch.randperm(7).tolist(), context_features=1, activation="tanh"),
    "single_conditional": lambda: Autoregressive(1, Affine(), (4,), context_features=2, activation="tanh"),
    "graph": lambda: graph(9),
    "residual": lambda: with_own_net("residual", 0),
    "residual_conditional": lambda: with_own_net("residual", 2),
    "shallow_conditional": lambda: with_own_net("shallow", 2),
    "layers_joined": lambda: with_own_net("joined", 2),
    "layers_added": lambda: with_own_net("added", 2),
}


def _by_whole_passes(layer: Autoregressive) -> Autoregressive:
    """The same layer, its net hidden behind a module that can only be called."""

    class Called(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return self.net(x, context)  # type: ignore[no-any-return]

    other = copy.deepcopy(layer)
    if other.conditioner is None:
        assert other.net is not None
        other.net = Called(other.net)
    else:
        other.conditioner = Called(other.conditioner)
    return other


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_unit_by_unit_is_whole_passes(name: str, batch: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    layer = _randomised(LAYERS[name]())
    slow = _by_whole_passes(layer)
    x = torch.randn(*batch, layer.features, dtype=torch.float64, requires_grad=True)
    context = torch.randn(*batch, layer.context_features, dtype=torch.float64) if layer.context_features else None
    results = []
    for each in (layer, slow):
        z, log_det = each.inverse(x, context)
        loss = (z.square() * torch.arange(1, layer.features + 1)).sum() + log_det.sum()
        results.append((z, log_det, *torch.autograd.grad(loss, [x, *each.parameters()], materialize_grads=True, allow_unused=True)))
    with torch.no_grad():
        results.append(layer.inverse(x, context))
    for ours, theirs in [*zip(results[0], results[1], strict=True), *zip(results[2], results[1], strict=False)]:
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("make", [lambda: Autoregressive(16, Affine(), (64, 64)), lambda: with_own_net("residual", 2)])
def test_an_inverse_multiplies_no_more_than_a_forward(make: Callable[[], Autoregressive]) -> None:
    layer = make()
    x = torch.randn(10, layer.features)
    context = torch.randn(10, layer.context_features) if layer.context_features else None
    counts = []
    for call in (layer, layer.inverse):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(x, context)  # type: ignore[operator]
        counts.append(counter.get_total_flops())
    assert 0 < counts[1] <= counts[0]


def test_one_net_for_two_orders() -> None:
    """Neither map takes the steps of the other."""
    torch.manual_seed(4)
    sees_first = torch.tensor([False, True, True]).repeat_interleave(2)[:, None].expand(6, 4)
    net = MaskedLayers((torch.tensor([[True, False, False]]).expand(4, 3), sees_first), activation="tanh")
    first, second = (_randomised(Autoregressive(3, Affine(), conditioner=net, order=order)) for order in [(0, 1, 2), (0, 2, 1)])
    x = torch.randn(8, 3, dtype=torch.float64)
    for layer in (first, second, copy.deepcopy(first)):
        torch.testing.assert_close(layer(layer.inverse(x)[0])[0], x)


def test_hooks_and_dropout_are_obeyed() -> None:
    """A net that must be called is called: once a level."""
    layer = Autoregressive(5, Affine(), (8,))
    calls: list[Any] = []
    assert layer.net is not None
    layer.net.register_forward_hook(lambda *arguments: calls.append(arguments))
    layer.inverse(torch.randn(2, 5))
    assert len(calls) == 5
    net = MaskedLayers((torch.tensor([[True, False]]).expand(8, 2), torch.ones(8, 8), torch.tensor([[0], [0], [1], [1]]).expand(4, 8)), dropout=0.5)
    key = net.arrange_steps([[0], [1]])
    assert net.start_steps(key, torch.randn(2, 2)) is None
    assert net.eval().start_steps(key, torch.randn(2, 2)) is not None


def test_a_masked_net_of_the_wrong_order_is_refused() -> None:
    net = MaskedMLP(torch.ones(3, 3, dtype=torch.bool).triu(1), 2)
    with pytest.raises(fk.core.errors.ConfigError, match="would depend on coordinate"):
        Autoregressive(3, Affine(), conditioner=net)


@pytest.mark.parametrize("recipe", ["maf", "iaf"])
def test_sample_and_log_prob_solve_no_layer_twice(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAF's layers are solved once each and never called; IAF's are called once each and never solved."""
    flow = {"maf": fk.flows.MAF, "iaf": fk.flows.IAF}[recipe](4, layers=3, hidden=(8,))
    calls: list[str] = []
    for name in ("_forward", "_inverse"):
        made = getattr(Autoregressive, name)
        monkeypatch.setattr(Autoregressive, name, lambda *arguments, made=made, name=name: calls.append(name) or made(*arguments))
    flow.sample_and_log_prob((5,))
    assert calls == ["_inverse" if recipe == "maf" else "_forward"] * 3
