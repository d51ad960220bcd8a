"""The scalar maps in Triton with their plain forms, and constants to judge them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels import bounded_affine, mixture_cdf, piecewise_linear_spline, piecewise_quadratic, piecewise_quadratic_spline, rational_quadratic_spline
from flowkit.kernels.gpu import maps
from flowkit.kernels.spline_ends import SCHEMA

ENDS = ((8, -3.0, 3.0, "linear"), (5, 0.1, 1.3, "bounded"), (4, -2.1, 2.0, "circular"))


def some_given(params: Tensor, bins: int, low: float, high: float, ends: str) -> Tensor:
    """With bounded ends slopes are given: of every four elements, none, both ends', the first, an inner one."""
    if ends != "bounded":
        return params
    rows = params.reshape(-1, params.shape[-1]).clone()
    rows[1::4, bins] = rows[1::4, -1] = rows[2::4, bins] = rows[3::4, bins + 1] = piecewise_quadratic.GIVEN
    return rows.view(params.shape)


def affine(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return value * torch.exp(params[..., 1]) + params[..., 0], params[..., 1]


def inverse_affine(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return (value - params[..., 0]) * torch.exp(-params[..., 1]), -params[..., 1]


@dataclass(frozen=True)
class Subject:
    """A map, its constants' schema, its plain forms, constants to judge it with, and what is done to random parameters before.

    Simple maps have no ends and no bins; loose ones divide and take logarithms all the same.
    """

    kernels: Any
    schema: str
    plain: tuple[Callable[..., Any], Callable[..., Any]]
    constants: tuple[tuple[Any, ...], ...]
    simple: bool = False
    loose: bool = False
    vary: Callable[..., Tensor] = lambda params, *constants: params


SUBJECTS = {
    "rational_quadratic_spline": Subject(maps.RATIONAL_QUADRATIC_SPLINE, SCHEMA, (rational_quadratic_spline.forward, rational_quadratic_spline.inverse), ENDS),
    "piecewise_linear_spline": Subject(maps.PIECEWISE_LINEAR_SPLINE, SCHEMA, (piecewise_linear_spline.forward, piecewise_linear_spline.inverse), ENDS),
    "piecewise_quadratic_spline": Subject(
        maps.PIECEWISE_QUADRATIC_SPLINE, SCHEMA, (piecewise_quadratic_spline.forward, piecewise_quadratic_spline.inverse), ENDS, vary=some_given
    ),
    "bounded_affine": Subject(maps.BOUNDED_AFFINE, "float bound, ", (bounded_affine.forward, bounded_affine.inverse), ((5.0,), (0.5,)), simple=True),
    "logistic_mixture_cdf": Subject(
        maps.logistic_mixture_cdf(mixture_cdf.LARGEST_LOG_SCALE), "int components, ", (mixture_cdf.forward, mixture_cdf.inverse), ((8,), (3,), (1,)), True, True
    ),
    "affine": Subject(maps.AFFINE, "", (affine, inverse_affine), ((),), simple=True),
}
