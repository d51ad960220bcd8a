"""What the whole-trajectory kernels owe their reference in float64, on any device: continuous-E.9.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels import mlp_trajectory_reference as plain
from flowkit.kernels.gpu import mlp_trajectory as gpu
from flowkit.kernels.mlp_trajectory_methods import METHODS

STATE, LOG_DET, GRADIENT = 2e-5, 5e-5, 1e-4  # E.9.1: absolute, absolute, of the largest entry
CAPACITY = 1  # of the tapes of adaptive solves here: fewer steps than they take, so that some are solved again


@dataclass(frozen=True)
class Case:
    """A field, a batch and a solve; steps 0 is adaptive with tolerance ``tol``."""

    d: int
    w: int
    rows: int
    method: str = "rk4"
    steps: int = 2
    activation: str = "tanh"
    gated: bool = False
    own: bool = False
    divergence: bool = True
    t0: float = 0.0
    t1: float = 1.0
    tol: float = 1e-4
    max_steps: int = 1000

    def tensors(self) -> tuple[Tensor, ...]:
        """x, weights and gates that float32 has exactly."""
        generator = torch.Generator().manual_seed(self.d + self.w)
        d, w = self.d, self.w

        def draw(*shape: int, scale: float = 0.3) -> Tensor:
            return (scale * torch.randn(shape, generator=generator)).double()

        layers = draw(w, d, scale=d**-0.5), draw(*((self.rows, w) if self.own else (w,))), draw(w), draw(w, w, scale=w**-0.5), draw(w), draw(w)
        return (
            draw(self.rows, d, scale=1.0),
            *layers,
            draw(d, w, scale=w**-0.5),
            draw(d),
            draw(d),
            draw(*((2 * w + d, 2) if self.gated else (0, 2)), scale=1.0),
        )

    @property
    def constants(self) -> tuple[Any, ...]:
        return self.t0, self.t1, self.method, self.steps, self.tol, self.tol, self.activation, self.divergence, self.max_steps


QUICK = (
    Case(2, 16, 33),
    Case(6, 20, 5, "heun2", 1, "softplus", gated=True, own=True, t0=1.0, t1=0.0),
    Case(1, 16, 18, "midpoint", 1, "silu", divergence=False),
    Case(21, 64, 3, "heun3", 1, "elu", own=True),
    *(Case(2, 8, 4, "euler", 1, activation, gated=activation == "gelu") for activation in ("gelu", "selu")),
)
ADAPTIVE = (Case(3, 16, 5, "dopri5", 0), Case(2, 8, 18, "bosh3", 0, gated=True, own=True, t0=1.0, t1=0.0, tol=3e-3))
THOROUGH = (
    *(
        Case(d, w, rows, gated=gated, t0=1.0 if rows % 2 else 0.0, t1=0.0 if rows % 2 else 1.0)
        for (d, w, rows) in ((1, 64, 31), (2, 128, 32), (6, 64, 1000), (21, 16, 33), (43, 128, 1), (64, 64, 7))
        for gated in (False, True)
    ),
    Case(6, 64, 100, "dopri5", 3),
)
MORE_ADAPTIVE = (Case(6, 64, 100, "tsit5", 0, "softplus", tol=1e-5), Case(6, 64, 40, "dopri5", 0, divergence=False), Case(3, 16, 20, "tsit5", 0, gated=True))


class Solve(torch.autograd.Function):
    """The kernels as they stand, with their gradients."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        x1, log_det, stats, tape = gpu.forward(*args, args[14] or CAPACITY)
        ctx.save_for_backward(*args[:11], stats, tape)
        ctx.constants = args[11:]
        ctx.mark_non_differentiable(stats)
        return x1, log_det, stats

    @staticmethod
    def backward(ctx: Any, to_x1: Tensor, to_log_det: Tensor, _: Any) -> tuple[Any, ...]:
        return (*gpu.backward(to_x1.contiguous(), to_log_det.contiguous(), *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants))


def results(call: Any, case: Case, device: str, dtype: torch.dtype) -> list[Tensor]:
    """x1, log_det, and gradients of a weighted sum of them."""
    tensors = [tensor.to(device, dtype).requires_grad_() for tensor in case.tensors()]
    out = call(*tensors, *case.constants)[:2]
    weights = [torch.cos(torch.arange(part.numel(), dtype=torch.float64)).reshape(part.shape).to(part) for part in out]
    pairs = [(part, weight) for part, weight in zip(out, weights, strict=True) if part.requires_grad]
    first, second = zip(*pairs, strict=True)
    return [*(part.detach() for part in out), *torch.autograd.grad(first, tensors, second, materialize_grads=True)]


