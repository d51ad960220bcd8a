"""Whole layers in one call: a scalar map of some coordinates, whose parameters a dense network makes of others and of a context.

A coupling layer and the density pass of an autoregressive one are this. In plain eager calls on a CPU nothing but the network's states is
written to memory between the gathering and the scattering; where something has to see the parts (the compiler, transforms, dispatch modes,
autocast) they run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.tally import BASES, standard_log_normal
from flowkit.kernels._shortcut import _watched
from flowkit.kernels.cpu import library
from flowkit.kernels.cpu.conditioned import ACTIVATIONS, LARGEST, CpuConditioned, Plan
from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.op import Fused, Op, chosen

Pair = tuple[Tensor, Tensor]
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "silu": functional.silu,
}


class ConditionedOp(Op):
    """The op ``conditioned_NAME`` of layers over the scalar op NAME.

    Its arguments: value (*B, D), context (*B, C), then W1 (H1, G + C), b1 (H1), W2, b2, ... of the network in order, the coordinates that are
    given to the network (G of them) and those that are mapped (M), both as tuples, the activation, the map's constants and ``base``.
    The network's M * P outputs are the map's parameters. It returns the mapped value (*B, D) and log_det (*B).

    Args:
        scalar: the op of the map.
        cpu: the map's kernels.
        inverse: whether the op is the inverse of the map.
        count, limits, examples: as for ``scalar_ops``.
    """

    is_operator = False  # its parts are

    def __init__(
        self, scalar: Op, cpu: CpuScalarMap, inverse: bool, count: Callable[..., int], limits: Callable[..., str | None], examples: Callable[..., Any]
    ) -> None:
        self._scalar, self._count, self._limits, self._kernel = scalar, count, limits, CpuConditioned(cpu, inverse)
        self._layout = lru_cache(maxsize=1024)(self._make_layout)
        fused = Fused(self._call_fused, library.unavailable, library.describe)
        super().__init__(f"conditioned_{scalar.name}", self._parts, None, fused, lambda *args: None, partial(_examples, examples, count))

    def attempt(self, tensors: tuple[Tensor, ...], constants: tuple[Any, ...]) -> Pair | None:
        """What the fused kernel makes of the arguments, or None where it cannot serve."""
        plan = self._plan(tensors, constants) if chosen() != "reference" else "the reference is wanted"
        return None if isinstance(plan, str) else self._run(plan, tensors, constants)

    def carry(self, tensors: tuple[Tensor, ...], constants: tuple[Any, ...], score: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """``attempt``, and a score carried along: s' = J^-T (s - grad log_det), (*B, D), without a graph. None of what is given is mapped.

        1. Mapped coordinates: s' = (s - bend) / slope, bend = dl/dz; two products with the map alone.
        2. The given ones: s' = s - d/dc (s' . u(z; h(c)) + sum l(z; h(c))), one product with the network's Jacobian.
        """
        plan = self._plan(tensors, constants) if chosen() != "reference" else "the reference is wanted"
        value = tensors[0]
        if isinstance(plan, str) or score.shape != value.shape or score.dtype != value.dtype or not set(constants[0]).isdisjoint(constants[1]):
            return None
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            out, log_det = FlowkitLayer.apply(self, plan, constants, *tensors)
            made, states, *_ = out.grad_fn.saved_tensors
            held = [tensor.detach().contiguous() for tensor in tensors]
        else:
            held = [tensor.contiguous() for tensor in tensors]
            out, log_det, states = self._kernel.forward(plan, held, keep=True)
            made = out
        with torch.no_grad():
            here, zero, one = torch.zeros_like(held[0]), torch.zeros_like(held[0]), torch.ones_like(log_det)
            here[..., list(constants[1])] = 1.0
            slope = self._kernel.through_map(plan, (here, torch.zeros_like(one)), made, states, held)
            bend = self._kernel.through_map(plan, (zero, one), made, states, held)
            mapped = here > 0
            carried = torch.where(mapped, (score - bend) / slope, zero)
            passed = self._kernel.backward(plan, (carried, one), made, states, held, inputs=True, weights=False)[0]
            assert passed is not None
            return out, log_det, torch.where(mapped, carried, score - passed)

    def reason(self, *args: Any) -> str | None:
        plan = self._plan(*_split(args))
        return plan if isinstance(plan, str) else None

    def _plan(self, tensors: tuple[Tensor, ...], constants: tuple[Any, ...]) -> Plan | str:
        """The plan of a call, or why no fused kernel can serve it. Short of any loop it can do without: it runs for every layer."""
        value, context = tensors[:2]
        device, dtype = value.device, value.dtype
        if device.type != "cpu":
            return f"there is none for {device.type} tensors"
        if dtype not in (torch.float32, torch.float64):
            return f"{dtype} is not one of torch.float32, torch.float64"
        for tensor in tensors:
            if tensor.dtype is not dtype or tensor.device != device:
                return "the tensors differ in dtype or device"
        if torch.autograd.forward_ad._current_level >= 0 or torch.is_autocast_enabled("cpu") or _watched(tensors):
            return "something has to see the layer's parts"
        if value.dim() == 0 or value.shape[:-1] != context.shape[:-1]:
            return f"values {tuple(value.shape)} and contexts {tuple(context.shape)} are not of one batch"
        plan = self._layout(constants, value.shape[-1], context.shape[-1], *[tensor.shape for tensor in tensors[2:]])
        return plan if isinstance(plan, str) else library.unavailable() or plan

    def _make_layout(self, constants: tuple[Any, ...], features: int, contexts: int, *shapes: torch.Size) -> Plan | str:
        given, mapped, activation, *numbers, base = constants
        if activation not in ACTIVATIONS or base not in BASES:
            return f"there is no activation {activation!r} or base {base!r} in it"
        if not all(0 <= place < features for place in (*given, *mapped)):
            return f"coordinates {given} and {mapped} are not all among {features}"
        widths = [len(given) + contexts]
        for weight, bias in zip(shapes[::2], shapes[1::2], strict=True):
            if len(weight) != 2 or weight[1] != widths[-1] or bias != weight[:1]:
                return f"a layer of {widths[-1]} inputs has weights {tuple(weight)} and biases {tuple(bias)}"
            widths.append(weight[0])
        if min(widths) < 1 or sum(before * after for before, after in pairwise(widths)) > LARGEST:
            return f"a network of widths {widths} has no or more than {LARGEST} weights"
        if widths[-1] != len(mapped) * self._count(*numbers):
            return f"{widths[-1]} outputs are not {len(mapped) * self._count(*numbers)} parameters"
        return self._limits(*numbers) or self._kernel.plan(features, contexts, activation, widths, given, mapped, tuple(numbers), base)

    def _call_fused(self, *args: Any) -> Pair:
        tensors, constants = _split(args)
        plan = self._plan(tensors, constants)
        assert isinstance(plan, Plan)
        return self._run(plan, tensors, constants)

    def _run(self, plan: Plan, tensors: tuple[Tensor, ...], constants: tuple[Any, ...]) -> Pair:
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return FlowkitLayer.apply(self, plan, constants, *tensors)  # type: ignore[no-any-return]
        return self._kernel.forward(plan, [tensor.contiguous() for tensor in tensors], keep=False)[:2]

    def _parts(self, value: Tensor, context: Tensor, *rest: Any) -> Pair:
        """The reference."""
        weights, (given, mapped, activation, *numbers, base) = _split(rest)
        h = torch.cat([value[..., list(given)], context], dim=-1)
        for place in range(0, len(weights), 2):
            h = functional.linear(_FUNCTIONS[activation](h) if place else h, weights[place], weights[place + 1])
        index = torch.tensor(mapped, device=value.device)
        params = h.unflatten(-1, (len(mapped), self._count(*numbers)))
        moved, log_det = self._scalar.reference(value.index_select(-1, index), params, *numbers, 1, "none")
        out = value.index_copy(value.dim() - 1, index, moved)
        return out, log_det + standard_log_normal(out, 1) if base == "normal" else log_det


class FlowkitLayer(torch.autograd.Function):
    """A layer's kernel with its closed-form backward; a backward that is itself recorded differentiates the reference."""

    @staticmethod
    def forward(ctx: Any, op: ConditionedOp, plan: Plan, constants: tuple[Any, ...], *tensors: Tensor) -> Pair:
        out, log_det, states = op._kernel.forward(plan, [tensor.contiguous() for tensor in tensors], keep=True)
        made = out if plan.normal else out.new_empty(0)  # who changes the output in place may, where the backward does without it
        ctx.save_for_backward(made, states, *tensors)  # no contiguous copies: a backward that is recorded could not follow them
        ctx.call = (op, plan, constants)
        return out, log_det

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        op, plan, constants = ctx.call
        out, states, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or _watched((*grads, *tensors)):
            return (None, None, None, *_differentiate(op.reference, tensors, wanted, constants, grads))
        cotangents, given = ([tensor.contiguous() for tensor in some] for some in (grads, tensors))
        return (None, None, None, *op._kernel.backward(plan, cotangents, out, states, given, inputs=any(wanted[:2]), weights=any(wanted[2:])))


