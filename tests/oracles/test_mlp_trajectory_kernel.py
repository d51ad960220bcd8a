"""The whole-trajectory kernel in C++ as an operator: independence of samples, determinism, failures, graphs, and what it refuses."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trajectory_fields import ADAPTIVE, constants, fused, gradients, weights

import flowkit.kernels
from flowkit.core.errors import ConfigError
from flowkit.kernels import KernelError, use
from flowkit.kernels import mlp_trajectory as op_module
from flowkit.kernels import mlp_trajectory_reference as plain
from flowkit.kernels.cpu import compiler, library, trajectory
from flowkit.kernels.mlp_trajectory import TENSORS, mlp_trajectory


@fused
def test_samples_do_not_depend_on_each_other() -> None:
    """Bitwise: alone, in another order, in a batch of another size; adaptive and fixed, outputs and the gradient of x."""
    for method, steps, gated in (("dopri5", 0, False), ("tsit5", 0, True), ("rk4", 5, True)):
        args, rest = weights(300, 3, 20, gated=gated), constants(method, steps)
        whole, (of_x, *_) = gradients_of_sum(args, rest)
        order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
        for some in (order, order[:37], order[:1]):
            part, (grad, *_) = gradients_of_sum((args[0][some], *args[1:]), rest)
            for mine, all_of_them in zip((*part, grad), (*whole, of_x), strict=True):
                assert torch.equal(mine, all_of_them[some])


def gradients_of_sum(args: tuple[Tensor, ...], rest: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    inputs = [tensor.detach().clone().requires_grad_() for tensor in args]
    out = mlp_trajectory(*inputs, *rest)
    return tuple(part.detach() for part in out), torch.autograd.grad(out[0].sum() + out[1].sum(), inputs, materialize_grads=True)


@fused
@pytest.mark.parametrize(("method", "steps"), [("dopri5", 0), ("rk4", 10)])
def test_determinism(method: str, steps: int) -> None:
    """continuous-E.9.2: two runs are bitwise equal, whatever the number of threads."""
    args, rest = weights(1000, 2, 32, gated=True), constants(method, steps)
    count, found = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            out, grads = gradients(mlp_trajectory, args, rest)
            found.append([*out, *grads])
    finally:
        torch.set_num_threads(count)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@fused
@pytest.mark.parametrize(("method", "steps"), [("bosh3", 0), ("euler", 70)])
def test_steps_beyond_what_is_kept(method: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sample takes more steps than are kept, they are taken anew: the same gradients."""
    args, rest = weights(130, 2, 16, own_b1=True), constants(method, steps)
    out, whole = gradients(mlp_trajectory, args, rest)
    assert int(out[2][:, 1].max()) > 3
    monkeypatch.setattr(op_module, "capacity", lambda *_: 3)
    for mine, wanted in zip(gradients(mlp_trajectory, args, rest)[1], whole, strict=True):
        assert torch.equal(mine, wanted)


def broken(method: str) -> Iterator[tuple[str, tuple[Tensor, ...], int]]:
    """Fields and samples that cannot be solved, with the status that says why."""
    args = weights(4, 2, 8)
    for value in (float("nan"), float("inf")):
        x = args[0].clone()
        x[1, 0] = value
        yield f"{method}, x {value}", (x, *args[1:]), plain.NOT_FINITE
    steep = weights(4, 2, 8)
    yield f"{method}, infinite weights", (*steep[:7], 1e39 * steep[7], *steep[8:]), plain.NOT_FINITE


@pytest.mark.parametrize("method", ["rk4", *ADAPTIVE])
def test_not_finite(method: str) -> None:
    """A field that is not finite ends its samples with status 3 and NaN, and no others."""
    rest = constants(method, 0 if method in ADAPTIVE else 4, activation="softplus")
    for who, args, status in broken(method):
        for call in (mlp_trajectory, mlp_trajectory.reference):
            x1, log_det, stats = call(*args, *rest)
            assert int(stats[1, 3]) == status and x1[1].isnan().all() and log_det[1].isnan(), who
            if "weights" not in who:
                assert stats[[0, 2, 3], 3].tolist() == [0, 0, 0] and bool(torch.isfinite(x1[[0, 2, 3]]).all()), who


@pytest.mark.parametrize("who", ["kernel", "reference"])
def test_limits_of_steps(who: str) -> None:
    """Status 1 after max_steps attempts and 2 where the step is at the rounding of time; a span of nothing changes nothing."""
    call, args = (mlp_trajectory if who == "kernel" else mlp_trajectory.reference), weights(3, 2, 8)
    *_, stats = call(*args, 0.0, 1.0, "bosh3", 0, 1e-6, 1e-6, "tanh", True, 2)
    assert stats[:, 3].tolist() == [1, 1, 1] and (stats[:, 1] + stats[:, 2]).tolist() == [2, 2, 2]
    *_, stats = call(*args, 0.0, 1.0, "bosh3", 0, 0.0, 1e-18, "tanh", True, 1000)
    assert stats[:, 3].tolist() == [2, 2, 2]
    x1, log_det, stats = call(*args, 0.5, 0.5, "dopri5", 0, 1e-6, 1e-6, "tanh", True, 10)
    assert torch.equal(x1, args[0]) and not log_det.any() and not stats[:, 3].any()


