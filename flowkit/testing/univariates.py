"""The conformance suite of scalar maps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build, describe
from flowkit.core.univariate import Univariate
from flowkit.testing._calls import mixed
from flowkit.testing._case import NOISE, Case
from flowkit.testing._compare import close, expect, finite, scale_of
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import UNIVARIATE
from flowkit.testing._transform_gradients import directional
from flowkit.testing._transform_state import describable, plain_tensors

EPS32 = torch.finfo(torch.float32).eps


def check_univariate(instance: Univariate, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that applies to a scalar map, at perturbed parameters in float64.

    Args:
        instance: the map to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return UNIVARIATE.run_all(instance, only, case)


def coordinates(u: Univariate) -> int:
    """Coordinates a map given one option per coordinate wants; 3 otherwise."""
    for count in (3, 1, 2, 4, 5):
        try:
            u.intervals(count)
        except Exception:  # the map says how many it has by refusing the others
            continue
        return count
    return 3


def inputs(u: Univariate, case: Case, *, scale: float = NOISE) -> tuple[Tensor, Tensor]:
    """Values (*batch, D) inside the interval, and parameters near the initial ones (*batch, D, parameter_count)."""
    generator = case.generator()
    size = (*case.batch, coordinates(u))
    normal = 1.5 * case.spread * torch.randn(size, generator=generator, dtype=torch.float64)
    low, high = (end.to(torch.float64) for end in u.intervals(size[-1]))
    unit = 0.001 + 0.998 * torch.special.ndtr(normal)
    inner = torch.where(torch.isfinite(high - low), low + (high - low) * unit, normal)
    noise = torch.randn((*size, u.parameter_count), generator=generator, dtype=torch.float64)
    return inner.to(case.dtype), (u.initial_parameters().to(torch.float64) + scale * noise).to(case.dtype)


def both(u: Univariate) -> list[tuple[str, Any]]:
    """The two directions by name."""
    return [("transform", u.transform), ("untransform", u.untransform)]


def invertible(u: Any) -> bool:
    return u.traits.inverse != "none"


def bounded(u: Any) -> bool:
    low, high = u.intervals(coordinates(u))
    return bool(torch.isfinite(low).all() and torch.isfinite(high).all())


def identity_tails(u: Any) -> bool:
    """Whether the map is the identity far out, for any parameters."""
    if bounded(u):
        return False
    _, params = inputs(u.double(), Case(), scale=1.0)
    low, high = u.intervals(params.shape[-2])
    if bool(torch.isfinite(low).any() or torch.isfinite(high).any()):
        return False
    try:
        far = torch.full(params.shape[:-1], 1e6, dtype=params.dtype)
        return all(bool((u.transform(sign * far, params)[0] == sign * far).all()) for sign in (1.0, -1.0))
    except Exception:
        return False


def tolerance(u: Any) -> float:
    return max(1e-9, u.traits.tolerance.get(torch.float64, 0.0))


@register(UNIVARIATE, drawn=True)
def value_shapes(u: Any, case: Case) -> None:
    """Any shape of values, the empty one too, comes back with a log-slope of the same shape."""
    for batch in ((), (3,), (2, 3), (0,)):
        value, params = inputs(u, case.but(batch=batch))
        for name, function in both(u):
            out, log_slope = function(value, params)
            expect(out.shape == value.shape and log_slope.shape == value.shape, f"{name} of {tuple(value.shape)}: {tuple(out.shape)}, {tuple(log_slope.shape)}")


@register(UNIVARIATE, drawn=True)
def derivative(u: Any, case: Case) -> None:
    """The log-slope is the log of the autograd derivative, both ways, to 1e-8."""
    value, params = inputs(u, case)
    for name, function in both(u):
        if name == "untransform" and not invertible(u):
            continue
        point = value.clone().requires_grad_()
        out, log_slope = function(point, params)
        slope = torch.ones_like(point)
        if out.requires_grad:
            (slope,) = torch.autograd.grad(out.sum(), point)
        close(log_slope, slope.log(), max(1e-8, 10 * tolerance(u)) * scale_of(log_slope), f"{name}, log-slope against autograd")


@register(UNIVARIATE, applies=invertible, drawn=True)
def round_trip(u: Any, case: Case) -> None:
    """untransform(transform(z)) = z and back, to 1e-9; log-slopes cancel."""
    value, params = inputs(u, case, scale=1.0)
    for first, second in ((u.transform, u.untransform), (u.untransform, u.transform)):
        there, log_slope = first(value, params)
        back, log_slope_back = second(there, params)
        close(back, value, tolerance(u) * scale_of(value), f"{first.__name__} and back")
        close(log_slope_back, -log_slope, 10 * tolerance(u) * scale_of(log_slope), f"log-slope of {first.__name__} and back")


@register(UNIVARIATE, applies=invertible)
def float32_backward_error(u: Any, case: Case) -> None:
    """In float32 |u(u^-1(x)) - x| <= scale max(1e-5, 16 eps32 u')."""
    u = u.float()
    value, params = inputs(u, case.but(batch=(200,), dtype=torch.float32), scale=1.0)
    there, _ = u.untransform(value, params)
    back, log_slope = u.transform(there, params)
    scale = torch.maximum(scale_of(value), scale_of(there)) * max([1.0, *(abs(end) for end in (u.low, u.high) if math.isfinite(end))])
    floor = max(1e-5, u.traits.tolerance.get(torch.float32, 0.0))
    close(back, value, scale * (16 * EPS32 * log_slope.exp()).clamp(min=floor), "transform(untransform(x)) in float32")


@register(UNIVARIATE, drawn=True)
def carried_scores(u: Any, case: Case) -> None:
    """carry_score gives s' = (s - d log|x'| / dz) / x' and the cotangent of the parameters, both ways."""
    value, params = inputs(u, case)
    score = torch.linspace(-2.0, 1.0, value.numel(), dtype=value.dtype).reshape(value.shape)
    for name, function in both(u)[: 2 if invertible(u) else 1]:
        out, log_slope, carried, by_params = u.carry_score(value, params.clone().requires_grad_(), score, inverse=name == "untransform")
        point, at = value.clone().requires_grad_(), params.clone().requires_grad_()
        plain, slope = function(point, at)
        close(out, plain, 1e-12 * scale_of(plain), f"{name}, value beside a score")
        close(log_slope, slope, 1e-12 * scale_of(slope), f"{name}, log-slope beside a score")
        bend = torch.autograd.grad(slope.sum() + 0.0 * point.sum(), point, retain_graph=True)[0]
        close(carried, (score - bend) * (-slope).exp(), 1e-9 * scale_of(carried), f"{name}, score")
        (wanted,) = torch.autograd.grad((carried.detach() * plain).sum() + slope.sum(), at)
        close(by_params, wanted, 1e-9 * scale_of(wanted), f"{name}, cotangent of the parameters")


@register(UNIVARIATE)
def monotone(u: Any, case: Case) -> None:
    """The map increases, over its interval or [-12, 12], and stays inside the interval."""
    _, params = inputs(u, case, scale=1.0)
    params = params.reshape(-1, *params.shape[-2:])[:1]
    low, high = (end.to(torch.float64) for end in u.intervals(params.shape[-2]))
    start, end = torch.where(torch.isfinite(low), low, -12.0), torch.where(torch.isfinite(high), high, 12.0)
    grid = torch.lerp(start, end, torch.linspace(0, 1, 2001, dtype=torch.float64).unsqueeze(-1))
    out, _ = u.transform(grid, params.expand(len(grid), *params.shape[1:]))
    expect(bool((out[1:] > out[:-1]).all()), "transform does not increase")
    expect(bool(((out >= low - 1e-9) & (out <= high + 1e-9)).all()), "transform leaves the interval")


@register(UNIVARIATE, applies=bounded)
def onto_interval(u: Any, case: Case) -> None:
    """A bounded map takes the ends of its interval to its ends, as a set."""
    value, params = inputs(u, case)
    low, high = (end.to(value).expand_as(value) for end in u.intervals(value.shape[-1]))
    first, last = u.transform(low, params)[0], u.transform(high, params)[0]
    close(last - first, high - low, 1e-6 * scale_of(high), "length of the image of the interval")


@register(UNIVARIATE)
def initial_identity(u: Any, case: Case) -> None:
    """At the initial parameters the map is the identity, or near it: |u(z) - z| <= 0.05 max(1, |z|) inside."""
    value, _ = inputs(u, case.but(batch=(50,)))
    params = u.initial_parameters().to(value).expand(*value.shape, u.parameter_count)
    expect(u.initial_parameters().shape == (u.parameter_count,), f"initial_parameters has shape {tuple(u.initial_parameters().shape)}")
    close(u.transform(value, params)[0], value, 0.05 * scale_of(value), "transform at the initial parameters")


@register(UNIVARIATE)
def parameter_count_checked(u: Any, case: Case) -> None:
    """One parameter too many or too few is refused, or cannot be used."""
    value, params = inputs(u, case)
    for wrong in (torch.cat([params, params[..., :1]], -1), params[..., :-1]):
        try:
            out, _ = u.transform(value, wrong)
        except Exception:  # any refusal will do
            continue
        expect(out.shape != value.shape, f"transform accepts {wrong.shape[-1]} parameters where parameter_count is {u.parameter_count}")


def _outputs(function: Any, at: list[Tensor]) -> Tensor:
    return mixed(*function(*at))


@register(UNIVARIATE)
def gradients(u: Any, case: Case) -> None:
    """Gradients in values and parameters agree with finite differences, and every parameter is used."""
    value, params = inputs(u, case.but(batch=(40,)))
    for name, function in both(u):
        if name == "untransform" and not invertible(u):
            continue
        directional(partial(_outputs, function), [value, params], case, name)
        directional(partial(_outputs, function), [value, params], case, f"{name}, step 1e-7", step=1e-7, allowed=1e-3)
        point, at = value.clone().requires_grad_(), params.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mixed(*function(point, at)), at)
        used = (gradient != 0).flatten(0, -2).any(0)
        expect(bool(used.all()), f"{name}: parameters {(~used).nonzero().flatten().tolist()} have no effect")


