"""An operation with a reference in plain torch and fused kernels beside it, and the one place that chooses between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, FlowkitError

Choice = Literal["reference", "fused"]
OPS: dict[str, Op] = {}
_CHOICE: list[Choice | None] = [None]  # a list, because torch.compile cannot trace a ContextVar


class KernelError(FlowkitError, RuntimeError):
    """A fused kernel was asked for that cannot serve here."""


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Force one implementation of every op, in all threads: ``with flowkit.kernels.use("reference"): flow.log_prob(x)``.

    Args:
        choice: ``reference``, plain torch; or ``fused``, which raises KernelError with the reason where no fused kernel can serve.
    """
    if choice not in ("reference", "fused"):
        raise ConfigError(f"kernels.use: expected 'reference' or 'fused'; got {choice!r}.")
    before, _CHOICE[0] = _CHOICE[0], choice
    try:
        yield
    finally:
        _CHOICE[0] = before


def chosen() -> Choice | None:
    """What ``use`` forces, or None."""
    return _CHOICE[0]


@dataclass(frozen=True)
class Fused:
    """A fused implementation.

    Args:
        call: takes what the reference takes.
        unavailable: why it cannot serve on this machine at all, or None; the first call may compile it.
        describe: what it is, in a few words.
        dtypes: of the tensors it takes.
    """

    call: Callable[..., Any]
    unavailable: Callable[[], str | None]
    describe: Callable[[], str]
    dtypes: frozenset[torch.dtype] = frozenset((torch.float32, torch.float64))


class Op:
    """An operation on tensors. Call it like its reference; it runs the fused kernel of the tensors' device where one can serve.

    The reference serves everywhere else, and whenever a transform of ``torch.func`` or a level of forward-mode differentiation
    is active: there a custom operator would return a zero tangent without an error.

    Args:
        name: as ``flowkit list kernels`` shows it.
        reference: plain torch.
        fused_gpu: the kernel for CUDA tensors, if there is one.
        fused_cpu: the kernel for CPU tensors, if there is one.
        supports: why the fused kernels cannot take these arguments, or None.
        examples: (rows=6) -> labelled float64 arguments with which ``flowkit.testing.check_op`` judges the op: tensors first, their
            first axis of that many rows, which do not depend on each other.
    """

    is_operator = True  # of torch too, as flowkit::name: what compiles or transforms sees it whole

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        fused_gpu: Fused | None,
        fused_cpu: Fused | None,
        supports: Callable[..., str | None],
        examples: Callable[..., Iterator[tuple[str, tuple[Any, ...]]]],
    ) -> None:
        self.name, self.reference, self.fused_gpu, self.fused_cpu, self.supports, self.examples = name, reference, fused_gpu, fused_cpu, supports, examples
        self.__doc__ = reference.__doc__
        OPS[name] = self

    def __call__(self, *args: Any) -> Any:
        choice = _CHOICE[0]
        if choice == "reference":
            return self.reference(*args)
        reason = self.reason(*args)
        if reason is None:
            fused = self.fused_gpu if args[0].is_cuda else self.fused_cpu
            assert fused is not None
            return fused.call(*args)
        if choice == "fused":
            raise KernelError(f"{self.name}: no fused kernel can serve: {reason}. Leave flowkit.kernels.use('fused') out to run the reference.")
        return self.reference(*args)

    def reason(self, *args: Any) -> str | None:
        """Why no fused kernel can serve this call, or None."""
        first: Tensor = args[0]
        device = first.device.type
        fused = self.fused_gpu if device == "cuda" else self.fused_cpu if device == "cpu" else None
        if fused is None:
            return f"there is none for {device} tensors"
        for tensor in args:
            if isinstance(tensor, Tensor):
                if tensor.dtype not in fused.dtypes:
                    return f"{tensor.dtype} is not one of {', '.join(sorted(map(str, fused.dtypes)))}"
                if tensor.dtype != first.dtype or tensor.device != first.device:
                    return "the tensors differ in dtype or device"
        if torch._C._are_functorch_transforms_active():
            return "a transform of torch.func is active"
        if torch.autograd.forward_ad._current_level >= 0:
            return "a level of forward-mode differentiation is active"
        return self.supports(*args) or fused.unavailable()

    def status(self) -> dict[str, str]:
        """For CPU and GPU: which implementation serves, and why where it is the reference."""
        found = {}
        for device, fused in (("cpu", self.fused_cpu), ("gpu", self.fused_gpu)):
            reason = "no kernel" if fused is None else fused.unavailable()
            found[device] = f"reference ({reason})" if reason or fused is None else f"fused: {fused.describe()}"
        return found

    def __repr__(self) -> str:
        return f"Op({self.name})"
