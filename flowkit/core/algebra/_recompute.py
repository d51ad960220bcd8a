"""A chain's backward pass that finds its activations again through the inverses, at constant memory.

1. The forward pass runs without a graph and keeps the output y_n, the context and the parameters, which are there anyway.
2. Backward, from the last part to the first: y_{i-1} = f_i^{-1}(y_i) without a graph; then f_i is evaluated at y_{i-1} with
   one, and the gradients of (y_i, log_det) are carried to y_{i-1}, the context and the parameters of f_i.
3. The graph of one part at a time exists, so memory does not depend on the number of parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from flowkit.core._places import parameter_places
from flowkit.core.algebra.contexts import part
from flowkit.core.checks import runs_eagerly
from flowkit.core.errors import ConfigError
from flowkit.core.transform import Transform


def must_recompute(chain: Transform, value: Tensor, context: Any) -> bool:
    """Whether this call builds a graph that can be saved; torch.compile and functorch keep their own books."""
    if not torch.is_grad_enabled() or not runs_eagerly():
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return False
    if any(isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in chain.modules()):
        raise ConfigError(f"{chain.who}: memory='invert' cannot draw the same dropout again. Call eval(), set dropout to 0, or use memory='store'.")
    inputs = [value, *_tensors(context), *chain.parameters()]
    return any(tensor.requires_grad for tensor in inputs)


def run_recomputing(steps: list[Any], value: Tensor, context: Any, inverse: bool, *, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the parts in the order given; ``masked`` flags events outside a part's domain in place of raising.

    Returns:
        value, log_det and, if masked, ``inside`` or None when every part's domain is all of R^n.
    """
    parameters = list({id(p): p for step in steps for p in step.parameters()}.values())
    run = _Run(steps, context, inverse, masked, parameters)
    out, log_det, inside = _Recomputing.apply(run, value, *run.context_parts, *parameters)  # type: ignore[no-untyped-call]
    return out, log_det, inside if run.restricted else None


class _Run:
    """One call of a chain: what to run, and where each saved tensor belongs."""

    def __init__(self, steps: list[Any], context: Any, inverse: bool, masked: bool, parameters: list[nn.Parameter]) -> None:
        self.steps, self.inverse, self.masked = steps, inverse, masked
        self.keys = tuple(context) if isinstance(context, Mapping) else None
        self.context_parts = _tensors(context)
        self.restricted = False
        position = {id(p): i + len(self.context_parts) for i, p in enumerate(parameters)}
        self.names: dict[Any, dict[int, list[str]]] = {}  # part -> position among the saved tensors -> names of that parameter
        for step in steps:
            names: dict[int, list[str]] = {}
            for name, parameter in parameter_places(step, "step"):
                names.setdefault(position[id(parameter)], []).append(name)
            self.names[step] = names

    def context(self, parts: list[Tensor]) -> Any:
        if self.keys is not None:
            return dict(zip(self.keys, parts, strict=True))
        return parts[0] if parts else None

    def step(self, step: Any, value: Tensor, context: Any, *, back: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """One part in the direction of the call, or back."""
        inverse = self.inverse != back
        if self.masked or back:  # a reconstructed point may lie a rounding error outside
            return step.masked(value, part(context, step), inverse=inverse)
        out, log_det = (step.inverse if inverse else step)(value, part(context, step))
        return out, log_det, None


class _Step(nn.Module):
    """One part as a module, so that it can be called with the parameters of a call."""

    def __init__(self, run: _Run, step: nn.Module) -> None:
        super().__init__()
        self.run, self.step = run, step

    def forward(self, value: Tensor, context: Any, back: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.run.step(self.step, value, context, back=back)


class _Recomputing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, value: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        context = run.context(list(tensors[: len(run.context_parts)]))
        total: Tensor | None = None
        inside: Tensor | None = None
        for step in run.steps:
            value, log_det, within = run.step(step, value, context, back=False)
            total = log_det if total is None else total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        assert total is not None
        value = value.clone() if value.is_leaf or value._is_view() else value
        ctx.run, ctx.autocast = run, _autocast_state(value.device.type)
        run.restricted = inside is not None
        ctx.save_for_backward(value, *tensors)
        if inside is not None:
            ctx.mark_non_differentiable(inside)
        return value, total, inside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor, grad_log_det: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        run: _Run = ctx.run
        value, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        sums: dict[int, Tensor] = {}
        with _autocast(ctx.autocast, value.device.type):
            for step in reversed(run.steps):
                value, grad_value = _step_back(run, step, value, grad_value, grad_log_det, tensors, wanted, sums)
        return None, grad_value, *(sums.get(position) for position in range(len(tensors)))


def _step_back(
    run: _Run, step: Any, value: Tensor, grad_value: Tensor, grad_log_det: Tensor, tensors: list[Tensor], wanted: tuple[bool, ...], sums: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """The point before a part and the gradient there; gradients of context and parameters are added to ``sums``."""
    split = len(run.context_parts)
    names = run.names[step]
    # the tensors of the call, not those the module holds by now: torch.func.functional_call may have lent it others
    at = [*range(split), *names]
    sources = {i: tensors[i].detach().requires_grad_(wanted[i]) for i in at}
    context = run.context([sources[i] for i in range(split)])
    lent = {name: sources[i] for i, found_names in names.items() for name in found_names}
    call = _Step(run, step)
    with torch.no_grad():
        before, _, _ = functional_call(call, lent, (value, context, True), tie_weights=False)
    at = [i for i in at if wanted[i]]
    with torch.enable_grad():
        before = before.detach().requires_grad_()
        out, log_det, _ = functional_call(call, lent, (before, context, False), tie_weights=False)
        pairs = [(o, g) for o, g in ((out, grad_value), (log_det, grad_log_det)) if o.requires_grad]
        found = torch.autograd.grad([o for o, _ in pairs], [before, *(sources[i] for i in at)], [g for _, g in pairs], allow_unused=True)
    for i, gradient in zip(at, found[1:], strict=True):
        if gradient is not None:
            sums[i] = sums[i] + gradient if i in sums else gradient
    return before.detach(), torch.zeros_like(before) if found[0] is None else found[0]


def _tensors(context: Any) -> list[Tensor]:
    if context is None:
        return []
    return list(context.values()) if isinstance(context, Mapping) else [context]


def _autocast_state(device: str) -> tuple[bool, torch.dtype] | None:
    if not torch.amp.is_autocast_available(device):
        return None
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _autocast(state: tuple[bool, torch.dtype] | None, device: str) -> AbstractContextManager[Any]:
    return nullcontext() if state is None else torch.autocast(device, enabled=state[0], dtype=state[1])
