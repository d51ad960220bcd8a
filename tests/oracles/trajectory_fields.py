"""Fields for whole-trajectory solves, their gradients, and what continuous-E.9.1 asks of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.kernels import mlp_trajectory_reference as plain
from flowkit.kernels.cpu import library
from flowkit.kernels.mlp_trajectory_methods import METHODS

ADAPTIVE = ("dopri5", "tsit5", "bosh3")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
fused = pytest.mark.skipif(library.unavailable() is not None, reason="no C++ compiler")
ACTIVATIONS = ("tanh", "softplus", "silu", "elu", "selu", "gelu")


def weights(rows: int, d: int, w: int, *, gated: bool = False, own_b1: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """x and the ten weights of a field whose layers keep the size of what they are given."""
    generator = torch.Generator().manual_seed(d + w)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    first = draw(w, d, scale=d**-0.5), draw(rows, w) if own_b1 else draw(w), draw(w)
    second = draw(w, w, scale=w**-0.5), draw(w), draw(w, scale=0.3)
    third = draw(d, w, scale=w**-0.5), draw(d), draw(d, scale=0.3)
    gates = draw(2 * w + d if gated else 0, 2)
    return draw(rows, d), *first, *second, *third, gates


def constants(method: str = "rk4", steps: int = 4, *, back: bool = False, activation: str = "tanh", divergence: bool = True, tol: float = 1e-5) -> Any:
    return (*((1.0, 0.0) if back else (0.0, 1.0)), method, steps, tol, tol, activation, divergence, 1000)


def gradients(call: Any, args: tuple[Tensor, ...], rest: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """The outputs, and the gradients of a weighted sum of them."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in args]
    x1, log_det, *more = call(*inputs, *rest)
    total = (x1 * torch.arange(x1.numel()).cos().view_as(x1)).sum() + (log_det * torch.arange(len(log_det)).add(1).sin()).sum()
    return (x1.detach(), log_det.detach(), *more), list(torch.autograd.grad(total, inputs, materialize_grads=True))


def relative(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true.double()).norm() / true.double().norm().clamp(min=1e-30)) if true.numel() else 0.0


def agree(found: Any, wanted: Any, who: str = "") -> None:
    """continuous-E.9.1: z to 2e-5, log_det to 5e-5, gradients to 1e-4 relative."""
    (mine, my_grads), (other, grads) = found, wanted
    assert float((mine[0].double() - other[0].double()).abs().max()) <= 2e-5, who
    assert float((mine[1].double() - other[1].double()).abs().max()) <= 5e-5, who
    worst = [relative(a, b) for a, b in zip(my_grads, grads, strict=True)]
    assert max(worst) <= 1e-4, f"{who}: {worst}"


def replayed(args: Any, rest: tuple[Any, ...], strides: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """x1 and log_det along given steps: times and sizes, (N, B) each."""
    x, divergence = args[0], rest[7]
    state = torch.cat((x, torch.zeros_like(x[:, :1])), 1) if divergence else x
    out = plain._replay(plain._Field(*args[1:], rest[6], divergence), METHODS[rest[2]], state, strides)
    return out[:, : x.shape[1]], out[:, -1] if divergence else torch.zeros_like(x[:, 0])
