"""The scalar maps in Triton with their plain forms, and constants to judge them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.kernels import bounded_affine, piecewise_linear, piecewise_quadratic, rational_quadratic_spline
from flowkit.kernels.gpu import maps

SPLINES = "int bins, float low, float high, str ends, "
ENDS = ((8, -3.0, 3.0, "linear"), (5, 0.1, 1.3, "bounded"), (4, -2.1, 2.0, "circular"))


def with_ends(inside: Callable[..., Any], value: Tensor, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    out, log_slope = inside(value.clamp(low, high))
    if ends != "linear":
        return out, log_slope
    within = (value >= low) & (value <= high)
    return torch.where(within, out, value), torch.where(within, log_slope, torch.zeros_like(log_slope))


def linear(inside: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda value, params, bins, low, high, ends: with_ends(lambda z: inside(z, params, low, high), value, low, high, ends)


def quadratic(inside: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    def plain(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
        widths, heights = params[..., :bins], params[..., bins:]
        if ends == "linear":
            heights = functional.pad(heights, (1, 1), value=piecewise_quadratic.GIVEN)
        elif ends == "circular":
            heights = torch.cat([heights, heights[..., :1]], dim=-1)
        return with_ends(lambda z: inside(z, widths, heights, low, high), value, low, high, ends)

    return plain


def affine(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return value * torch.exp(params[..., 1]) + params[..., 0], params[..., 1]


def inverse_affine(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return (value - params[..., 0]) * torch.exp(-params[..., 1]), -params[..., 1]


@dataclass(frozen=True)
class Subject:
    """A map, its constants' schema, its plain forms, and constants to judge it with."""

    kernels: Any
    schema: str
    plain: tuple[Callable[..., Any], Callable[..., Any]]
    constants: tuple[tuple[Any, ...], ...]
    simple: bool = False


SUBJECTS = {
    "rational_quadratic_spline": Subject(maps.RATIONAL_QUADRATIC_SPLINE, SPLINES, (rational_quadratic_spline.forward, rational_quadratic_spline.inverse), ENDS),
    "piecewise_linear_spline": Subject(maps.PIECEWISE_LINEAR_SPLINE, SPLINES, (linear(piecewise_linear.spline), linear(piecewise_linear.inverse_spline)), ENDS),
    "piecewise_quadratic_spline": Subject(
        maps.PIECEWISE_QUADRATIC_SPLINE, SPLINES, (quadratic(piecewise_quadratic.spline), quadratic(piecewise_quadratic.inverse_spline)), ENDS
    ),
    "bounded_affine": Subject(maps.BOUNDED_AFFINE, "float bound, ", (bounded_affine.forward, bounded_affine.inverse), ((5.0,), (0.5,)), simple=True),
    "affine": Subject(maps.AFFINE, "", (affine, inverse_affine), ((),), simple=True),
}
