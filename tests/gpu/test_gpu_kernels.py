"""The Triton kernels on a real GPU: the checks that the interpreter runs without one, and what only a GPU can show."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import pytest
import torch
from kernel_cases import THOROUGH

from flowkit.kernels import OPS, use

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]
OTHERS = ("mlp_trajectory", "runge_kutta_stage", "runge_kutta_finish")  # of other shapes or without gradients: test_gpu_solvers judges them
DISPATCHED = [name for name, op in OPS.items() if op.fused_gpu is not None and name not in OTHERS]


@cache
def _judged() -> dict[str, Any]:
    from scalar_map_checks import judged

    return judged("cuda")


@pytest.mark.parametrize(("check", "op"), [pytest.param(*pair, id="-".join(reversed(pair))) for pair in THOROUGH])
def test_kernel(check: str, op: str) -> None:
    from scalar_map_checks import CHECKS

    CHECKS[check](_judged()[op])


def _on_gpu(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.cuda().requires_grad_() if isinstance(arg, torch.Tensor) else arg for arg in args)


@pytest.mark.parametrize("name", DISPATCHED)
def test_dispatch_runs_the_kernel(name: str) -> None:
    """CUDA tensors take the kernel, which agrees with the reference, gradients and all, and is the same on any stream."""
    op = OPS[name]
    for label, args in op.examples(1000):
        given = _on_gpu(args)
        tensors = [arg for arg in given if isinstance(arg, torch.Tensor)]
        with use("fused"):
            found = op(*given)
        wanted = op.reference(*given)
        seeds = [torch.cos(torch.arange(part.numel(), device="cuda", dtype=part.dtype)).view(part.shape) for part in wanted]
        found, wanted = ([*out, *torch.autograd.grad(out, tensors, seeds, materialize_grads=True)] for out in (found, wanted))
        for place, (mine, other) in enumerate(zip(found, wanted, strict=True)):
            error = float((mine - other).abs().max() / other.abs().max().clamp(min=1e-300)) if other.numel() else 0.0
            assert error <= 1e-11, f"{label}, tensor {place}: {error:.1e}"


@pytest.mark.parametrize("name", DISPATCHED)
def test_no_synchronisation(name: str) -> None:
    """Neither direction waits for the GPU."""
    op = OPS[name]
    _, args = next(iter(op.examples(100)))
    given = _on_gpu(args)
    tensors = [arg for arg in given if isinstance(arg, torch.Tensor)]

    def step() -> None:
        with use("fused"):
            out = op(*given)
        torch.autograd.grad([part.sum() for part in out], tensors, allow_unused=True)

    step()  # compiles
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_captured_in_a_graph() -> None:
    """A CUDA graph replays the kernels."""
    case = _judged()["rational_quadratic_spline"]
    constants = (*case.subject.constants[0], 1, "normal")
    value, params = case.draw((256, 16), constants[:-2], torch.float32)
    wanted = case.op(value, params, *constants)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = case.op(value, params, *constants)
    graph.replay()
    torch.cuda.synchronize()
    assert all(bool((mine == other).all()) for mine, other in zip(found, wanted, strict=True))


def test_more_than_2_to_the_31_parameters() -> None:
    """Offsets are of 64 bits: the last rows of a tensor with more than 2^31 entries are what they are on their own."""
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GB of GPU memory")
    case = _judged()["rational_quadratic_spline"]
    constants = (*case.subject.constants[0], 1, "none")
    rows = 2**31 // (64 * 23) + 1000
    params = torch.randn(rows, 64, 23, device="cuda", dtype=torch.bfloat16)
    value = torch.randn(rows, 64, device="cuda", dtype=torch.bfloat16)
    whole, part = (case.op(value[start:], params[start:], *constants) for start in (0, rows - 500))
    assert all(bool((mine[-500:] == other).all()) for mine, other in zip(whole, part, strict=True))