@fused
def test_operator() -> None:
    """``opcheck`` of both operators, whole graphs under torch.compile, and gradients in batches."""
    args, rest = weights(5, 2, 8, own_b1=True), constants("heun3", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = [tensor.clone().requires_grad_() for tensor in args]
        torch.library.opcheck(torch.ops.flowkit.mlp_trajectory.default, (*inputs, *rest, 3))
        x1, log_det, stats, strides = trajectory.forward(*args, *rest, 3)
        torch.library.opcheck(torch.ops.flowkit.mlp_trajectory_backward.default, (x1, log_det, *args, stats, strides, *rest))
    for method, steps in (("rk4", 3), ("dopri5", 0)):
        rest = constants(method, steps)
        torch.compiler.reset()
        compiled = torch.compile(lambda *given: mlp_trajectory(*given), fullgraph=True, backend="aot_eager")
        for mine, wanted in zip(*([*out, *grads] for out, grads in (gradients(call, args, rest) for call in (compiled, mlp_trajectory))), strict=True):
            assert torch.equal(mine, wanted)
    inputs = [tensor.clone().requires_grad_() for tensor in args]
    x1, log_det, _ = mlp_trajectory(*inputs, *rest)
    seeds = torch.stack([torch.ones_like(log_det), log_det.detach().cos()])
    batched = torch.autograd.grad(log_det, inputs[:3], seeds, is_grads_batched=True, retain_graph=True)
    for place, seed in enumerate(seeds):
        for both, one in zip(batched, torch.autograd.grad(log_det, inputs[:3], seed, retain_graph=True), strict=True):
            assert torch.equal(both[place], one)


@fused
def test_strided_tensors() -> None:
    """Strides do not matter, nor that a weight needs no gradient."""
    args, rest = weights(40, 3, 8), constants()
    turned = [tensor.mT.contiguous().mT if tensor.dim() == 2 else tensor for tensor in args]
    for mine, wanted in zip(mlp_trajectory(*turned, *rest), mlp_trajectory(*args, *rest), strict=True):
        assert torch.equal(mine, wanted)
    x = args[0].clone().requires_grad_()
    x1, *_ = mlp_trajectory(x, *args[1:], *rest)
    (grad,) = torch.autograd.grad(x1.sum(), x)
    assert torch.equal(grad, torch.autograd.grad(mlp_trajectory(*[a.clone().requires_grad_() if i else x for i, a in enumerate(args)], *rest)[0].sum(), x)[0])


@fused
def test_second_derivatives() -> None:
    """The kernel's adjoint is differentiable once; gradients of gradients go through the reference."""
    x, *rest = weights(3, 2, 8)
    x.requires_grad_()
    found = []
    for choice in ("fused", "reference"):
        with use(choice):
            (grad,) = torch.autograd.grad(mlp_trajectory(x, *rest, *constants())[1].sum(), x, create_graph=True)
            found.append(torch.autograd.grad(grad.square().sum(), x)[0])
    assert bool(found[1].any()) and torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


@fused
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda *args: [arg.double() if isinstance(arg, Tensor) else arg for arg in args], "float64"),
        (lambda x, *args: (x[0], *args), "not \\(B, d\\)"),
        (lambda x, W1, b1, *args: (x, W1, b1[:-1], *args), "b1 \\(7,\\) is not \\(8,\\)"),
        (lambda *args: weights(2, 300, 4) + args[TENSORS:], "300 features"),
    ],
)
def test_forced_kernel_says_why_it_cannot_serve(change: Any, why: str) -> None:
    with use("fused"), pytest.raises(KernelError, match=why):
        mlp_trajectory(*change(*weights(2, 2, 8), *constants()))


@pytest.mark.parametrize("change", [("rk4", 0), ("leapfrog", 3), ("rk4", 3, "relu")])
def test_unknown_options(change: tuple[Any, ...]) -> None:
    method, steps, *activation = change
    with pytest.raises(ConfigError, match="expected"):
        mlp_trajectory(*weights(2, 2, 8), *constants(method, steps, **({"activation": activation[0]} if activation else {})))


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """continuous-E.9.3: the reference serves, and ``available`` says so."""
    args, rest = weights(3, 2, 8), constants()
    monkeypatch.setattr(library, "_FOUND", [])
    monkeypatch.setattr(compiler, "COMPILERS", ("no_such_compiler",))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert not flowkit.kernels.available()
        found = mlp_trajectory(*args, *rest)
    assert all(torch.equal(a, b) for a, b in zip(found, mlp_trajectory.reference(*args, *rest), strict=True))


@fused
def test_available() -> None:
    assert flowkit.kernels.available() and flowkit.kernels.available("cuda") == torch.cuda.is_available()
