"""Fixed elementwise maps far out, at the ends of what a dtype has, and beyond."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from diagonal_chain_cases import fused
from torch import Tensor

from flowkit.kernels import OPS, use
from flowkit.kernels.diagonal_steps import MAPS, NAMES, inverted
from flowkit.testing.ops import worst

NUMBERED = ("sigmoid", "logit", "softclip", "inverse_softclip")


def test_every_map_has_its_inverse_beside_it() -> None:
    assert all(inverted(inverted(name)) == name and inverted(name) != name for name in NAMES)
    x = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    for name in NAMES[2::2]:
        value, log_slope = MAPS[name](x, 2.0)
        back, other = MAPS[inverted(name)](value, 2.0)
        assert worst(back, x) <= 1e-12 and worst(other, -log_slope) <= 1e-12


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


def _all(call: Any, value: Tensor, params: Tensor, program: str, base: str = "none") -> list[Tensor]:
    """Value, log_det, and the gradients that each alone sends to value and params."""
    value, params = value.clone().requires_grad_(), params.clone().requires_grad_()
    parts = call(value, params, program, 0, base)
    grads = [torch.autograd.grad(part.sum(), (value, params), retain_graph=True, materialize_grads=True) for part in parts if part.requires_grad]
    return [part.detach() for part in parts] + [grad for pair in grads for grad in pair]


def _both(value: Tensor, params: Tensor, program: str, base: str = "none") -> tuple[list[Tensor], list[Tensor]]:
    op = OPS["diagonal_chain"]
    with use("fused"):
        found = _all(op, value, params, program, base)
    return found, _all(op.reference, value, params, program, base)


@fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("program", [*MAPS, "sigmoid:0.7", "softclip:2.0", "softclip:1e-3", "inverse_softclip:2.0", "tanh,log", "exp,softclip"])
def test_infinities(program: str, dtype: torch.dtype) -> None:
    """The reference's numbers at infinity and at the largest numbers, and outside the domain of a map."""
    info = torch.finfo(dtype)
    value = torch.tensor([torch.inf, -torch.inf, info.max, -info.max, 1e30, -1e30, info.tiny, -info.tiny, 1.0, -1.0, 3.0, -3.0], dtype=dtype)
    for mine, other in zip(*_both(value, value.new_empty(0, 2, 1), program), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=64 * info.eps)


@pytest.mark.parametrize("choice", ["reference", pytest.param("fused", marks=fused)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_infinities_become(dtype: torch.dtype, choice: Any) -> None:
    """Limits, not NaN: a bounded map ends on its bound, where its slope is zero, and the logarithm stays infinite."""
    infinities = torch.tensor([torch.inf, -torch.inf, torch.finfo(dtype).max], dtype=dtype)
    with use(choice):
        for bound in (2.0, 1e-3):
            value, log_det, to_value, _, of_log_det, _ = _all(OPS["diagonal_chain"], infinities, infinities.new_empty(0, 2, 1), f"softclip:{bound}")
            torch.testing.assert_close(value, bound * torch.tensor([1, -1, 1], dtype=dtype))
            assert log_det[:2].tolist() == [-torch.inf] * 2 and not to_value.any() and not of_log_det[:2].any()
        value, log_det, *_ = _all(OPS["diagonal_chain"], infinities[:1], infinities.new_empty(0, 2, 1), "log")
    assert value.item() == torch.inf and log_det.item() == -torch.inf


@fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("program", ["softplus,log", "sigmoid,log", "softplus,inverse_softplus", "softplus,log,softplus,log"])
def test_held_values_pass_nothing_on(program: str, dtype: torch.dtype) -> None:
    """Even where the map behind makes much of little."""
    value = torch.tensor([-1e4, -1000.0, -750.0, -709.0, -105.0, -88.0], dtype=dtype)
    value = value[value < torch.log(torch.tensor(torch.finfo(dtype).tiny, dtype=dtype)) - 0.1]
    for base in ("none", "normal"):
        found, wanted = _both(value, value.new_empty(0, 2, 1), program, base)
        assert not wanted[2].any()
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@fused
@pytest.mark.parametrize("program", ["affine", "inverse_affine", "affine,inverse_affine", "affine,exp"])
def test_no_cotangent_times_infinity_is_none(program: str) -> None:
    """What log_det alone sends to the parameters does not see an infinite value; nor does a value that overflows on its way."""
    value = torch.tensor([torch.inf, -torch.inf, 3e38, 1.0])
    params = torch.tensor([[0.5, 0.3]]).unsqueeze(-1).expand(program.count("affine"), 2, 1)
    for mine, other in zip(*_both(value, params, program), strict=True):
        assert not bool((mine.isnan() & ~other.isnan()).any())


@fused
@pytest.mark.parametrize("seed", range(4))
def test_random_chains_have_no_more_nan_than_the_reference(seed: int) -> None:
    choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(60):
        steps = [choice.choice(NAMES) + choice.choice(["", ":2.0", ":0.5"]) for _ in range(choice.randint(1, 5))]
        steps = [step if step.split(":")[0] in NUMBERED else step.split(":")[0] for step in steps]
        dtype = choice.choice([torch.float32, torch.float64])
        value = torch.tensor(choice.choice([[torch.inf, -torch.inf, 1.0], [torch.finfo(dtype).max, 0.0, -1.0, 3.0], [1000.0, -1000.0, 0.5]]), dtype=dtype)
        params = torch.randn(sum(step in NAMES[:2] for step in steps), 2, 1, generator=generator).to(dtype)
        for mine, other in zip(*_both(value, params, ",".join(steps), choice.choice(["none", "normal"])), strict=True):
            assert not bool((mine.isnan() & ~other.isnan()).any()), steps