def _differentiate(reference: Any, inputs: Sequence[Tensor], wanted: Sequence[bool], constants: tuple[Any, ...], grads: tuple[Tensor, ...]) -> list[Any]:
    """Cotangents by the reference, recorded where gradients are."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # views: a cotangent that depends on an input through the graph must not be followed there
        held = [x.view_as(x) if again and x.requires_grad else x.detach().requires_grad_(need) for x, need in zip(inputs, wanted, strict=True)]
        outs, cotangents = zip(*((out, grad) for out, grad in zip(reference(*held, *constants), grads, strict=True) if out.requires_grad), strict=True)
        leaves = [tensor for tensor, need in zip(held, wanted, strict=True) if need]
        found = iter(torch.autograd.grad(outs, leaves, cotangents, create_graph=again, allow_unused=True))
    return [next(found) if need else None for need in wanted]


def _split(args: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """The tensors that come first, and the constants."""
    count = next(i for i, item in enumerate(args) if not isinstance(item, Tensor))
    return args[:count], args[count:]


def _examples(scalar_examples: Any, count: Callable[..., int], rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Layers over the map's own examples: a coupling with a context, and a layer whose network sees what is mapped."""
    generator = torch.Generator().manual_seed(0)
    for number, (label, (value, _, *constants)) in enumerate(scalar_examples(rows)):
        columns, activation = value.shape[-1], ACTIVATIONS[number % len(ACTIVATIONS)]
        whole = tuple(range(columns))
        contexts, given, mapped, base = (0, whole, whole, "normal") if number % 2 else (2, (0,), tuple(range(columns - 1, 0, -1)), "none")
        widths = (len(given) + contexts, 20, 17, len(mapped) * count(*constants))
        shapes = [shape for before, after in pairwise(widths) for shape in ((after, before), (after,))]
        weights = [torch.randn(shape, generator=generator, dtype=torch.float64) / 4 for shape in shapes]
        context = torch.randn(rows, contexts, generator=generator, dtype=torch.float64)
        yield f"{label}_{activation}", (value, context, *weights, given, mapped, activation, *constants, base)
