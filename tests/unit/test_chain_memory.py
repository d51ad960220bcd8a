"""``Chain(memory="invert")``: flat memory, the stored chain's gradients, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit.bijectors import Affine, Chain, Coupling, LULinear, Permutation, Sandwich, ToBox
from flowkit.core.errors import ConfigError
from flowkit.core.transform import Bijector
from flowkit.univariates import Affine as AffineMap


def couplings(depth: int, features: int = 4, **options: Any) -> list[Bijector]:
    parts: list[Bijector] = []
    for _ in range(depth):
        parts += [Coupling(features, AffineMap(), (8,), activation="silu", **options), Permutation.reverse(features)]
    return parts


def pair(depth: int, dtype: torch.dtype, **options: Any) -> tuple[Chain, Chain]:
    torch.manual_seed(0)
    parts = couplings(depth, **options)
    stored = Chain(parts).to(dtype)
    with torch.no_grad():
        for parameter in stored.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return stored, Chain(parts, memory="invert")


def gradients(chain: Chain, x: Tensor, context: Tensor | None = None, inverse: bool = True) -> list[Tensor]:
    x = x.clone().requires_grad_()
    context = None if context is None else context.clone().requires_grad_()
    value, log_det = (chain.inverse if inverse else chain)(x, context)
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)
    inputs = [x, *([] if context is None else [context]), *chain.parameters()]
    return list(torch.autograd.grad((weights * value).sum() + log_det.square().sum(), inputs))


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_equal_the_stored_ones(dtype: torch.dtype, allowed: float, inverse: bool) -> None:
    stored, recomputed = pair(4, dtype, context_features=2)
    x, context = torch.randn(16, 4, dtype=dtype), torch.randn(2, dtype=dtype)
    for a, b in zip(gradients(stored, x, context, inverse), gradients(recomputed, x, context, inverse), strict=True):
        assert float((a - b).norm()) <= allowed * max(1.0, float(a.norm()))


def saved_numbers(chain: Chain, x: Tensor) -> int:
    """Numbers that the graph of one call keeps, parameters apart."""
    own = {p.data_ptr() for p in chain.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = chain.inverse(x)
    assert result[0].requires_grad
    return sum(kept.values())


def test_memory_is_flat_in_depth() -> None:
    x = torch.randn(64, 4)
    kept = {(memory, depth): saved_numbers(Chain(couplings(depth), memory=memory), x) for memory in ("store", "invert") for depth in (4, 64)}  # type: ignore[arg-type]
    assert kept["invert", 64] <= 1.1 * kept["invert", 4]
    assert kept["store", 64] > 10 * kept["store", 4]


def test_trains_like_the_stored_chain() -> None:
    x = torch.randn(256, 4) * 0.5 + 1
    losses = []
    for memory in ("store", "invert"):
        torch.manual_seed(0)
        flow = fk.Flow(fk.distributions.StandardNormal((4,)), ~Chain(couplings(3), memory=memory), fk.core.domain.Box(-10.0, 10.0, 4))  # type: ignore[arg-type]
        fit = fk.fit(flow, x.clamp(-9, 9), max_steps=20, batch_size=64, seed=0, progress=False)
        losses.append(flow.log_prob(x.clamp(-9, 9)).mean().item())
        assert fit.steps == 20
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_points_outside_a_domain_inside_the_chain() -> None:
    chain = Chain([Affine((2,), scale=2.0), ToBox(-1.0, 1.0, (2,))], memory="invert")
    flow = fk.Flow(fk.distributions.StandardNormal((2,)), chain)
    x = torch.tensor([[0.5, 0.5], [2.0, 0.0]], requires_grad=True)
    log_prob = flow.log_prob(x)
    assert log_prob[1] == -torch.inf and torch.isfinite(log_prob[0])
    log_prob[0].backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_shared_parts_and_functional_call() -> None:
    part = Affine((2,), scale=1.5)
    stored, recomputed = Chain([part, part]), Chain([part, part], memory="invert")
    x = torch.randn(3, 2)
    for a, b in zip(gradients(stored, x), gradients(recomputed, x), strict=True):
        torch.testing.assert_close(a, b)
    lent = {name: (2 * p.detach()).requires_grad_() for name, p in recomputed.named_parameters()}
    value, _ = torch.func.functional_call(recomputed, lent, (x,))
    found = torch.autograd.grad(value.sum(), list(lent.values()))
    wanted = torch.autograd.grad(torch.func.functional_call(stored, lent, (x,))[0].sum(), list(lent.values()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def tied_across() -> Chain:
    """Two maps with one tensor in common."""
    chain = Chain([Affine((2,), scale=1.5), Affine((2,), loc=0.3)])
    chain[1].log_scale = chain[0].log_scale  # type: ignore[union-attr]
    return chain


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["power", "sandwich", "tensor", "tensor twice"])
def test_a_part_that_holds_a_module_twice(kind: str, inverse: bool) -> None:
    torch.manual_seed(0)
    twice = LULinear(2)
    with torch.no_grad():
        for parameter in twice.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made = {"power": lambda: twice**2, "sandwich": lambda: Sandwich(twice, twice), "tensor": tied_across, "tensor twice": lambda: tied_across() ** 2}
    part: Bijector = made[kind]()  # type: ignore[operator]
    parts = [part, LULinear(2), part]
    stored, recomputed = Chain(parts).double(), Chain(parts, memory="invert").double()
    names, x = [name for name, _ in recomputed.named_parameters()], torch.randn(3, 2, dtype=torch.float64)
    for a, b in zip(gradients(stored, x, inverse=inverse), gradients(recomputed, x, inverse=inverse), strict=True):
        torch.testing.assert_close(a, b)
    assert [name for name, _ in recomputed.named_parameters()] == names and all(isinstance(p, nn.Parameter) for p in recomputed.parameters())


def test_the_algebra_keeps_it() -> None:
    chain = Chain(couplings(2), memory="invert")
    assert (chain >> Permutation.reverse(4)).memory == "invert"  # type: ignore[attr-defined]
    assert chain[1:].memory == "invert"  # type: ignore[attr-defined]
    assert (~chain).simplify().memory == "invert"  # type: ignore[union-attr]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="expected memory"):
        Chain(couplings(1), memory="forget")  # type: ignore[arg-type]
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))

    class Conditioner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, context: Any) -> Tensor:
            return self.net(x)

    dropping = Chain([Coupling(4, AffineMap(), conditioner=Conditioner())], memory="invert")
    with pytest.raises(ConfigError, match="dropout"):
        dropping(torch.randn(3, 4))
    dropping.eval()(torch.randn(3, 4))
    x = torch.randn(3, 4, requires_grad=True)
    value, _ = Chain(couplings(1), memory="invert")(x)
    (slope,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
