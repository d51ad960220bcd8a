"""The conformance suite of ops: what a fused kernel owes its reference."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.op import KernelError, Op, use
from flowkit.testing._case import Case
from flowkit.testing._compare import expect
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import OP

SIZES = (0, 1, 7, 63, 100, 128)
EXACT, EXACT_GRADIENT = 1e-12, 1e-11  # float64, relative to the largest entry
OWN_ERROR = 2.0  # times the error of the reference in float32
DRAWS = 40
FLOOR = 3e-7  # a few roundings of the largest entry, which any order of float32 operations may cost


def check_op(op: Op, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Judge an op at its ``examples()``: its fused kernel against its reference, and its calls under every transform.

    Args:
        op: the op.
        only: names of checks to run, default all that apply.
        case: unused but for its seed.

    Raises:
        ConformanceError: some checks failed; the message has a line for each.
    """
    return OP.run_all(op, only, case)


def fused_here(op: Op) -> bool:
    """Whether a fused CPU kernel can serve on this machine."""
    return op.fused_cpu is not None and op.fused_cpu.unavailable() is None


def parts(args: tuple[Any, ...]) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Tensors and constants of a call."""
    count = sum(isinstance(arg, Tensor) for arg in args)
    return list(args[:count]), args[count:]


def results(call: Callable[..., Any], args: tuple[Any, ...]) -> list[Tensor]:
    """Outputs, then gradients of a weighted sum of them in every tensor."""
    tensors, constants = parts(args)
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = call(*tensors, *constants)
    weights = [torch.cos(torch.arange(part.numel(), dtype=torch.float64)).reshape(part.shape).to(part.dtype) for part in out]
    return [part.detach() for part in out] + list(torch.autograd.grad(out, tensors, weights, materialize_grads=True))


def cast(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(arg.to(dtype) if isinstance(arg, Tensor) else arg for arg in args)


def examples(op: Op, rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield from op.examples(rows)


def shared(op: Op) -> dict[str, list[bool]]:
    """For each example, which of its tensors all rows share: those whose shape does not depend on the number of rows."""
    few, more = dict(examples(op, 2)), dict(examples(op, 3))
    return {label: [a.shape == b.shape for a, b in zip(parts(few[label])[0], parts(more[label])[0], strict=True)] for label in few}


def axes(alike: list[bool], axis: int) -> tuple[int | None, ...]:
    """``in_dims`` that map the rows, at ``axis``, and leave what they share."""
    return tuple(None if same_for_all else axis for same_for_all in alike)


def worst(found: Tensor, true: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((found.double() - true.double()).abs().max() / true.double().abs().max().clamp(min=1e-300)) if true.numel() else 0.0


def in_draws(args: tuple[Any, ...], alike: list[bool]) -> Iterator[tuple[Any, ...]]:
    """A call in float32 as many calls of equally many rows."""
    tensors, constants = parts(cast(args, torch.float32))
    for number in range(DRAWS):
        yield (*(tensor if same_for_all else tensor.chunk(DRAWS)[number] for tensor, same_for_all in zip(tensors, alike, strict=True)), *constants)


def errors_of_draw(op: Op, args: tuple[Any, ...]) -> list[tuple[float, float]]:
    """For each output and gradient the largest error of the kernel and of the reference."""
    true = results(op.reference, cast(args, torch.float64))
    with use("fused"):
        fused = results(op, args)
    return [(worst(mine, right), worst(plain, right)) for mine, plain, right in zip(fused, results(op.reference, args), true, strict=True)]


def same(who: str, found: Any, wanted: Any, tolerance: float = 0.0) -> None:
    """Equal tensors: bitwise, or within a tolerance of the largest entry; NaN where the other is."""
    for place, (mine, other) in enumerate(zip(found, wanted, strict=True)):
        expect(mine.shape == other.shape and mine.dtype == other.dtype, f"{who}, tensor {place}: {mine.shape} {mine.dtype} for {other.shape} {other.dtype}")
        nan = torch.isnan(other)
        expect(bool((torch.isnan(mine) == nan).all()), f"{who}, tensor {place}: NaN in other places")
        error = worst(mine.masked_fill(nan, 0), other.masked_fill(nan, 0))
        expect(error <= tolerance, f"{who}, tensor {place}: differs by {error:.2e} of the largest entry")


@register(OP, applies=fused_here)
def _values(op: Op, case: Case) -> None:
    """In float64 outputs and gradients are the reference's, for odd sizes, the empty batch and single numbers."""
    for rows in SIZES:
        for label, args in examples(op, rows):
            with use("fused"):
                found = results(op, args)
            wanted, outputs = results(op.reference, args), len(found) - len(parts(args)[0])
            same(f"{label}, {rows} rows", found[:outputs], wanted[:outputs], EXACT)
            same(f"{label}, {rows} rows, gradients", found[outputs:], wanted[outputs:], EXACT_GRADIENT)
    for label, args in examples(op) if op.is_operator else ():
        (tensors, constants), alike = parts(args), shared(op)[label]
        number = (0,) * (tensors[0].dim() if any(alike) else 2)
        single = (*(tensor[..., :1] if same_for_all else tensor[number] for tensor, same_for_all in zip(tensors, alike, strict=True)), *constants)
        same(f"{label}, one number", op(*single), op.reference(*single), EXACT)