def _edges(u: Any, value: Tensor) -> list[Tensor]:
    low, high = (end.to(value).expand_as(value) for end in u.intervals(value.shape[-1]))
    bound = getattr(u, "bound", 3.0)
    ends = [bound] if isinstance(bound, int | float) else list(bound) if isinstance(bound, tuple | list) else [3.0]
    sizes = [0.0, 1.0, *(float(abs(end)) for end in ends), 10.0, 1e4, *([1e30, math.inf] if identity_tails(u) else [])]
    return [torch.full_like(value, sign * size).clamp(low, high) for size in sizes for sign in (1.0, -1.0)]


@register(UNIVARIATE)
def extremes(u: Any, case: Case) -> None:
    """Values, log-slopes and gradients are finite at 0, +-1, +-bound, +-1e4, for identity tails also at +-1e30 and +-inf."""
    for dtype in (torch.float64, torch.float32):
        for scale in (NOISE, 3.0):
            u = u.to(dtype)
            value, params = inputs(u, case.but(dtype=dtype), scale=scale)
            for edge in _edges(u, value):
                for name, function in both(u):
                    if name == "untransform" and not invertible(u):
                        continue
                    point, at = edge.clone().requires_grad_(), params.clone().requires_grad_()
                    out, log_slope = function(point, at)
                    where = f"{name} at {float(edge.flatten()[0]):g} in {dtype}"
                    if bool(torch.isfinite(edge).all()):
                        finite(out, where)
                    else:
                        expect(bool((out == edge).all()), f"{where}: {out.flatten()[0].item()}")
                    finite(log_slope, f"{where}, log-slope")
                    for gradient in torch.autograd.grad((out / scale_of(edge)).sum() + log_slope.sum(), [point, at], allow_unused=True):
                        if gradient is not None:
                            finite(gradient, f"{where}, gradient")


