"""Fixed elementwise maps one after the other as one op, with the log_det of the whole: a reference and a fused kernel.

A program such as ``"affine,sigmoid"`` names the steps in the order they are applied (``diagonal_steps``). Params (A, 2, n) hold shift and
log-scale of its A affine steps at n positions of the event, each of which stands for as many neighbouring elements as there are:
affine is x exp(log_scale) + shift, inverse_affine is (x - shift) exp(-log_scale).

Backward keeps value and params only and computes the rest again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flowkit.core.tally import tally
from flowkit.kernels.cpu import library
from flowkit.kernels.diagonal_steps import AFFINE, INVERSE_AFFINE, MAPS, NAMES, count, inverted, parse
from flowkit.kernels.gpu import diagonal_chain as gpu
from flowkit.kernels.op import Fused, Op
from flowkit.kernels.operators import Pair, operators

MOST_STEPS = 16


def _length(value: Tensor, event_dims: int) -> int:
    return value.shape[value.dim() - event_dims :].numel() if value.dim() else 1


def reference(value: Tensor, params: Tensor, program: str, event_dims: int, base: str) -> Pair:
    """The maps of a program one after the other, value (*B, *event) and params (A, 2, n) -> out (*B, *event) and log_det (*B), as ``tally``."""
    batch, length, positions = value.shape[: value.dim() - event_dims], _length(value, event_dims), params.shape[-1]
    x, slope, constant, taken = value.reshape(*batch, positions, length // positions), None, None, 0
    for name, number in parse(program):
        if name in MAPS:
            x, more = MAPS[name](x, number)
            slope = more if slope is None else slope + more
            continue
        shift, log_scale = params[taken].unsqueeze(-1).unbind(0)
        taken += 1
        if name == INVERSE_AFFINE:
            log_scale = -log_scale
        x = x * log_scale.exp() + shift if name == AFFINE else (x - shift) * log_scale.exp()
        constant = log_scale if constant is None else constant + log_scale
    dtype = torch.promote_types(x.dtype, torch.float32)
    same = None if constant is None else constant.sum(dtype=dtype) * (length // positions)
    if slope is None and base == "none":
        log_det = x.new_zeros(batch, dtype=dtype) if same is None else same.expand(batch)
        return x.reshape(value.shape), log_det
    out, log_det = tally(x, torch.zeros_like(x) if slope is None else slope, 2, base)
    return out.reshape(value.shape), log_det if same is None else log_det + same


def _supports(value: Tensor, params: Tensor, program: str, event_dims: int, base: str) -> str | None:
    steps, affine = count(program)
    if steps > MOST_STEPS:
        return f"{steps} steps are more than {MOST_STEPS}"
    if 0 < value.dim() < event_dims:
        return f"values {tuple(value.shape)} are not events of {event_dims} axes"
    length, shape = _length(value, event_dims), params.shape
    if params.dim() != 3 or shape[:2] != (affine, 2) or shape[2] == 0 or length % shape[2] != 0:
        return f"parameters {tuple(shape)} do not belong to {affine} affine steps on events of {length} elements"
    return None


@lru_cache(maxsize=256)
def _encoded(program: str) -> Tensor:
    """(steps, 2) code and number, as C++ reads them: in memory, whatever the default device is."""
    return torch.tensor([[NAMES.index(name), number] for name, number in parse(program)], dtype=torch.float64, device="cpu")


def _run(symbol: str, given: tuple[Tensor, ...], value: Tensor, params: Tensor, made: Pair, program: str, event_dims: int, base: str) -> None:
    length, steps = _length(value, event_dims), count(program)[0]
    sizes = (value.numel() // length, length, params.shape[-1])
    tensors = (*given, value, params, _encoded(program), *made)
    library.call(symbol, tensors, sizes, value.numel() * max(1, steps), steps, int(base == "normal"))


def _forward(value: Tensor, params: Tensor, program: str, event_dims: int, base: str) -> Pair:
    made = torch.empty_like(value), value.new_empty(value.shape[: value.dim() - event_dims])
    if value.numel():
        _run("diagonal_chain", (), value, params, made, program, event_dims, base)
    return made


def _backward(grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, program: str, event_dims: int, base: str) -> Pair:
    made = torch.empty_like(value), torch.empty_like(params)
    if value.numel() == 0:
        return made[0], made[1].zero_()
    _run("diagonal_chain_backward", (grad_out, grad_log_det), value, params, made, program, event_dims, base)
    return made


def _one_by_one(operator: Any, fake: Callable[..., Pair], count: int) -> Callable[..., tuple[Pair, tuple[int, int]]]:
    """The vmap rule where all events share params: a call for each entry, as each may have its own params."""

    def batched(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Pair, tuple[int, int]]:
        if info.batch_size == 0:
            made = fake(*(arg if dim is None else arg.new_empty(arg.movedim(dim, 0).shape[1:]) for arg, dim in zip(args, dims, strict=True)))
            return (made[0].new_empty((0, *made[0].shape)), made[1].new_empty((0, *made[1].shape))), (0, 0)
        calls = [operator(*(arg if dim is None else arg.select(dim, i) for arg, dim in zip(args, dims, strict=True))) for i in range(info.batch_size)]
        first, second = zip(*calls, strict=True)
        return (torch.stack(first), torch.stack(second)), (0, 0)

    return batched


_KERNELS: Any = {"cpu": _forward, "cuda": gpu.forward}, {"cpu": _backward, "cuda": gpu.backward}
_call = operators("diagonal_chain", "str program, int event_dims, str base", reference, *_KERNELS, batching=_one_by_one)


def _examples(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    yield "act_norm_sigmoid", (draw(rows, 3), 0.5 * draw(1, 2, 3), "affine,sigmoid", 1, "none")
    yield "standardize_tanh_affine_normal", (draw(rows, 5), 0.5 * draw(2, 2, 5), "affine,tanh,inverse_affine", 1, "normal")
    yield "images", (draw(rows, 4, 6), 0.5 * draw(1, 2, 4), "inverse_affine,softclip:3.0", 2, "none")
    yield "wide_affine", (draw(rows, 17, 16), 0.5 * draw(2, 2, 272), "affine,inverse_affine", 2, "normal")
    yield "logit", (torch.sigmoid(0.5 * draw(rows, 3)), 0.2 * draw(1, 2, 1), "logit:2.0,affine,exp,inverse_softplus", 1, "none")
    yield "positive", (draw(rows, 3), 0.5 * draw(0, 2, 1), "softplus,log,sigmoid:0.5,atanh", 1, "normal")
    yield "clipped", (torch.tanh(draw(rows, 3)), 0.5 * draw(0, 2, 3), "inverse_softclip:2.0", 1, "none")
    yield "normal", (draw(rows, 3), 0.5 * draw(0, 2, 1), "", 1, "normal")
    yield "elementwise", (draw(rows, 3), 0.5 * draw(1, 2, 1), "affine,tanh", 0, "normal")


diagonal_chain = Op("diagonal_chain", reference, gpu.fused(_call), Fused(_call, library.unavailable, library.describe), _supports, _examples)


@dataclass(frozen=True)
class Steps:
    """What a map contributes to a diagonal chain.

    Args:
        program: its steps.
        params: shift and log-scale of each affine step in turn, all of shapes that broadcast to the event.
    """

    program: str
    params: tuple[Tensor, ...] = ()

    def __add__(self, following: Steps) -> Steps:
        return Steps(",".join(part for part in (self.program, following.program) if part), self.params + following.params)

    def inverted(self) -> Steps:
        """The steps that undo these."""
        return Steps(inverted(self.program), sum((self.params[i - 2 : i] for i in range(len(self.params), 0, -2)), ()))

    def __call__(self, value: Tensor, event_dims: int, base: str = "none") -> Pair:
        """All steps in one pass: (*B, *event) -> (*B, *event) and log_det (*B), as ``tally``."""
        return diagonal_chain(value, self._table(value, event_dims), self.program, event_dims, base)

    def _table(self, value: Tensor, event_dims: int) -> Tensor:
        if not self.params:
            return value.new_empty((0, 2, 1))
        params, shape = self.params, self.params[0].shape
        # one number for each place on the first axis of the event serves as it is
        if any(part.shape != shape for part in params) or len(shape) != event_dims or shape[1:].numel() > 1:
            params = tuple(part.expand(value.shape[value.dim() - event_dims :]) for part in params)
        return torch.stack(params).reshape(len(params) // 2, 2, -1)