@register(OP, applies=fused_here)
def _float32_error(op: Op, case: Case) -> None:
    """In float32 the kernel's error is at most twice the reference's own, both against the reference in float64.

    Of the largest errors in each of many draws the median counts: near a steep end single ones are as large as chance has it.
    """
    for label, args in examples(op, DRAWS * 200):
        errors = [errors_of_draw(op, part) for part in in_draws(args, shared(op)[label])]
        for place, pairs in enumerate(zip(*errors, strict=True)):
            error, own = (statistics.median(column) for column in zip(*pairs, strict=True))
            expect(error <= OWN_ERROR * max(own, FLOOR), f"{label}, tensor {place}: error {error:.1e} where the reference has {own:.1e}")


@register(OP, applies=fused_here)
def _layouts(op: Op, case: Case) -> None:
    """Strides do not matter, nor what lay in the memory that the kernel writes to."""
    for label, args in examples(op, 63):
        tensors, constants = parts(args)
        spread = [torch.stack([tensor, tensor.flip(0)], dim=1)[:, 0] for tensor in tensors]
        turned = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in tensors]
        with use("fused"):
            plain = results(op, args)
            poison = [torch.full_like(tensor, float("nan")) for tensor in (*tensors, *tensors)]
            del poison
            for name, others in (("spread", spread), ("turned", turned)):
                same(f"{label}, {name}", op(*others, *constants), plain[: len(plain) - len(tensors)])
            same(f"{label}, again", results(op, args), plain)


@register(OP, applies=fused_here)
def _threads(op: Op, case: Case) -> None:
    """The number of threads does not change a bit."""
    count = torch.get_num_threads()
    try:
        for label, args in examples(op, 20_001):
            torch.set_num_threads(1)
            alone = results(op, args)
            torch.set_num_threads(3)
            same(label, results(op, args), alone)
    finally:
        torch.set_num_threads(count)


@register(OP, applies=fused_here)
def _not_a_number(op: Op, case: Case) -> None:
    """NaN in any tensor comes out where the reference has it."""
    for label, args in examples(op, 40):
        tensors, constants = parts(args)
        for place in range(len(tensors)):
            broken = [tensor.clone() for tensor in tensors]
            broken[place][(0 if shared(op)[label][place] else 3) :][:1] = float("nan")
            same(f"{label}, NaN in tensor {place}", op(*broken, *constants), op.reference(*broken, *constants), EXACT)


@register(OP, applies=fused_here)
def _refusals(op: Op, case: Case) -> None:
    """Half precision takes the reference, and a forced kernel says why it cannot serve."""
    for label, args in examples(op):
        half = cast(args, torch.bfloat16)
        same(label, op(*half), op.reference(*half))
        try:
            with use("fused"):
                op(*half)
        except KernelError as error:
            expect("bfloat16" in str(error), f"{label}: the error does not say why: {error}")
        else:
            expect(False, f"{label}: use('fused') fell back silently")


@register(OP)
def _derivatives(op: Op, case: Case) -> None:
    """Gradients are those of the function, by differences."""
    for label, args in examples(op, 2):
        tensors, constants = parts(args)
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        expect(torch.autograd.gradcheck(lambda *given: op(*given, *constants), inputs), label)  # noqa: B023  called at once


@register(OP)
def _double_backward(op: Op, case: Case) -> None:
    """Gradients of gradients, and those of third order, are the reference's."""
    for label, args in examples(op):
        found = []
        for call in (op, op.reference):
            tensors, constants = parts(args)
            inputs = [tensor.clone().requires_grad_() for tensor in tensors]
            out, total = call(*inputs, *constants), torch.zeros((), dtype=inputs[0].dtype)
            grads: list[Tensor] = []
            inputs = [tensor for tensor in inputs if tensor.numel()]  # nothing depends on a tensor without entries
            for _ in range(3):
                first = torch.autograd.grad([(0.1 * part).sin().sum() + total for part in out], inputs, create_graph=True)
                total = torch.stack([(0.1 * part).sin().sum() for part in first]).sum()
                grads += first
            found.append([grad.detach() for grad in grads])
        same(label, found[0], found[1], 1e-8)


