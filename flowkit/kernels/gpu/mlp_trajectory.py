"""Whole trajectories in Triton (``kernels/mlp_trajectory.py``): the launches of ``trajectories`` and ``trajectory_gradients``, in float32.

Products of matrices are those of float32, or of TF32 on tensor cores after ``torch.set_float32_matmul_precision("high")``.

For the backward the steps are recorded in a tape of some capacity. Of adaptive steps the backward asks once whether that was enough, the only
time that the host waits, and solves again where it was not. In a CUDA graph nobody can ask: gradients are NaN where it was not enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.gpu import launch, smooth
from flowkit.kernels.gpu.launch import power
from flowkit.kernels.gpu.scalar_map import describe, unavailable
from flowkit.kernels.mlp_trajectory_methods import METHODS, Method
from flowkit.kernels.op import Fused

WIDEST, MOST_FEATURES = 128, 64  # of the hidden layers, and of a sample
FEW = 4096  # rows up to which a tile takes 16, so that they fill a large GPU; of wide fields it always does, which spares registers
PROGRAMS = 264  # of the backward, each with a buffer of its own: two for each processor of an H100
TENSORS = 11  # arguments that are: x, the weights, and the gates


@dataclass(frozen=True)
class Plan:
    """What of a call the kernels are compiled for, and its numbers."""

    method: Method
    t0: float
    t1: float
    steps: int
    rtol: float
    atol: float
    max_steps: int
    shape: tuple[Any, ...]
    tile: int

    def constants(self, stages: int) -> dict[str, Any]:
        """What all kernels are compiled for."""
        return {"SHAPE": self.shape, "PADDED": power(stages), "M": self.tile}

    def options(self) -> dict[str, Any]:
        """Of the compiler."""
        return {"num_warps": 8 if self.shape[3] <= 64 else 16, "num_stages": 1, "enable_fp_fusion": True}


def limits(x: Tensor, w: int) -> str | None:
    """Why the kernels cannot take these sizes, or None."""
    if x.shape[1] > MOST_FEATURES:
        return f"{x.shape[1]} features are more than {MOST_FEATURES}"
    return f"hidden layers of {w} units are wider than {WIDEST}" if w > WIDEST else None


def plan(tensors: tuple[Tensor, ...], constants: tuple[Any, ...]) -> Plan:
    """The plan of a call (x, weights, gates), (t0, t1, method, steps, rtol, atol, activation, divergence, max_steps)."""
    t0, t1, method, steps, rtol, atol, activation, divergence, max_steps = constants
    (rows, d), w = tensors[0].shape, tensors[4].shape[0]
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    kind = smooth.NAMES.index(activation)
    shape = (d, max(16, power(d)), w, max(16, power(w)), kind, len(tensors[10]) > 0, tensors[2].dim() == 2, bool(divergence), precision)
    return Plan(METHODS[method], float(t0), float(t1), int(steps), float(rtol), float(atol), int(max_steps), shape, 16 if rows <= FEW or w > 64 else 32)


def net(tensors: tuple[Tensor, ...], plan: Plan) -> tuple[Tensor, ...]:
    """(W1, b1, ..., gates, K), K only where it is read."""
    W1, W2, W3 = tensors[1], tensors[4], tensors[7]
    kernel = W2 * (W1 @ W3).mT if plan.shape[7] and not plan.shape[5] else W2
    return (*tensors[1:], kernel)


def solve(tensors: tuple[Tensor, ...], plan: Plan, capacity: int) -> tuple[Tensor, ...]:
    """x1, log_det, stats, and the tape (B, capacity, d + 2) for the backward."""
    x = tensors[0]
    rows, d = x.shape
    x1, log_det, stats = torch.empty_like(x), x.new_empty(rows), torch.empty((rows, 4), dtype=torch.int32, device=x.device)
    tape = x.new_empty((rows, capacity, d + 2))
    if rows:
        stages = plan.method.used if plan.steps else len(plan.method.b)
        numbers: tuple[float, ...] = (plan.t0, plan.t1, plan.rtol, plan.atol, float(plan.method.order), plan.max_steps)
        if plan.steps:
            numbers = (plan.t0, (plan.t1 - plan.t0) / plan.steps, plan.steps)
        arguments = (x, net(tensors, plan), _table(plan.method, stages, x.device), x1, log_det, stats, tape, rows, *numbers, capacity, stages)
        constants = plan.constants(stages) | {"RECORD": capacity > 0}
        kernel = "fixed_kernel" if plan.steps else "adaptive_kernel"
        launch.start("trajectories", kernel, -(-rows // plan.tile), arguments, constants, **plan.options())
    return x1, log_det, stats, tape


def gradients(to_x1: Tensor, to_log_det: Tensor, tensors: tuple[Tensor, ...], plan: Plan, kept: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cotangents of x, the weights and the gates, from those of (x1, log_det); ``kept`` is (stats, tape)."""
    x, bias = tensors[0], tensors[2]
    to_x, to_bias = torch.empty_like(x), torch.empty_like(bias)
    dp, wp = plan.shape[1:4:2]
    size = 2 * wp * dp + 2 * wp * wp + 8 * wp + 4 * dp
    programs = min(PROGRAMS, -(-len(x) // plan.tile))
    buffers = x.new_zeros((max(programs, 1), size))
    if len(x):
        stats, tape = kept
        stages = plan.method.used
        plain = (*plan.shape[:7], False, plan.shape[8])
        constants = plan.constants(stages) | {"PLAIN": plain, "SIZE": size, "ADAPTIVE": plan.steps == 0}
        table = _table(plan.method, stages, x.device)
        step = (plan.t1 - plan.t0) / max(plan.steps, 1)
        arguments = (to_x1, to_log_det, tape, stats, net(tensors, plan), table, to_x, to_bias, buffers)
        numbers = (len(x), plan.t0, step, plan.steps, tape.shape[1], stages)
        launch.start("trajectory_gradients", "backward_kernel", programs, (*arguments, *numbers), constants, **plan.options())
    return (to_x, *_unpacked(buffers.sum(0), tensors, plan, to_bias))


def _unpacked(total: Tensor, tensors: tuple[Tensor, ...], plan: Plan, to_bias: Tensor) -> tuple[Tensor, ...]:
    """Gradients of weights from the sum of the buffers."""
    d, dp, w, wp = plan.shape[:4]
    W1, W2, W3 = tensors[1], tensors[4], tensors[7]
    parts = total.split([wp * dp, wp * wp, wp * wp, dp * wp, *([wp] * 8), *([dp] * 4)])
    to_w1, to_w2, to_k, to_w3 = parts[0].view(wp, dp)[:w, :d], parts[1].view(wp, wp)[:w, :w], parts[2].view(wp, wp)[:w, :w], parts[3].view(dp, wp)[:d, :w]
    b1, r1, b2, r2, p1, q1, p2, q2 = (part[:w] for part in parts[4:12])
    b3, r3, p3, q3 = (part[:d] for part in parts[12:])
    if plan.shape[7] and not plan.shape[5]:  # K = W2 * (W1 W3)'
        both = (to_k * W2).mT
        to_w1, to_w2, to_w3 = to_w1 + both @ W3.mT, to_w2 + to_k * (W1 @ W3).mT, to_w3 + W1.mT @ both
    gates = torch.stack((torch.cat((p1, p2, p3)), torch.cat((q1, q2, q3))), 1) if plan.shape[5] else tensors[10].new_zeros((0, 2))
    return to_w1, to_bias if plan.shape[6] else b1, r1, to_w2, b2, r2, to_w3, b3, r3, gates


def forward(*args: Any) -> tuple[Tensor, ...]:
    """(x1, log_det, stats, tape), of the tensors and constants of ``mlp_trajectory`` and the capacity of the tape; tensors are contiguous."""
    tensors, constants, capacity = args[:TENSORS], args[TENSORS:-1], args[-1]
    return solve(tensors, plan(tensors, constants), capacity)


def backward(to_x1: Tensor, to_log_det: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Cotangents of the tensors, from those of x1 and log_det, the tensors, (stats, tape) and the constants; all are contiguous."""
    tensors, kept, constants = args[:TENSORS], args[TENSORS : TENSORS + 2], args[TENSORS + 2 :]
    made, accepted = plan(tensors, constants), kept[0][:, 1]
    needed = made.steps
    if needed == 0 and len(accepted):
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            over = accepted.max() > kept[1].shape[1]
            return tuple(part.masked_fill(over, torch.nan) for part in gradients(to_x1, to_log_det, tensors, made, kept))
        needed = int(accepted.max())  # the host waits here
    if needed > kept[1].shape[1]:
        kept = solve(tensors, made, needed)[2:]
    return gradients(to_x1, to_log_det, tensors, made, kept)


@lru_cache(maxsize=64)
def _table(method: Method, stages: int, device: torch.device) -> Tensor:
    """(padded + 3, padded): the rows of a, then b, e and c."""
    padded = power(stages)
    rows = [row[:padded] for row in (*method.a[:stages], *((),) * (padded - stages), method.b, method.e, method.c)]
    with torch.inference_mode(False):
        return torch.tensor([[*row, *([0.0] * (padded - len(row)))] for row in rows], dtype=torch.float32, device=device)


def fused(call: Any) -> Fused:
    """How the dispatch sees the operator that these kernels serve."""
    return Fused(call, unavailable, describe, frozenset((torch.float32,)))
