"""Checks of gradients: against finite differences, for every parameter, at extreme inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from flowkit.core.domain import Box
from flowkit.testing._calls import Side, mixed, sides
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, scale_of
from flowkit.testing._draws import map_context
from flowkit.testing._suite import register
from flowkit.testing._suites import BIJECTOR, TRANSFORMS

STEP = 1e-7


def parametric(f: Any) -> bool:
    return any(parameter.requires_grad for parameter in f.parameters())


def directional(loss: Callable[[list[Tensor]], Tensor], at: list[Tensor], case: Case, what: str, step: float = 1e-6, allowed: float = 1e-5) -> None:
    """Central differences along three random directions against autograd."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in at]
    gradients = torch.autograd.grad(loss(leaves), leaves, materialize_grads=True)
    for trial in range(3):
        generator = case.generator(200 + trial)
        ways = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in at]
        with torch.no_grad():
            ahead = loss([tensor + step * way for tensor, way in zip(at, ways, strict=True)])
            behind = loss([tensor - step * way for tensor, way in zip(at, ways, strict=True)])
        slope = (ahead - behind) / (2 * step)
        wanted = sum(((gradient * way).sum() for gradient, way in zip(gradients, ways, strict=True)), torch.zeros((), dtype=torch.float64))
        size = sum(float((gradient * way).abs().sum()) for gradient, way in zip(gradients, ways, strict=True))
        close(wanted, slope, allowed * max(1.0, size), f"{what}: derivative by autograd against finite differences")


def _float_context(context: Any) -> list[Tensor]:
    parts: list[Tensor] = []
    map_context(context, lambda part: parts.append(part) if part.is_floating_point() else None)
    return parts


def _with_parts(context: Any, parts: list[Tensor]) -> Any:
    queue = list(parts)
    return map_context(context, lambda part: queue.pop(0) if part.is_floating_point() else part)


def _manifold(f: Any, side: Side) -> bool:
    return hasattr(f.codomain if side.inverse else f.domain, "tangent_basis")


def _at_input(f: Any, side: Side, at: list[Tensor]) -> Tensor:
    """All outputs at another input and, where given, other parts of the context."""
    context = _with_parts(side.context, at[1:]) if len(at) > 1 else side.context
    return mixed(*side(f, at[0], context))


def _at_context(f: Any, side: Side, at: list[Tensor]) -> Tensor:
    return mixed(*side(f, context=_with_parts(side.context, at)))


def _at_parameter(f: Any, side: Side, name: str, at: list[Tensor]) -> Tensor:
    return mixed(*side(_Swapped(f, {name: at[0]})))


@register(*TRANSFORMS)
def gradient_inputs(f: Any, case: Case) -> None:
    """Gradients in the input and the context agree with finite differences, in both directions."""
    for side in sides(f, case, (3,)):
        if not _manifold(f, side):
            directional(partial(_at_input, f, side), [side.value], case, f"{side.name}, input")
        if side.context is not None and _float_context(side.context):
            start = _float_context(side.context)
            directional(partial(_at_context, f, side), start, case, f"{side.name}, context")


@register(*TRANSFORMS, applies=parametric)
def gradient_parameters(f: Any, case: Case) -> None:
    """Gradients in every parameter agree with finite differences, in both directions."""
    trainable = {name: parameter for name, parameter in f.named_parameters() if parameter.requires_grad}
    for side in sides(f, case, (3,)):
        for name, parameter in list(trainable.items())[:24]:
            directional(partial(_at_parameter, f, side, name), [parameter.detach()], case, f"{side.name}, parameter {name}")


class _Swapped:
    """A map called with some of its parameters replaced."""

    def __init__(self, f: Any, values: dict[str, Tensor]) -> None:
        self.f, self.values, self.traits = f, values, f.traits

    def __call__(self, value: Tensor, context: Any = None, *, generator: Any = None) -> Any:
        return functional_call(self.f, self.values, (value, context), {"generator": generator})

    def inverse(self, value: Tensor, context: Any = None, *, generator: Any = None) -> Any:
        return functional_call(_InverseCall(self.f), {f"f.{name}": tensor for name, tensor in self.values.items()}, (value, context, generator))


class _InverseCall(torch.nn.Module):
    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, value: Tensor, context: Any, generator: Any) -> Any:
        return self.f.inverse(value, context, generator=generator)


