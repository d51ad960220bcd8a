"""Reduced energies as a function that autograd knows, with the exact forces for a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit.core.errors import FlowkitError, NonFiniteError

Array = NDArray[np.float64]
Evaluate = Callable[[Array], tuple[Array, Array]]  # (n, N, 3) -> reduced energies (n,), their gradients (n, N, 3)


def reduced_energy(x: Tensor, evaluate: Evaluate, who: str) -> Tensor:
    """Energies of structures (*B, N, 3) in the dtype of x, (*B); evaluated in float64, one first derivative."""
    value: Tensor = _Energy.apply(x, evaluate, who)  # type: ignore[no-untyped-call]
    return value


def regularized(u: Array, gradient: Array, cut: float, cap: float) -> tuple[Array, Array]:
    """u up to the cut; cut + log(1 + min(u, cap) - cut) above it, and at the cap where u or a force is not finite; with the gradient.

    Args:
        u: (n,); gradient: (n, N, 3).
        cut, cap: in the units of u.
    """
    lost = ~(np.isfinite(u) & np.isfinite(gradient).all(axis=(1, 2)))
    u = np.where(lost, cap, u)
    excess = np.clip(u, cut, cap) - cut
    slope = np.where(u >= cap, 0.0, 1 / (1 + excess))  # 1 below the cut
    value = np.where(u > cut, cut + np.log1p(excess), u)
    return value, np.where(lost[:, None, None], 0.0, gradient) * slope[:, None, None]


def check_energies(u: Array, who: str) -> None:
    """Raise unless all energies are finite; for those that are not regularised."""
    lost = np.flatnonzero(~np.isfinite(u))
    if len(lost):
        raise NonFiniteError(
            f"{who}: expected structures with a finite energy; got {u[lost[0]]} for sample {lost[0]} of {len(u)}"
            f"{f', and for {len(lost) - 1} more' if len(lost) > 1 else ''}: atoms overlap. Set energy_cut= to have such energies bounded."
        )


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluate: Evaluate, who: str) -> Tensor:
        flat = x.detach().reshape(-1, *x.shape[-2:]).to("cpu", torch.float64).numpy()
        lost = np.argwhere(~np.isfinite(flat))
        if len(lost):
            sample, atom, _ = lost[0]
            raise NonFiniteError(f"{who}: expected finite positions; got {flat[tuple(lost[0])]} at atom {atom} of sample {sample} of {len(flat)}.")
        u, gradient = evaluate(flat)
        ctx.save_for_backward(x, torch.from_numpy(gradient).to(x).reshape(x.shape))
        ctx.who = who
        return torch.from_numpy(u).to(x).reshape(x.shape[:-2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, gradient = ctx.saved_tensors
        return _Pulled.apply(x, gradient, grads[0], ctx.who), None, None  # type: ignore[no-untyped-call]


class _Pulled(torch.autograd.Function):
    """The gradient times an upstream number, (*B): linear in that number; how it changes with x is not known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, upstream: Tensor, who: str) -> Tensor:
        ctx.who = who
        return gradient * upstream[..., None, None]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise FlowkitError(f"{ctx.who}: OpenMM gives energies and forces, no second derivatives. Detach the force: score(x) is a constant.")
