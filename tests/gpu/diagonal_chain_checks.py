"""What the kernels of diagonal chains owe their reference, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels import diagonal_chain as plain
from flowkit.kernels.gpu import diagonal_chain as gpu
from flowkit.testing.ops import same, worst

EXACT = 1e-12  # float64, of the largest entry
OWN_ERROR, FLOOR = 2.0, 3e-7  # float32: times the error of the reference, at least a few roundings of the largest entry


def results(call: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Outputs, and gradients of a weighted sum of them."""
    value, params = (tensor.detach().requires_grad_() for tensor in args[:2])
    out = call(value, params, *args[2:])
    weights = [torch.cos(torch.arange(part.numel(), dtype=torch.float64)).reshape(part.shape).to(part) for part in out]
    return [*(part.detach() for part in out), *torch.autograd.grad(out, (value, params), weights, materialize_grads=True)]


class Chain(torch.autograd.Function):
    """The kernels as they stand, with their gradients."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.save_for_backward(*args[:2])
        ctx.constants = args[2:]
        return gpu.forward(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (*gpu.backward(*(grad.contiguous() for grad in grads), *ctx.saved_tensors, *ctx.constants), None, None, None)


def examples(rows: int, device: str, dtype: torch.dtype) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for label, args in plain._examples(rows):
        yield label, tuple(arg.to(device, dtype) if isinstance(arg, Tensor) else arg for arg in args)


def chains(device: str) -> None:
    """In float64, all maps; rows of several tiles, more groups of rows than programs, no rows."""
    before = gpu.BLOCK, gpu.PROGRAMS
    try:
        for rows, block, programs in ((0, 512, 1024), (7, 512, 1024), (20, 8, 6), (33, 64, 2)):
            gpu.BLOCK, gpu.PROGRAMS = block, programs
            for label, args in examples(rows, device, torch.float64):
                if rows < 10 or label in ("standardize_tanh_affine_normal", "images", "logit"):
                    same(f"{label}, {rows} rows, block {block}", results(Chain.apply, args), results(plain.reference, args), EXACT)
    finally:
        gpu.BLOCK, gpu.PROGRAMS = before


def chains_float32(device: str) -> None:
    """In float32 errors are at most twice the reference's own; bfloat16 is computed in float32; twice the same."""
    before, gpu.BLOCK = gpu.BLOCK, 2048  # few tiles: the interpreter takes its time for each
    try:
        _float32(device)
    finally:
        gpu.BLOCK = before


def _float32(device: str) -> None:
    for label, args in examples(200, device, torch.float32):
        true = results(plain.reference, (args[0].double(), args[1].double(), *args[2:]))
        found = results(Chain.apply, args)
        same(f"{label}, again", results(Chain.apply, args), found)
        for place, (mine, other, right) in enumerate(zip(found, results(plain.reference, args), true, strict=True)):
            error, own = worst(mine, right), worst(other, right)
            assert error <= OWN_ERROR * max(own, FLOOR), f"{label}, tensor {place}: error {error:.1e}, of the reference {own:.1e}"
    label, args = next(examples(50, device, torch.bfloat16))
    out, log_det = gpu.forward(*args)
    true = plain.reference(args[0].double(), args[1].double(), *args[2:])
    assert out.dtype == torch.bfloat16 and log_det.dtype == torch.float32
    assert worst(out, true[0]) <= torch.finfo(torch.bfloat16).eps and worst(log_det, true[1]) <= 1e-5, label


def chains_extremes(device: str) -> None:
    """Far out, at zero, with NaN and infinities: finite or NaN where the reference is, within what it holds."""
    numbers = [0.0, -0.0, 1e-30, 1e-3, 0.4, 0.6, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan]
    for dtype in (torch.float32, torch.float64):
        value = torch.tensor(numbers, dtype=dtype, device=device).unsqueeze(1)
        for name in plain.MAPS:
            args = (value, value.new_empty((0, 2, 1)), name, 1, "none")
            for near, found, wanted in zip((0.0, 1e-6 if dtype == torch.float32 else 1e-14), gpu.forward(*args), plain.reference(*args), strict=True):
                assert torch.equal(found.isnan(), wanted.isnan()), f"{name}: {found} {wanted}"
                assert torch.allclose(found, wanted, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=near, equal_nan=True), f"{name}: {found} {wanted}"


CHECKS = {check.__name__: check for check in (chains, chains_float32, chains_extremes)}
