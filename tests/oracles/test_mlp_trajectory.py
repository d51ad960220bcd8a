"""Whole-trajectory solves: the reference against torchdiffeq and automatic differentiation, the C++ kernel against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from trajectory_fields import ACTIVATIONS, ADAPTIVE, FIXED, agree, constants, fused, gradients, replayed, weights

from flowkit.kernels import mlp_trajectory_reference as plain
from flowkit.kernels import use
from flowkit.kernels.cpu import trajectory
from flowkit.kernels.mlp_trajectory import TENSORS, mlp_trajectory
from flowkit.kernels.mlp_trajectory_methods import METHODS


def velocity(args: tuple[Tensor, ...], activation: str) -> Any:
    """The field as its definition says."""
    _, W1, b1, r1, W2, b2, r2, W3, b3, r3, gates = args
    w = len(r1)
    act = getattr(torch, activation, None) or getattr(torch.nn.functional, activation)

    def gate(t: Tensor, part: slice) -> Tensor | float:
        return torch.sigmoid(gates[part, 0] * t + gates[part, 1]) if len(gates) else 1.0

    def call(t: Tensor, x: Tensor) -> Tensor:
        h1 = act(gate(t, slice(w)) * (x @ W1.T + b1) + r1 * t)
        h2 = act(gate(t, slice(w, 2 * w)) * (h1 @ W2.T + b2) + r2 * t)
        return gate(t, slice(2 * w, None)) * (h2 @ W3.T + b3) + r3 * t

    return call


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_reference_against_torchdiffeq(activation: str, gated: bool) -> None:
    """Fixed grid: z and log_det are those of rk4 with the trace by automatic differentiation; adaptive ones at a tight tolerance."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    args = weights(5, 3, 8, gated=gated, dtype=torch.float64)
    field = velocity(args, activation)

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda x: field(t, x)))(state[0])
        return field(t, state[0]), jacobian.diagonal(dim1=1, dim2=2).sum(1)

    start = args[0], torch.zeros(5, dtype=torch.float64)
    z, log_det = torchdiffeq.odeint(augmented, start, torch.tensor([0.0, 1.0], dtype=torch.float64), method="rk4", options={"step_size": 0.25})
    x1, own, stats = mlp_trajectory.reference(*args, *constants(activation=activation))
    torch.testing.assert_close(x1, z[-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(own, log_det[-1], rtol=0, atol=1e-12)
    assert stats.tolist() == [[16, 4, 0, 0]] * 5
    if activation != "silu":
        return  # those with kinks are less accurate than their error says
    exact, total = torchdiffeq.odeint(augmented, start, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-10, atol=1e-10)
    for method in ADAPTIVE:
        x1, own, _ = mlp_trajectory.reference(*args, *constants(method, 0, activation=activation, tol=1e-8))
        torch.testing.assert_close(x1, exact[-1], rtol=0, atol=1e-6)
        torch.testing.assert_close(own, total[-1], rtol=0, atol=1e-6)


def test_methods_are_those_of_the_solver() -> None:
    """The numbers are those that ``numerics.ode`` has."""
    from flowkit.numerics.ode.tableau import TABLEAUS

    for name, method in METHODS.items():
        theirs = TABLEAUS[name]
        assert (method.a[1:], method.b, method.order) == (theirs.a, theirs.b, theirs.order), name
        assert method.e == (theirs.e or ()) or name == "heun2", name


@pytest.mark.parametrize(("method", "steps"), [("rk4", 3), ("dopri5", 0)])
def test_reference_gradients(method: str, steps: int) -> None:
    """continuous-E.6.3: gradcheck; adaptive steps count as constants, so there a fixed sequence of them is checked."""
    args = weights(2, 2, 4, gated=steps > 0, dtype=torch.float64)
    rest = constants(method, steps, tol=1e-3)
    if steps:
        call = lambda *inputs: mlp_trajectory.reference(*inputs, *rest)[:2]  # noqa: E731
    else:
        call = lambda *inputs: replayed(inputs, rest, strides)  # noqa: E731
        strides = plain._Search(plain._Field(*args[1:], "tanh", True), METHODS[method], 0.0, 1.0, 1e-3, 1e-3, 100).run(
            torch.cat((args[0], torch.zeros(2, 1, dtype=torch.float64)), 1)
        )[2]
        same = gradients(lambda *inputs: call(*inputs[:TENSORS]), args, ())[1]
        for mine, other in zip(gradients(mlp_trajectory.reference, args, rest)[1], same, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(call, [tensor.clone().requires_grad_() for tensor in args])


@fused
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("w", [16, 64, 128])
@pytest.mark.parametrize("d", [1, 2, 6, 21, 43])
def test_parity(d: int, w: int, gated: bool) -> None:
    """continuous-E.9.1 at every size, forwards in time and back."""
    for rows in (1, 31, 32, 33, 1000):
        for back in (False, True) if rows < 1000 else (False,):
            args, rest = weights(rows, d, w, gated=gated), constants("rk4", 3, back=back)
            with use("fused"):
                found = gradients(mlp_trajectory, args, rest)
            wanted = gradients(mlp_trajectory.reference, args, rest)
            agree(found, wanted, f"{rows} rows, back {back}")
            assert torch.equal(found[0][2], wanted[0][2])


CALLS = [
    *((method, {}, {}) for method in FIXED),
    *(("heun3", {"own_b1": own_b1, "gated": gated}, {"activation": activation}) for activation in ACTIVATIONS for own_b1 in (0, 1) for gated in (0, 1)),
    ("rk4", {"gated": True}, {"divergence": False}),
    ("dopri5", {"own_b1": True}, {"divergence": False}),
]


@fused
@pytest.mark.parametrize(("method", "field", "call"), CALLS)
def test_parity_of_options(method: str, field: Any, call: Any) -> None:
    """Methods, activations, a bias for each sample, gates; also sizes that fill no register, and the largest ones."""
    sizes = [(77, 3, 19)] if method != "euler" else [(77, 3, 19), (5, 200, 20), (5, 2, 256), (0, 2, 8)]
    for rows, d, w in sizes:
        args, rest = weights(rows, d, w, **field), constants(method, 5, **call)
        with use("fused"):
            found = gradients(mlp_trajectory, args, rest)
        if rows:
            agree(found, gradients(mlp_trajectory.reference, args, rest))
        else:
            assert found[0][0].shape == (0, d) and all(not grad.any() for grad in found[1])


def strides_of(args: tuple[Tensor, ...], rest: tuple[Any, ...]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The steps that the kernel took, (N, B), and the stats."""
    *_, stats, strides = trajectory.forward(*args, *rest, 200)
    most, count = int(stats[:, 1].max()), torch.arange(200)
    left = (count < stats[:, 1:2]).T[:most]
    t, h = strides[:, :most, 0].T, strides[:, :most, 1].T
    return (torch.where(left, t, rest[1]), torch.where(left, h, 0.0)), stats


@fused
@pytest.mark.parametrize(("gated", "own_b1", "back"), [(False, False, False), (False, True, True), (True, False, False), (True, True, True)])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_parity(method: str, gated: bool, own_b1: bool, back: bool) -> None:
    """continuous-E.9.1 along the kernel's own steps: rounding decides on the size of steps whose error it exceeds, so those may differ a little."""
    args, rest = weights(150, 3, 24, gated=gated, own_b1=own_b1), constants(method, 0, back=back, activation="silu")
    found = gradients(mlp_trajectory, args, rest)
    strides, stats = strides_of(args, rest)
    double = tuple(tensor.double() for tensor in args)
    wanted = gradients(lambda *given: replayed(given[:TENSORS], rest, tuple(part.double() for part in strides)), double, ())
    agree(found, wanted)
    assert torch.equal(stats, found[0][2]) and not stats[:, 3].any()
    *_, theirs = mlp_trajectory.reference(*args, *rest)
    assert abs(float(stats[:, 0].sum()) / float(theirs[:, 0].sum()) - 1) <= 0.03
    exact = mlp_trajectory.reference(*double, *constants("dopri5", 0, back=back, activation="silu", tol=1e-10))
    for mine, true in zip(found[0][:2], exact[:2], strict=True):
        assert float((mine - true).abs().max()) <= 50 * 1e-5
