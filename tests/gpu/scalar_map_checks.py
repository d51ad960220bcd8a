"""What every scalar map in Triton owes its reference, on any device: run by the tests on a GPU and by a child process without one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from scalar_map_subjects import SUBJECTS, Subject
from torch import Tensor

from flowkit.core.tally import tally
from flowkit.kernels import OPS
from flowkit.kernels.gpu.scalar_map import DTYPES
from flowkit.kernels.op import Fused, Op
from flowkit.kernels.scalar_map import scalar_ops
from flowkit.testing.ops import same, worst

EXACT = 1e-12  # float64, of the largest entry
OWN_ERROR, FLOOR = 2.0, 3e-7  # float32: times the error of the reference, at least a few roundings of the largest entry
SIMPLE = 2e-6  # float32, of maps without division and sums over bins


@dataclass(frozen=True)
class Judged:
    """One direction of a map as an op on one device."""

    op: Op
    inverse: bool
    device: str
    subject: Subject
    thorough: bool

    @property
    def constants(self) -> tuple[tuple[Any, ...], ...]:
        """All constants to judge with, or the first."""
        return self.subject.constants if self.thorough else self.subject.constants[:1]

    def draw(self, shape: tuple[int, ...], constants: tuple[Any, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Values, with linear ends some beyond them, and parameters."""
        generator = torch.Generator().manual_seed(seed)
        count = self.subject.kernels.table(*constants).count
        value, params = torch.randn(shape, generator=generator, dtype=torch.float64), torch.randn(*shape, count, generator=generator, dtype=torch.float64)
        if len(constants) > 1:
            low, high, ends = constants[1:]
            beyond = 0.2 if ends == "linear" else 0.0
            value = low + (high - low) * (torch.rand(shape, generator=generator, dtype=torch.float64) * (1 + 2 * beyond) - beyond)
        params = self.subject.vary(params, *constants)
        return value.to(self.device, dtype), params.to(self.device, dtype)

    def plain(self, value: Tensor, params: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
        return tally(*self.subject.plain[self.inverse](value, params, *constants[:-2]), *constants[-2:])


class Interpreted:
    """The kernels of a map, on CPU tensors."""

    def __init__(self, kernels: Any) -> None:
        self.forward, self.backward = kernels.forward, kernels.backward

    def fused(self, call: Callable[..., Any]) -> Fused:
        return Fused(call, lambda: None, lambda: "interpreted", DTYPES)


def judged(device: str, thorough: bool = True) -> dict[str, Judged]:
    """All maps and their inverses, as ops of their own that nothing else sees."""
    found = {}
    for name, subject in SUBJECTS.items():
        kernels = {"gpu": subject.kernels, "cpu": None} if device == "cuda" else {"cpu": Interpreted(subject.kernels)}
        count = lambda *constants, subject=subject: subject.kernels.table(*constants).count  # noqa: E731
        ops = scalar_ops(f"judged_{name}", subject.schema, subject.plain, count=count, examples=lambda rows: iter(()), **kernels)
        for inverse, op in enumerate(ops):
            del OPS[op.name]
            found[op.name.replace("judged_", "")] = Judged(op, bool(inverse), device, subject, thorough)
    return found


def results(call: Callable[..., Any], value: Tensor, params: Tensor, *constants: Any) -> list[Tensor]:
    """Outputs, and gradients of a weighted sum of them."""
    value, params = value.detach().requires_grad_(), params.detach().requires_grad_()
    out = call(value, params, *constants)
    weights = [torch.cos(torch.arange(part.numel(), dtype=torch.float64)).reshape(part.shape).to(part) for part in out]
    return [*(part.detach() for part in out), *torch.autograd.grad(out, (value, params), weights)]


def compare(case: Judged, shape: tuple[int, ...], constants: tuple[Any, ...], event_dims: int, base: str, seed: int = 0) -> None:
    args = (*case.draw(shape, constants, seed=seed), *constants, event_dims, base)
    same(f"{shape} {constants} {event_dims} {base}", results(case.op, *args), results(case.plain, *args), EXACT)


def values(case: Judged) -> None:
    """Outputs and gradients of odd sizes, rows of one tile."""
    for constants in case.constants:
        for rows in (0, 1, 7, 63, 100, 128):
            compare(case, (rows, 3), constants, 1, "none", rows)
        compare(case, (130,), constants, 0, "normal")


def all_constants(case: Judged) -> None:
    """Outputs and gradients with every kind of ends, with slopes that are given where a map takes them."""
    for constants in case.subject.constants:
        compare(case, (3, 2, 5), constants, 2, "normal")


def long_rows(case: Judged) -> None:
    """Rows of several tiles: split between programs, and taken by one program each."""
    from flowkit.kernels.gpu import scalar_map

    for constants in case.constants:
        compare(case, (2, 150), constants, 1, "normal")
        compare(case, (1, 260), constants, 1, "none")
    before, scalar_map.PROGRAMS = scalar_map.PROGRAMS, 1
    try:
        compare(case, (2, 150), case.subject.constants[0], 1, "normal")
    finally:
        scalar_map.PROGRAMS = before


def many_bins(case: Judged) -> None:
    """More bins than a thread holds."""
    if not case.subject.simple:
        compare(case, (3, 5), (33, -3.0, 3.0, "linear"), 1, "none")
        compare(case, (2, 3), (64, 0.0, 1.0, "bounded"), 1, "none")


def float32_error(case: Judged) -> None:
    """In float32 errors are at most twice the reference's own, both against float64."""
    for constants in case.constants:
        for base in ("none", "normal") if case.thorough else ("normal",):
            value, params = case.draw((8000 if case.thorough else 2700, 3), constants, torch.float32, seed=2)
            true = results(case.plain, value.double(), params.double(), *constants, 1, base)
            plain = results(case.plain, value, params, *constants, 1, base)
            found = results(case.op, value, params, *constants, 1, base)
            judged = torch.ones_like(value, dtype=torch.bool) if case.subject.simple else ~beside_knots(case, value, params, constants, base)
            assert float(judged.double().mean()) > 0.99
            for place, (mine, other, right) in enumerate(zip(found, plain, true, strict=True)):
                kept = (judged,) if place >= 2 else ()  # which slope a value on a knot has is a matter of rounding
                error, own = worst(mine[kept], right[kept]), worst(other[kept], right[kept])
                assert error <= OWN_ERROR * max(own, FLOOR), f"{constants} {base}, tensor {place}: error {error:.1e}, of the reference {own:.1e}"
                assert not case.subject.simple or case.subject.loose or error <= SIMPLE, f"{constants} {base}, tensor {place}: error {error:.1e}"


def beside_knots(case: Judged, value: Tensor, params: Tensor, constants: tuple[Any, ...], base: str) -> Tensor:
    """Where gradients jump within a few roundings of the value."""
    step = 1e-6 * (constants[2] - constants[1])
    sides = [results(case.plain, value.double() + side, params.double(), *constants, 1, base)[2:] for side in (-step, step)]
    jumps = [(a - b).abs() > 1e-3 * a.abs().max() for a, b in zip(*sides, strict=True)]
    return jumps[0] | jumps[1].any(-1)


def half_precision(case: Judged) -> None:
    """bfloat16 and float16 are computed in float32: outputs are rounded once, log_det is of float32."""
    for dtype in (torch.bfloat16, torch.float16):
        for constants in case.constants:
            args = (*case.draw((41, 3), constants, dtype), *constants, 1, "none")
            true = results(case.plain, *(arg.double() if isinstance(arg, Tensor) else arg for arg in args))
            single = results(case.plain, *(arg.float() if isinstance(arg, Tensor) else arg for arg in args))
            found = results(case.op, *args)
            assert [part.dtype for part in found] == [dtype, torch.float32, dtype, dtype], [part.dtype for part in found]
            rounding = torch.finfo(dtype).eps
            for place in (0, 2, 3):
                assert worst(found[place], true[place]) <= rounding, f"{dtype}, tensor {place}: {worst(found[place], true[place]):.1e}"
            error, own = worst(found[1], true[1]), worst(single[1], true[1])
            assert error <= OWN_ERROR * max(own, FLOOR), f"{dtype}, log_det: error {error:.1e}, of the float32 reference {own:.1e}"


def layouts(case: Judged) -> None:
    """Strides do not matter; two runs are bitwise equal, and a row does not depend on the others."""
    for constants in case.constants:
        value, params = case.draw((63, 3), constants, torch.float32)
        rest = (*constants, 1, "normal")
        plain = results(case.op, value, params, *rest)
        same("again", results(case.op, value, params, *rest), plain)
        turned = (value.t().contiguous().t(), params.transpose(0, 1).contiguous().transpose(0, 1))
        spread = (torch.stack([value, value], 1)[:, 0], torch.stack([params, params], 1)[:, 0])
        for name, others in (("turned", turned), ("spread", spread)):
            same(name, case.op(*others, *rest), plain[:2])
        same("some rows", [part[60:] for part in case.op(value, params, *rest)], case.op(value[60:], params[60:], *rest))


@contextmanager
def guarded() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """New memory is full of NaN, and lies between stretches of NaN: yields (what was asked for, all of it)."""
    made: list[tuple[Tensor, Tensor]] = []
    empty_like, new_empty = torch.empty_like, Tensor.new_empty

    def guard(shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
        count = torch.Size(shape).numel()
        whole = torch.full((count + 256,), float("nan"), dtype=dtype, device=device)
        made.append((whole[128 : 128 + count].view(shape), whole))
        return made[-1][0]

    torch.empty_like = lambda tensor, **kind: guard(tensor.shape, kind.get("dtype", tensor.dtype), tensor.device)
    Tensor.new_empty = lambda self, size, **kind: guard(size, kind.get("dtype", self.dtype), self.device) if size != 0 else new_empty(self, size, **kind)
    try:
        yield made
    finally:
        torch.empty_like, Tensor.new_empty = empty_like, new_empty


def memory(case: Judged) -> None:
    """All of an output is written and nothing beside it; nothing beside an input is read."""
    kernels = case.subject.kernels
    for constants in case.constants:
        for shape, event_dims in (((41, 3), 1), ((2, 150), 1), ((5,), 0)):
            value, params = (fenced(tensor) for tensor in case.draw(shape, constants))
            rest = (*constants, event_dims, "normal")
            with guarded() as made:
                out, log_det = kernels.forward(case.inverse, value, params, *rest)
            grads = [fenced(torch.ones_like(part)) for part in (out, log_det)]
            with guarded() as made_too:
                cotangents = kernels.backward(case.inverse, *grads, value, params, *rest)
            for part in (out, log_det, *cotangents):
                assert bool(torch.isfinite(part).all()), f"{constants} {shape}: not all is written, or something strange is read"
            assert len(made) == 2 and len(made_too) == 2
            for part, whole in made + made_too:
                assert int(torch.isnan(whole).sum()) == whole.numel() - part.numel(), f"{constants} {shape}: something is written beside an output"


def fenced(tensor: Tensor) -> Tensor:
    """The same numbers, with NaN before and behind them in memory."""
    whole = torch.full((tensor.numel() + 8192,), float("nan"), dtype=tensor.dtype, device=tensor.device)
    return whole[4096 : 4096 + tensor.numel()].view(tensor.shape).copy_(tensor)


def strange_values(case: Judged) -> None:
    """NaN comes out where the reference has it; at the ends, far out and with extreme parameters all is as in the reference, or finite."""
    for constants in case.constants:
        rest = (*constants, 1, "none")
        for place in range(2):
            tensors = list(case.draw((9, 3), constants))
            tensors[place][3] = float("nan")
            same(f"{constants}, NaN in tensor {place}", case.op(*tensors, *rest), case.plain(*tensors, *rest), EXACT)
        if case.subject.simple:
            continue
        low, high = constants[1:3]
        value, params = case.draw((8, 3), constants)
        value[:, 0], value[:, 1] = low, high
        value[0], value[1], value[2] = 1e30, -torch.inf, torch.inf
        found, wanted = (results(call, value, params, *rest) for call in (case.op, case.plain))
        assert torch.allclose(found[0][:3], wanted[0][:3], rtol=EXACT, atol=0.0), f"{constants}: far out"  # infinities are equal to themselves
        # at the upper end the reference's own gradient is a matter of rounding, by its clamp of t to [0, 1]
        kept = [[part[0][3:], part[1], part[2][:, (0, 2)]] for part in (found, wanted)]
        same(f"{constants}, ends", *kept, EXACT)
        for dtype in (torch.float32, torch.float64):
            value, params = case.draw((8, 3), constants, dtype)
            for part in results(case.op, value, 50 * params, *rest):
                assert bool(torch.isfinite(part).all()), f"{constants}, {dtype}: not finite with large parameters"


def operator(case: Judged) -> None:
    """``torch.library.opcheck``, first and second derivatives."""
    constants = (2, -1.0, 1.0, "bounded") if len(case.subject.constants[0]) > 1 else case.subject.constants[0]
    for event_dims, base in ((1, "normal"), (0, "none")) if case.thorough else ((1, "normal"),):
        value, params = case.draw((1, 2), constants)
        inputs = (value.requires_grad_(), params.requires_grad_(), *constants, event_dims, base)
        registered = getattr(torch.ops.flowkit, case.op.name).default
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.library.opcheck(registered, inputs)
        assert torch.autograd.gradcheck(case.op, inputs, fast_mode=not case.thorough)
    assert torch.autograd.gradgradcheck(case.op, inputs, fast_mode=True)


CHECKS: dict[str, Callable[[Judged], None]] = {
    check.__name__: check for check in (values, all_constants, long_rows, many_bins, float32_error, half_precision, layouts, memory, strange_values, operator)
}
