"""Checks that compiled and vectorised calls agree with eager ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.testing._calls import mixed, sides
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, same_call
from flowkit.testing._draws import map_context
from flowkit.testing._suite import register
from flowkit.testing._suites import BIJECTOR, INJECTION


@register(BIJECTOR, INJECTION, applies=lambda f: f.traits.compiles and not f.traits.stochastic, costly=True)
def compiled(f: Any, case: Case) -> None:
    """torch.compile(fullgraph=True, backend="aot_eager") of the directions that do not iterate gives the same values and gradients."""
    directions = [side for side in sides(f, case, (3,)) if not (side.inverse and f.traits.inverse == "iterative")]

    def everything(*inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [side(f, value) for side, value in zip(directions, inputs, strict=True)]

    wanted = everything(*(side.value for side in directions))
    torch._dynamo.reset()
    try:
        got = torch.compile(everything, fullgraph=True, backend="aot_eager")(*(side.value for side in directions))
    finally:
        torch._dynamo.reset()
    parameters = [parameter for parameter in f.parameters() if parameter.requires_grad]
    for side, pair, expected in zip(directions, got, wanted, strict=True):
        same_call(pair, expected, 1e-10, f"compiled {side.name}")
    if not parameters:
        return
    eager = torch.autograd.grad(sum((mixed(*pair) for pair in wanted), torch.zeros(())), parameters, allow_unused=True)
    traced = torch.autograd.grad(sum((mixed(*pair) for pair in got), torch.zeros(())), parameters, allow_unused=True)
    for before, after in zip(eager, traced, strict=True):
        if before is not None:
            expect(after is not None, "compiled: a parameter lost its gradient")
            close(after, before, 1e-8 * max(1.0, float(before.abs().max())), "compiled, gradient of a parameter")


@register(BIJECTOR, INJECTION, applies=lambda f: f.traits.vmaps and not f.traits.stochastic)
def vmapped(f: Any, case: Case) -> None:
    """torch.func.vmap over a batch axis equals the batched call; so does vmap of grad."""
    for side in sides(f, case, (3, 2)):
        axes = map_context(side.context, lambda part: 0)

        def one(value: Tensor, context: Any, side: Any = side) -> tuple[Tensor, Tensor]:
            return side(f, value, context)

        got = torch.func.vmap(one, in_dims=(0, axes))(side.value, side.context)
        same_call(got, side(f), 1e-11, f"vmap of {side.name}")
    for side in sides(f, case, (3,)):
        point = side.value.detach().requires_grad_()
        value, log_det = side(f, point)
        (wanted,) = torch.autograd.grad(value.sum() + log_det.sum(), point)
        axes = map_context(side.context, lambda part: 0)

        def total(value: Tensor, context: Any, side: Any = side) -> Tensor:
            out, log_det = side(f, value, context)
            return out.sum() + log_det.sum()

        gradient = torch.func.vmap(torch.func.grad(total), in_dims=(0, axes))(side.value, side.context)
        close(gradient, wanted, 1e-9 * max(1.0, float(wanted.abs().max())), f"vmap of the gradient of {side.name}")