@register(*TRANSFORMS)
def float64_throughout(f: Any, case: Case) -> None:
    """In float64 a step of 1e-7 is resolved: nothing inside is computed in lower precision."""
    for side in sides(f, case, (3,)):
        value, log_det = side(f)
        expect(value.dtype == torch.float64 and log_det.dtype == torch.float64, f"{side.name}: float64 in, {value.dtype} and {log_det.dtype} out")
        if _manifold(f, side):
            continue
        context = _float_context(side.context) if side.context is not None else []
        directional(partial(_at_input, f, side), [side.value, *context], case, f"{side.name}, step {STEP:g}", step=STEP, allowed=1e-3)


@register(*TRANSFORMS, applies=parametric)
def parameter_gradients(f: Any, case: Case) -> None:
    """Every trainable parameter gets a gradient that is finite and not zero, in both directions."""
    named = [(name, parameter) for name, parameter in f.named_parameters() if parameter.requires_grad]
    for side in sides(f, case, (64,)):
        gradients = torch.autograd.grad(mixed(*side(f)), [parameter for _, parameter in named], allow_unused=True)
        dead = [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None or not bool((gradient != 0).any())]
        expect(not dead, f"{side.name}: no gradient reaches {', '.join(dead)}")
        for (name, _), gradient in zip(named, gradients, strict=True):
            finite(gradient, f"{side.name}, gradient of {name}")


@register(*TRANSFORMS, applies=lambda f: sum(parameter.requires_grad for parameter in f.parameters()) > 1)
def frozen_parameters(f: Any, case: Case) -> None:
    """A parameter with requires_grad=False gets no gradient and the others still do."""
    names = [name for name, parameter in f.named_parameters() if parameter.requires_grad]
    for frozen in {names[0], names[-1]}:
        f.zero_grad(set_to_none=True)
        f.get_parameter(frozen).requires_grad_(False)
        for side in sides(f, case, (64,)):
            mixed(*side(f)).backward()
        expect(f.get_parameter(frozen).grad is None, f"frozen parameter {frozen} got a gradient")
        missing = [name for name in names if name != frozen and f.get_parameter(name).grad is None]
        expect(not missing, f"with {frozen} frozen no gradient reaches {', '.join(missing)}")
        f.get_parameter(frozen).requires_grad_(True)


def _extremes(f: Any, side: Side) -> list[Tensor]:
    """Events at +-1, at the ends of a box and out to +-1e4 where the domain allows it."""
    domain = f.codomain if side.inverse else f.domain
    signs = torch.where(torch.arange(side.value[0].numel()) % 2 == 0, 1.0, -1.0).reshape(side.value[0].shape).to(side.value)
    if domain.trivial:
        return [size * pattern for size in (0.0, 1.0, 10.0, 1e4) for pattern in (torch.ones_like(signs), -torch.ones_like(signs), signs)]
    if not isinstance(domain, Box):
        return []
    low, high = domain.low_buffer.to(side.value), domain.high_buffer.to(side.value)
    near = 1e-5 * torch.where(torch.isfinite(high - low), high - low, torch.ones_like(low))
    first = torch.where(torch.isfinite(low), low + near, torch.where(torch.isfinite(high), high - 1e4, torch.full_like(low, -1e4)))
    last = torch.where(torch.isfinite(high), high - near, torch.where(torch.isfinite(low), low + 1e4, torch.full_like(low, 1e4)))
    return [first, last, torch.where(signs > 0, first, last)]


@register(BIJECTOR, applies=lambda f: f.traits.log_det == "exact")
def extreme_gradients(f: Any, case: Case) -> None:
    """Values and gradients are finite, in float64 and float32, at 0, +-1, +-10, +-1e4 and next to the ends of an interval."""
    for dtype in (torch.float64, torch.float32):
        f = f.to(dtype)
        for side in sides(f, case.but(dtype=dtype), (1,)):
            for event in _extremes(f, side):
                point = event.unsqueeze(0).clone().requires_grad_()
                value, log_det = side(f, point)
                where = f"{side.name} at {_brief(event)} in {dtype}"
                finite(value, where + ", value")
                finite(log_det, where + ", log_det")
                wanted = [point, *(parameter for parameter in f.parameters() if parameter.requires_grad)]
                for gradient in torch.autograd.grad((value / scale_of(value)).sum() + log_det.sum(), wanted, allow_unused=True):
                    if gradient is not None:
                        finite(gradient, where + ", gradient")


def _brief(event: Tensor) -> str:
    numbers = event.flatten()[:4].tolist()
    return "(" + ", ".join(f"{number:g}" for number in numbers) + (", ..." if event.numel() > 4 else "") + ")"
