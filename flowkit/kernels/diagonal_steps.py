"""The fixed scalar maps that a diagonal chain is made of, in plain torch: each gives the value and the log-slope there.

Values are held inside the open codomain by the least the dtype can, and so are inputs of the inverses; log-slopes have no such limits.
A name may carry a number: ``sigmoid:2.0`` is the sigmoid of x / 2, ``softclip:5.0`` the one with bound 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
AFFINE, INVERSE_AFFINE = "affine", "inverse_affine"


def largest_below_one(dtype: torch.dtype) -> float:
    """The number before 1."""
    return 1 - torch.finfo(dtype).eps / 2


def inside_unit(x: Tensor) -> Tensor:
    """Moved off 0 and 1 by the least the dtype can."""
    return x.clamp(torch.finfo(x.dtype).tiny, largest_below_one(x.dtype))


def inside_ball(x: Tensor) -> Tensor:
    """Moved off -1 and 1 by the least the dtype can."""
    edge = largest_below_one(x.dtype)
    return x.clamp(-edge, edge)


def _exp(z: Tensor, number: float) -> Pair:
    info = torch.finfo(z.dtype)
    # a little short of the logarithms of the ends, which may round outwards
    return torch.exp(z.clamp(math.log(info.tiny) * (1 - 4 * info.eps), math.log(info.max) * (1 - 4 * info.eps))), z


def _log(x: Tensor, number: float) -> Pair:
    z = x.clamp(min=torch.finfo(x.dtype).tiny).log()
    return z, -z


def _sigmoid_slope(z: Tensor, temperature: float) -> Tensor:
    size = z / temperature
    return functional.logsigmoid(size) + functional.logsigmoid(-size) - math.log(temperature)


def _sigmoid(z: Tensor, temperature: float) -> Pair:
    return inside_unit(torch.sigmoid(z / temperature)), _sigmoid_slope(z, temperature)


def _logit(x: Tensor, temperature: float) -> Pair:
    x = inside_unit(x)
    z = temperature * (x.log() - torch.log1p(-x))
    return z, -_sigmoid_slope(z, temperature)


def _softplus(z: Tensor, number: float) -> Pair:
    return functional.softplus(z, threshold=40.0).clamp(min=torch.finfo(z.dtype).tiny), functional.logsigmoid(z)


def _inverse_softplus(x: Tensor, number: float) -> Pair:
    x = x.clamp(min=torch.finfo(x.dtype).tiny)
    z = x + torch.log(-torch.expm1(-x))
    return z, -functional.logsigmoid(z)


def _tanh_slope(z: Tensor) -> Tensor:
    size = torch.where(z < 0, -z, z)  # its derivative at zero is right, that of abs is none
    return 2 * (math.log(2.0) - size - functional.softplus(-2 * size))


def _tanh(z: Tensor, number: float) -> Pair:
    return inside_ball(torch.tanh(z)), _tanh_slope(z)


def _atanh(x: Tensor, number: float) -> Pair:
    z = torch.atanh(inside_ball(x))
    return z, -_tanh_slope(z)


def _softclip(z: Tensor, bound: float) -> Pair:
    largest = torch.finfo(z.dtype).max
    near = z.clamp(-largest, largest)  # infinity ends on the bound: infinity over infinity would not
    return (near / (1 + (near / bound).abs().clamp(max=largest))).clamp(-bound, bound), -2 * torch.log1p((z / bound).abs())


def _inverse_softclip(x: Tensor, bound: float) -> Pair:
    x = x.clamp(-bound, bound)
    z = x / (1 - (x / bound).abs().clamp(max=largest_below_one(x.dtype)))
    return z, 2 * torch.log1p((z / bound).abs())


# in the order of the codes in cpu/diagonal_chain.cpp, where the two affine steps come first; a map and its inverse side by side
MAPS: dict[str, Callable[[Tensor, float], Pair]] = {
    "exp": _exp, "log": _log, "sigmoid": _sigmoid, "logit": _logit, "softplus": _softplus, "inverse_softplus": _inverse_softplus,
    "tanh": _tanh, "atanh": _atanh, "softclip": _softclip, "inverse_softclip": _inverse_softclip,
}  # fmt: skip
NAMES = (AFFINE, INVERSE_AFFINE, *MAPS)


def count(program: str) -> tuple[int, int]:
    """How many steps a program has, and how many of them are affine."""
    return program.count(",") + 1 if program else 0, program.count(AFFINE)


def parse(program: str) -> tuple[tuple[str, float], ...]:
    """``"affine,sigmoid:2.0"`` as names and numbers, 1 where none is given."""
    steps = [step.partition(":") for step in program.split(",") if step]
    return tuple((name, float(number) if number else 1.0) for name, _, number in steps)


def inverted(program: str) -> str:
    """The program that undoes another."""
    steps = [step.partition(":") for step in reversed(program.split(",")) if step]
    return ",".join(NAMES[NAMES.index(name) ^ 1] + mark + number for name, mark, number in steps)
