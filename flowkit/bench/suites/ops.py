"""Every op with a fused kernel: reference, compiled reference, fused kernel, and for the spline the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowkit.bench.contender import Check, Contender, Group, refused
from flowkit.bench.peers.peer import present
from flowkit.bench.report import Case
from flowkit.bench.session import Session
from flowkit.bench.splines import CHECKED, SplineJob, judged
from flowkit.bench.suites.suite import Suite
from flowkit.core.errors import UnknownNameError, nearest
from flowkit.kernels import OPS, use
from flowkit.kernels.op import Op

ROWS, COLUMNS = 4096, 16
TILES = (64, 4)  # times as many rows and columns on a GPU: 262144 x 64
ROUNDS = 15


class Ops(Suite):
    """The ops."""

    name, title = "ops", "Ops"
    about = (
        "Each op on its examples, scaled up, in float32: by its fused kernel, by the reference in plain torch, and by the compiled reference. 'Forward and "
        "backward' adds the gradients of the sum of all outputs in every tensor. The floor is the time in which as many bytes are copied as the op has to read "
        "and to write. Results are verified against the reference in float64; one entry in "
        "ten thousand of a gradient is left out, because at a knot it jumps. zuko's spline squashes its parameters before the softmax: it is given those that "
        "make the same bins, and its gradients are compared through that map; flowjax's also has slopes at the ends, set to 1."
    )

    def cases(self, session: Session) -> Iterator[Case]:
        for op in chosen(session):
            labels = set()
            for label, args in scaled(op, session):
                labels.add(label)
                for backward in (False, True):
                    torch.compiler.reset()
                    case = session.compare(
                        f"{op.name}, {label}, {'forward and backward' if backward else 'forward'}", contenders(op, args, backward, session), ROUNDS
                    )
                    case.notes.append(f"Shapes {', '.join('x'.join(map(str, arg.shape)) for arg in args if isinstance(arg, Tensor))}.")
                    case.notes += bandwidth(case, moved(op, args, backward))
                    yield case
                if session.setting.op is None:
                    break


def chosen(session: Session) -> list[Op]:
    """The op asked for, or all that have a fused kernel for the device, but for whole layers, which the suites of flows measure."""
    device, name = session.setting.device, session.setting.op
    able = {known: op for known, op in sorted(OPS.items()) if op.is_operator and (op.fused_gpu if device == "cuda" else op.fused_cpu) is not None}
    if name is None:
        return list(able.values())
    if name not in OPS:
        raise UnknownNameError(f"bench: no op named '{name}'. {nearest(name, OPS)} List them with: flowkit list kernels")
    return [OPS[name]]


def scaled(op: Op, session: Session) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The op's examples in float32, with about 4096 x 16 elements; rows do not depend on each other, so they may be put side by side."""
    rows, columns = (64, 4) if session.setting.quick else (ROWS, COLUMNS)
    small = dict(op.examples(2))
    for label, args in op.examples(rows * columns):
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        widths = {tensor.shape[1:2] for tensor in tensors}
        side_by_side = len(widths) == 1 and len(tensors[0].shape) > 1 and all(len(tensor) == rows * columns for tensor in tensors)
        keep = max(1, rows * columns * small[label][0].shape[0] // max(small[label][0].numel(), 1))

        def fit(tensor: Tensor, side_by_side: bool = side_by_side, keep: int = keep) -> Tensor:
            shared = len(tensor) != rows * columns
            tensor = tensor[:, 0].unflatten(0, (rows, columns)) if side_by_side else tensor if shared else tensor[:keep]
            tensor = tensor.to(torch.float32).contiguous().to(session.setting.device)
            if shared or session.setting.device != "cuda" or session.setting.quick:
                return tensor
            return tensor.repeat(*(TILES if side_by_side else (TILES[0] * TILES[1],)), *[1] * (tensor.dim() - (2 if side_by_side else 1)))

        yield label, tuple(fit(arg) if isinstance(arg, Tensor) else arg for arg in args)


def run(call: Callable[..., Any], args: tuple[Any, ...], backward: bool) -> list[Tensor]:
    """Outputs, and with ``backward`` the gradients of their sum."""
    if not backward:
        with torch.no_grad():
            return listed(call(*args))
    args = tuple(arg.detach().requires_grad_() if isinstance(arg, Tensor) else arg for arg in args)
    out = listed(call(*args))
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    grads = torch.autograd.grad(torch.stack([part.sum() for part in out]).sum(), tensors, materialize_grads=True)
    return [*(part.detach() for part in out), *grads]


def listed(out: Any) -> list[Tensor]:
    """Outputs as a list, also where there is one only."""
    return [out] if isinstance(out, Tensor) else list(out)


def contenders(op: Op, args: tuple[Any, ...], backward: bool, session: Session) -> Iterator[Contender]:
    """Fused, reference, compiled reference, for the spline the peers, and the floor."""
    maker = _Maker(op, args, backward, session)
    if op.reason(*args) is None:
        yield maker.make("flowkit, fused", op)
    yield maker.make("flowkit, reference", op.reference)
    if not session.setting.quick:
        yield maker.make("flowkit, reference, torch.compile", torch.compile(op.reference, dynamic=False))
    job = spline_job(op, args, backward)
    if job is not None:
        for peer in present(session):
            try:
                yield from list(peer.splines(job, session))
            except Exception as error:  # a peer may raise anything; the others are to be timed all the same
                yield refused(peer.name, error)
    yield maker.copy()


def spline_job(op: Op, args: tuple[Any, ...], backward: bool) -> SplineJob | None:
    """What the peers are given, where the op is the spline that they have too."""
    if op.name != "rational_quadratic_spline":
        return None
    x, params, bins, low, high, ends, event_dims, base = args
    return SplineJob(x, params, bins, high, backward) if ends == "linear" and low == -high and event_dims == 1 and base == "none" else None


@dataclass
class _Maker:
    """Contenders of one op on the same arguments."""

    op: Op
    args: tuple[Any, ...]
    backward: bool
    session: Session

    @cached_property
    def truth(self) -> list[Tensor]:
        """Outputs, and with ``backward`` gradients, of the reference in double precision: on the leading rows, unless rows share a tensor."""
        alike = len({len(arg) for arg in self.args if isinstance(arg, Tensor)}) > 1
        doubled = tuple(arg[: None if alike else CHECKED].double() if isinstance(arg, Tensor) else arg for arg in self.args)
        return run(self.op.reference, doubled, self.backward)

    def make(self, name: str, call: Callable[..., Any], group: Group = "ours") -> Contender:
        def check() -> Check:
            true = self.truth
            with use("fused") if call is self.op else use("reference"):
                found = run(call, self.args, self.backward)
            outputs = len(true) - (sum(isinstance(arg, Tensor) for arg in self.args) if self.backward else 0)
            return judged(found, true, outputs, "outputs and gradients" if self.backward else "outputs")

        return Contender(name, self.session.timer(lambda: run(call, self.args, self.backward)), check, group)

    def copy(self) -> Contender:
        """A copy that reads and writes as many bytes as the op must."""
        source = torch.zeros(max(moved(self.op, self.args, self.backward) // 8, 1), device=self.session.setting.device)
        target = torch.empty_like(source)
        return Contender("copying the same bytes", self.session.timer(lambda: target.copy_(source)), None, "floor")


def moved(op: Op, args: tuple[Any, ...], backward: bool) -> int:
    """Bytes that must be read and written; a backward reads the inputs again, and the cotangents."""
    inputs = sum(arg.numel() * arg.element_size() for arg in args if isinstance(arg, Tensor))
    outputs = sum(part.numel() * part.element_size() for part in run(op, args, False))
    return 3 * inputs + 2 * outputs if backward else inputs + outputs


def bandwidth(case: Case, size: int) -> list[str]:
    """What share of a copy's bandwidth the leader reaches."""
    times = {row.name: row.median for row in case.rows}
    mine, copy = times.get("flowkit, fused"), times.get("copying the same bytes")
    if not mine or not copy:
        return []
    reached, most = size / mine / 1e9, size / copy / 1e9
    return [f"{size / 1e6:.3g} MB to move: {reached:.1f} GB/s by the fused kernel, {100 * reached / most:.0f} % of a copy's {most:.1f} GB/s."]