@register(UNIVARIATE)
def dtype_kept(u: Any, case: Case) -> None:
    """float32 in gives float32 out, float64 in float64 out."""
    for dtype in (torch.float32, torch.float64):
        value, params = inputs(u.to(dtype), case.but(dtype=dtype))
        for name, function in both(u):
            got = [out.dtype for out in function(value, params)]
            expect(got == [dtype, dtype], f"{name}: {dtype} in, {got} out")


@register(UNIVARIATE)
def constants_are_buffers(u: Any, case: Case) -> None:
    """No tensor is a plain attribute, before or after a call, unless it is a constructor argument."""
    for _ in range(2):
        found = [path for module in u.modules() for path in plain_tensors(module)]
        expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
        u.transform(*inputs(u, case))


@register(UNIVARIATE, applies=lambda u: u.traits.compiles, costly=True)
def compiled(u: Any, case: Case) -> None:
    """torch.compile(fullgraph=True, backend="aot_eager") agrees with eager."""
    value, params = inputs(u, case)

    def everything(value: Tensor, params: Tensor) -> tuple[Tensor, ...]:
        return (*u.transform(value, params), *(u.untransform(value, params) if invertible(u) else ()))

    torch._dynamo.reset()
    try:
        got = torch.compile(everything, fullgraph=True, backend="aot_eager")(value, params)
    finally:
        torch._dynamo.reset()
    for out, wanted in zip(got, everything(value, params), strict=True):
        close(out, wanted, 1e-10 * scale_of(wanted), "compiled")


@register(UNIVARIATE, applies=lambda u: u.traits.vmaps)
def vmapped(u: Any, case: Case) -> None:
    """torch.func.vmap over the batch agrees with the batched call."""
    value, params = inputs(u, case)
    for name, function in both(u):
        if name == "untransform" and not invertible(u):
            continue
        for out, wanted in zip(torch.func.vmap(function)(value, params), function(value, params), strict=True):
            close(out, wanted, 1e-11 * scale_of(wanted), f"vmap of {name}")


@register(UNIVARIATE, applies=describable)
def describe_build(u: Any, case: Case) -> None:
    """build(describe(u)) is the same map."""
    made = build(describe(u), type(u)).double()
    expect(describe(made) == describe(u), f"build(describe(u)) describes itself as {describe(made)}")
    made.load_state_dict(u.state_dict())
    value, params = inputs(u, case)
    close(made.transform(value, params)[0], u.transform(value, params)[0], 0.0, "after build(describe(u))")
    close(copy.deepcopy(u).transform(value, params)[0], u.transform(value, params)[0], 0.0, "after deepcopy")