def compare(case: Case, found: list[Tensor], wanted: list[Tensor]) -> None:
    for place, (mine, true) in enumerate(zip(found, wanted, strict=True)):
        error = float((mine.double() - true).abs().max()) if true.numel() else 0.0
        limit = (STATE, LOG_DET)[place] if place < 2 else GRADIENT * float(true.abs().max()) if true.numel() else 0.0
        assert error <= limit, f"{case}, tensor {place}: error {error:.1e}, limit {limit:.1e}"


def fixed(case: Case, device: str) -> None:
    """Values and gradients, and every count."""
    compare(case, results(Solve.apply, case, device, torch.float32), results(plain.reference, case, device, torch.float64))
    stats = gpu.forward(*(tensor.to(device, torch.float32) for tensor in case.tensors()), *case.constants, 0)[2]
    assert stats.tolist() == [[case.steps * METHODS[case.method].used, case.steps, 0, 0]] * case.rows


def adaptive(case: Case, device: str) -> None:
    """Values and gradients are those of the steps that were taken; these are those of the reference but for roundings, and end at t1."""
    tensors = [tensor.to(device, torch.float32) for tensor in case.tensors()]
    _, _, stats, tape = gpu.forward(*tensors, *case.constants, 200)
    accepted = stats[:, 1]
    kept = torch.arange(200, device=device) < accepted.unsqueeze(1)
    t, h = (torch.where(kept, tape[..., place], fill).double().T[: int(accepted.max())] for place, fill in ((0, case.t1), (1, 0.0)))
    assert int(accepted.max()) > CAPACITY and stats[:, 3].eq(0).all() and torch.allclose(h.sum(0), torch.full_like(h[0], case.t1 - case.t0), atol=1e-6)
    evaluations = 2 + (len(METHODS[case.method].b) - 1) * (accepted + stats[:, 2])
    assert torch.equal(stats[:, 0], evaluations)

    def replayed(*args: Any) -> tuple[Tensor, Tensor]:
        field, x = plain._Field(*args[1:11], case.activation, case.divergence), args[0]
        state = torch.cat((x, torch.zeros_like(x[:, :1])), 1) if case.divergence else x
        end = plain._replay(field, METHODS[case.method], state, (t, h))
        return end[:, : case.d], end[:, case.d] if case.divergence else torch.zeros_like(x[:, 0])

    compare(case, results(Solve.apply, case, device, torch.float32), results(replayed, case, device, torch.float64))
    wanted = plain.reference(*(tensor.double() for tensor in tensors), *case.constants)[2]
    assert (wanted[:, 1] - accepted).abs().max() <= 1 and (wanted[:, 2] - stats[:, 2]).abs().max() <= 1, (wanted, stats)


def strange(device: str) -> None:
    """No rows; NaN in one row leaves the others, and their gradients, alone; too few steps are said; again the same, and for some rows."""
    for case in (Case(2, 8, 6, "euler", 1), Case(2, 8, 6, "bosh3", 0, tol=1e-2)):
        tensors = [tensor.to(device, torch.float32) for tensor in case.tensors()]
        empty = gpu.forward(tensors[0][:0], *tensors[1:], *case.constants, 2)
        cotangents = gpu.backward(*empty[:2], tensors[0][:0], *tensors[1:], *empty[2:], *case.constants)
        assert empty[0].shape == (0, 2) and all(bool((part == 0).all()) for part in cotangents)
        broken = tensors[0].clone()
        broken[4] = torch.nan
        seeds = torch.ones_like(broken), torch.ones_like(broken[:, 0])
        found = []
        for x in (broken, tensors[0], tensors[0]):
            made = gpu.forward(x, *tensors[1:], *case.constants, 50)
            found.append((made[:3], gpu.backward(*seeds, x, *tensors[1:], *made[2:], *case.constants)))
        assert found[0][0][2][:, 3].tolist() == [0, 0, 0, 0, 3, 0] and bool(found[0][0][0][4].isnan().all()) and bool(found[0][0][1][4].isnan())
        assert all(bool(torch.isfinite(part).all()) for part in found[0][1])
        for mine, other in zip((*found[1][0], *found[1][1]), (*found[2][0], *found[2][1]), strict=True):
            assert torch.equal(mine, other)
        kept = torch.arange(6, device=device) != 4
        assert all(torch.equal(mine[kept], other[kept]) for mine, other in zip(found[0][0], found[1][0], strict=True))
        few = gpu.forward(tensors[0][1:3], *tensors[1:], *case.constants, 0)
        assert all(torch.equal(mine, other[1:3]) for mine, other in zip(few, found[1][0], strict=False))
    short = Case(2, 8, 3, "dopri5", 0, tol=1e-6, max_steps=2)
    stats = gpu.forward(*(tensor.to(device, torch.float32) for tensor in short.tensors()), *short.constants, 0)[2]
    assert stats[:, 3].tolist() == [1, 1, 1] and (stats[:, 1] + stats[:, 2]).tolist() == [2, 2, 2]