@register(OP)
def _transforms(op: Op, case: Case) -> None:
    """jvp, forward-mode levels, jacfwd, jacrev, vmap, vmap of grad and batched gradients are the reference's."""
    for label, args in examples(op):
        tensors, constants = parts(args)
        directions = [torch.sin(torch.arange(tensor.numel(), dtype=tensor.dtype)).reshape(tensor.shape) for tensor in tensors]
        found = []
        for call in (op, op.reference):

            def function(*given: Tensor, call: Callable[..., Any] = call, constants: tuple[Any, ...] = constants) -> Any:
                return call(*given, *constants)

            found.append(list(_transformed(function, tensors, directions, shared(op)[label])))
        for (name, mine), (_, other) in zip(*found, strict=True):
            same(f"{label}, {name}", mine, other, EXACT)


def _transformed(function: Callable[..., Any], tensors: list[Tensor], directions: list[Tensor], alike: list[bool]) -> Iterator[tuple[str, Any]]:
    places = tuple(range(len(tensors)))
    rows = [tensor if same_for_all else tensor[:2] for tensor, same_for_all in zip(tensors, alike, strict=True)]

    def total(*given: Tensor) -> Tensor:
        return sum((part.sin().sum() for part in function(*given)), torch.zeros((), dtype=given[0].dtype))

    yield "jvp", [part for pair in torch.func.jvp(function, tuple(tensors), tuple(directions)) for part in pair]
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(tensor, direction) for tensor, direction in zip(tensors, directions, strict=True)]
        yield "dual level", [torch.autograd.forward_ad.unpack_dual(part).tangent for part in function(*duals)]
    for name, jacobian in (("jacfwd", torch.func.jacfwd), ("jacrev", torch.func.jacrev)):
        yield name, [part for pair in jacobian(function, argnums=places)(*rows) for part in pair]
    yield "vmap", torch.func.vmap(function, in_dims=axes(alike, 0))(*tensors)
    if any(alike):  # an entry of an event is not an event for tensors that have its positions
        pairs = [tensor if same_for_all else torch.stack([tensor, tensor.flip(0)], dim=1) for tensor, same_for_all in zip(tensors, alike, strict=True)]
        yield "vmap over axis 1", torch.func.vmap(function, in_dims=axes(alike, 1))(*pairs)
        sets = [torch.stack([tensor, tensor.flip(0)]) if same_for_all else tensor for tensor, same_for_all in zip(tensors, alike, strict=True)]
        yield "vmap over what rows share", torch.func.vmap(function, in_dims=tuple(0 if same_for_all else None for same_for_all in alike))(*sets)
    else:
        yield "vmap over axis 1", torch.func.vmap(function, in_dims=1)(*tensors)
    yield "vmap(grad)", torch.func.vmap(torch.func.grad(total, argnums=places), in_dims=axes(alike, 0))(*tensors)
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    out = function(*inputs)
    seeds = [torch.stack([torch.ones_like(part), part.detach().cos()]) for part in out]
    yield "batched gradients", torch.autograd.grad(out, [tensor for tensor in inputs if tensor.numel()], seeds, is_grads_batched=True)


@register(OP, applies=lambda op: fused_here(op) and op.is_operator)
def _operator(op: Op, case: Case) -> None:
    """``torch.library.opcheck`` of the fused operator."""
    assert op.fused_cpu is not None
    for _, args in examples(op):
        tensors, constants = parts(args)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operator: Any = getattr(torch.ops.flowkit, op.name).default
            torch.library.opcheck(operator, (*(tensor.requires_grad_() for tensor in tensors), *constants))


@register(OP, costly=True)
def _compiled(op: Op, case: Case) -> None:
    """``torch.compile(fullgraph=True)`` gives the same, and sees the fused operator's graph whole."""
    for label, args in list(examples(op))[:1]:
        torch.compiler.reset()
        compiled = torch.compile(lambda *given: op(*given), fullgraph=True, backend="aot_eager")
        same(label, results(compiled, args), results(op, args), EXACT)
        tensors, constants = parts(args)
        mapped = torch.func.vmap(lambda *row, constants=constants: op(*row, *constants), in_dims=axes(shared(op)[label], 0))
        compiled_vmap = torch.compile(lambda *given, mapped=mapped: mapped(*given), fullgraph=True, backend="aot_eager")
        same(f"{label}, vmap inside", compiled_vmap(*tensors), op(*args), EXACT)
