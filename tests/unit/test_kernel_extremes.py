"""Fused kernels where numbers run out of range, and where an iteration has no solution: as their references have it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit import checks
from flowkit.core.errors import ConfigError, NotInvertibleError
from flowkit.kernels import OPS, KernelError, use
from flowkit.kernels.cpu import library
from flowkit.testing.ops import cast, results, worst
from flowkit.univariates import Affine, LogisticMixtureCDF

fused = pytest.mark.skipif("library.unavailable() is not None", reason="no C++ compiler")
DTYPES = (torch.float32, torch.float64)


def _outputs(name: str, *args: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Of the kernel and of the reference: outputs, then gradients."""
    found = []
    for choice in ("fused", "reference"):
        value, params = (tensor.clone().requires_grad_() for tensor in args[:2])
        with use(choice):  # type: ignore[arg-type]
            out, log_slope = OPS[name](value, params, *args[2:], 0, "none")
            grads = torch.autograd.grad((out, log_slope), (value, params), (torch.ones_like(out), torch.full_like(out, 0.3)))
        found.append([out.detach(), log_slope.detach(), *grads])
    return found[0], found[1]


@fused
@pytest.mark.parametrize("base", ["none", "normal"])
@pytest.mark.parametrize("name", ["affine", "inverse_affine", "bounded_affine", "inverse_bounded_affine"])
def test_float32_error_without_divisions(name: str, base: str) -> None:
    for label, args in OPS[name].examples(1000):
        single = cast((args[0], 0.5 * args[1], *args[2:-1], base), torch.float32)
        with use("fused"):
            found = results(OPS[name], single)
        for mine, true in zip(found, results(OPS[name].reference, cast(single, torch.float64)), strict=True):
            assert worst(mine, true) < 2e-6, label


@fused
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["affine", "inverse_affine"])
def test_scales_that_overflow_and_underflow(name: str, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    edges = [math.log(limits.max), math.log(limits.tiny), math.log(limits.smallest_normal * limits.eps)]
    log_scale = torch.tensor([0.0, 1e30, -1e30, math.inf, -math.inf, math.nan, *(edge + step for edge in edges for step in (-2, -0.5, 0.5, 2))], dtype=dtype)
    values = torch.tensor([0.0, 1.0, -2.5, 1e-30, 1e30, math.inf, math.nan], dtype=dtype)
    value, log_scale = (part.flatten() for part in torch.meshgrid(values, log_scale, indexing="ij"))
    for shift in (0.0, 1.5):
        mine, plain = _outputs(name, value, torch.stack([torch.full_like(value, shift), log_scale], dim=-1))
        for one, other in zip(mine, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=8 * limits.eps, atol=2 * limits.tiny, equal_nan=True)


@fused
@pytest.mark.parametrize("name", ["rational_quadratic_spline", "inverse_rational_quadratic_spline"])
def test_a_steep_knot(name: str) -> None:
    """A slope whose square is no float32, or any other large number, leaves all finite, and what float32 can tell as it is in float64."""
    generator = torch.Generator().manual_seed(0)
    value = 2.9 * (2 * torch.rand(92, generator=generator) - 1)
    params = torch.randn(92, 23, generator=generator)
    for size in (1e3, 1e10, 1e30, -1e30):
        params[torch.arange(92), torch.arange(92) % 23] = size
        args = (8, -3.0, 3.0, "linear", 0, "none")
        with use("reference"):
            true = OPS[name](value.double(), params.double(), *args)
        mine, plain = _outputs(name, value, params, *args[:-2])
        for found in (mine, plain):
            assert all(torch.isfinite(part).all() for part in found)
            torch.testing.assert_close(found[0].double(), true[0], rtol=1e-4, atol=1e-4)
            if not name.startswith("inverse"):  # there the slope changes by its own size within a rounding of the value
                torch.testing.assert_close(found[1].double(), true[1], rtol=1e-4, atol=1e-4)


def test_univariate_without_a_limit_overflows() -> None:
    u = Affine(scale="exp")
    x, log_slope = u.transform(torch.ones(2), torch.tensor([[0.0, 100.0], [2.0, -200.0]]))
    assert x.tolist() == [math.inf, 2.0] and log_slope.tolist() == [100.0, -200.0]


@fused
@pytest.mark.parametrize("name", ["logistic_mixture_cdf", "inverse_logistic_mixture_cdf"])
@pytest.mark.parametrize(("components", "spreads", "size"), [(2, (1, 1, 1), 1e12), (4, (30, 100, 4), 1e2), (4, (1, 1e4, 1), 1e4), (63, (1, 1, 1), 50.0)])
def test_mixture_far_out_and_between_distant_components(name: str, components: int, spreads: tuple[float, ...], size: float) -> None:
    """Weights of exp(-100), components thousands of their scales apart, values far beyond all of them."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([*(one for one in spreads for _ in range(components)), 1.0, 1.0], dtype=torch.float64)
    params = spread * torch.randn(50, 3 * components + 2, generator=generator, dtype=torch.float64)
    value = size * torch.randn(50, generator=generator, dtype=torch.float64)
    for one, other in zip(*_outputs(name, value, params, components), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@fused
def test_mixture_says_how_many_components_a_kernel_takes() -> None:
    with use("fused"), pytest.raises(KernelError, match="64 components are more than 63"):
        OPS["logistic_mixture_cdf"](torch.zeros(1), torch.zeros(1, 3 * 64 + 2), 64, 0, "none")


@pytest.mark.parametrize("choice", ["fused", "reference"])
def test_mixture_without_a_solution(choice: Any) -> None:
    """z would be beyond the dtype: an error where values are looked at, else NaN; never for parameters or values that are not finite."""
    if choice == "fused" and library.unavailable() is not None:
        pytest.skip("no C++ compiler")
    u = LogisticMixtureCDF(2)
    params = torch.zeros(u.parameter_count)
    params[4:6] = 20.0  # scales of exp(3)
    x = torch.tensor([1.0, 3e38, math.nan, math.inf])
    with use(choice):
        with pytest.raises(NotInvertibleError, match="none for 1 of 4"):
            u.untransform(x, params.expand(4, -1))
        with checks(values=False):
            z = u.untransform(x, params.expand(4, -1))[0]
        assert torch.isfinite(z).tolist() == [True, False, False, False]
        assert torch.isnan(u.untransform(x[:1], torch.full((1, u.parameter_count), math.nan))[0]).all()


@pytest.mark.parametrize("choice", ["fused", "reference"])
def test_a_base_that_is_not_known(choice: Any) -> None:
    with use(choice), pytest.raises((ConfigError, KernelError), match="gauss"):
        OPS["affine"](torch.zeros(3), torch.zeros(3, 2), 0, "gauss")
