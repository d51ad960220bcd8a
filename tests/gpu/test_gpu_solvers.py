"""The kernels of solvers and diagonal chains on a real GPU, and CUDA graphs of solves and of compiled flows."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from solver_cases import QUICK, THOROUGH
from torch import Tensor

import flowkit as fk
from flowkit.kernels import use
from flowkit.kernels.mlp_trajectory import mlp_trajectory
from flowkit.kernels.mlp_trajectory_reference import reference
from flowkit.kernels.runge_kutta import finish, stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]
FIXED = (0.0, 1.0, "rk4", 5, 1e-5, 1e-5, "tanh", True, 1000)
ADAPTIVE = (0.0, 1.0, "dopri5", 0, 1e-4, 1e-4, "tanh", True, 1000)


def field(rows: int = 500, d: int = 3, w: int = 32) -> list[Tensor]:
    """x and weights on the GPU."""
    generator = torch.Generator().manual_seed(0)
    sizes = (rows, d), (w, d), (w,), (w,), (w, w), (w,), (w,), (d, w), (d,), (d,)
    drawn = [0.3 * torch.randn(size, generator=generator) for size in sizes]
    return [*(tensor.cuda().requires_grad_() for tensor in drawn), torch.zeros(0, 2, device="cuda").requires_grad_()]


@pytest.mark.parametrize("check", [*QUICK, *THOROUGH])
def test_kernel(check: str) -> None:
    """continuous-E.7, E.9.1, E.9.2."""
    from solver_checks import run

    run(check, "cuda")


@pytest.mark.parametrize("constants", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_trajectory_op(constants: tuple[Any, ...]) -> None:
    """CUDA tensors take the kernel, also where torch.compile looks on; float64 takes the reference."""
    tensors = field()
    with use("fused"):
        x1, log_det, stats = mlp_trajectory(*tensors, *constants)
        compiled = torch.compile(lambda *given: mlp_trajectory(*given, *constants), fullgraph=True, backend="aot_eager")(*tensors)
    wanted = reference(*(tensor.detach().double() for tensor in tensors), *constants)
    limit = 2e-5 if constants is FIXED else 1e-3
    assert (x1 - wanted[0]).abs().max() <= limit and (log_det - wanted[1]).abs().max() <= 2 * limit and bool((stats[:, 3] == 0).all())
    assert torch.equal(compiled[0], x1) and torch.equal(compiled[1], log_det)
    grads = torch.autograd.grad(x1.sum() + log_det.sum(), tensors, retain_graph=True)
    again = torch.autograd.grad(x1.sum() + log_det.sum(), tensors)
    assert all(torch.equal(mine, other) for mine, other in zip(grads, again, strict=True))
    assert mlp_trajectory(*(tensor.double() for tensor in tensors), *constants)[0].dtype == torch.float64


@pytest.mark.parametrize("constants", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_trajectory_in_a_graph(constants: tuple[Any, ...]) -> None:
    """continuous-E.7 (iii): a CUDA graph holds a whole solve and its gradients, steps of any size; the host never waits."""
    tensors = field()

    def solve() -> list[Tensor]:
        x1, log_det, _ = mlp_trajectory(*tensors, *constants)
        return [x1, log_det, *torch.autograd.grad(x1.sum() + log_det.sum(), tensors)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        solve()  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = solve()
    with torch.no_grad():
        tensors[0].neg_()
    graph.replay()
    wanted = solve()
    assert all(torch.equal(mine, other) for mine, other in zip(found, wanted, strict=True))


def test_combinations_in_a_graph() -> None:
    """continuous-E.7 (i): stages and errors wait for nobody."""
    y, ks, h = torch.randn(100, 6, device="cuda"), torch.randn(3, 100, 6, device="cuda"), torch.rand(100, device="cuda")
    weights, error = (0.2, 0.3, 0.5), (0.1, -0.3, 0.2)

    def step() -> tuple[Tensor, ...]:
        return stage(y, ks, weights, h), *finish(y, ks, weights, error, h, 1e-3, 1e-3)

    wanted = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    assert all(torch.equal(mine, other) for mine, other in zip(found, wanted, strict=True))


def test_compiled_flow_in_graphs() -> None:
    """Batches of ``graph_rows`` replay graphs and answer as the flow does; other sizes capture nothing, and results outlive the next call."""
    torch.manual_seed(0)
    flow = fk.flows.NeuralSplineFlow(4, layers=3, hidden=(32,)).cuda()
    fast = fk.compile(flow, graph_rows=256)
    x, rest = torch.randn(256, 4, device="cuda"), torch.randn(100, 4, device="cuda")
    for _ in range(3):  # warm-up, recording, replay
        kept = [fast.log_prob(x), fast.log_prob(x + 1)]
    for mine, other in zip(kept, [flow.log_prob(x), flow.log_prob(x + 1)], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(fast.log_prob(rest), flow.log_prob(rest), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.log_prob(rest[:77]), flow.log_prob(rest[:77]), rtol=1e-4, atol=1e-4)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert compiled <= 2, f"{compiled} programs for batches of two other sizes: one for each kind of map is enough"
    for model in (flow, fast):
        flow.zero_grad()
        for _ in range(3):
            (-model.log_prob(x).mean()).backward()
        grads = [parameter.grad.clone() for parameter in flow.parameters() if parameter.grad is not None]
        if model is flow:
            wanted = grads
    for mine, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
