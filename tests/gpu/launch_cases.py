"""Calls of launchers, on CPU tensors of the sizes that matter, to be compiled without being run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from flowkit.kernels.gpu import diagonal_chain, mlp_trajectory, runge_kutta


def _stage(rows: int, columns: int, dtype: torch.dtype) -> Any:
    y, ks, h, weights = _stages(rows, columns, dtype)
    return runge_kutta.stage(y, ks, h, weights)


def _finish(rows: int, columns: int, dtype: torch.dtype, tolerances: int = 1) -> Any:
    y, ks, h, weights = _stages(rows, columns, dtype)
    return runge_kutta.finish(y, ks, h, weights, weights, y.new_zeros(tolerances), y.new_zeros(1))


def _stages(rows: int, columns: int, dtype: torch.dtype, stages: int = 7) -> tuple[Any, ...]:
    return (
        torch.zeros(rows, columns, dtype=dtype),
        torch.zeros(stages, rows, columns, dtype=dtype).transpose(0, 1),
        torch.zeros(rows, dtype=dtype),
        torch.zeros(stages, dtype=dtype),
    )


def _chain(program: str, steps: int, dtype: torch.dtype = torch.float32) -> Any:
    value, params = torch.zeros(4096, 6, dtype=dtype), torch.zeros(steps, 2, 6, dtype=dtype)
    out, log_det = diagonal_chain.forward(value, params, program, 1, "normal")
    return diagonal_chain.backward(out, log_det, value, params, program, 1, "normal")


def _trajectory(rows: int, d: int, w: int, method: str = "rk4", steps: int = 20, gated: bool = False) -> Any:
    sizes = (rows, d), (w, d), (w,), (w,), (w, w), (w,), (w,), (d, w), (d,), (d,), (2 * w + d if gated else 0, 2)
    tensors = tuple(torch.zeros(size) for size in sizes)
    constants = (0.0, 1.0, method, steps, 1e-5, 1e-5, "tanh", True, 1000)
    x1, log_det, stats, tape = mlp_trajectory.forward(*tensors, *constants, steps or 48)
    return mlp_trajectory.backward(x1, log_det, *tensors, stats.zero_(), tape, *constants)


ALL_MAPS = "exp,log,sigmoid:2.0,logit,softplus,inverse_softplus,tanh,atanh,softclip:3.0,inverse_softclip"
SLOW: dict[str, Callable[[], Any]] = {
    "adaptive": partial(_trajectory, 1000, 6, 64, "dopri5", 0),
    "gated": partial(_trajectory, 1000, 6, 64, gated=True),
    "many_rows": partial(_trajectory, 10_000, 6, 64),
    "wide": partial(_trajectory, 10_000, 43, 128),
}
CASES: dict[str, Callable[[], Any]] = {
    "stage": partial(_stage, 4096, 6, torch.float32),
    "stage_float64": partial(_stage, 4096, 6, torch.float64),
    "finish": partial(_finish, 4096, 6, torch.float32, 6),
    "finish_float64": partial(_finish, 4096, 6, torch.float64),
    "finish_long_rows": partial(_finish, 2, 100_000, torch.float32),
    "chain": partial(_chain, "affine,sigmoid", 1),
    "chain_of_all": partial(_chain, ALL_MAPS, 0),
    "chain_float64": partial(_chain, "inverse_affine,tanh,affine", 2, torch.float64),
    "trajectory": partial(_trajectory, 1000, 2, 64),
}
