"""``compile``: a flow whose maps run through torch.compile, one program for each kind of map."""

from __future__ import annotations

import copy
import functools
import logging
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowkit.core._rows import map_context
from flowkit.core.checks import check_finite, runs_eagerly
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context, Shape, whole_number
from flowkit.core.transform import Transform
from flowkit.kernels import op

MODULE = TypeVar("MODULE", bound=nn.Module)
FEW = 24  # operations of a call that a CPU runs as fast one by one; layers over fused kernels have 4 to 18, those over plain torch 34 to 500
BUFFERED = frozenset(("mask", "order", "adjacency", "seed"))  # lists and numbers that maps make buffers from: layers differ in them and share a program
_LOG = logging.getLogger(__name__)
_Pair = tuple[Tensor, Tensor]


def compile(model: MODULE, *, backend: str | None = None, graph_rows: int | None = None) -> MODULE:
    """The same flow with its maps compiled; parameters and buffers are shared, so training either trains both.

    Maps of equal structure and constants share one program, whose first axis is of any size: the time to compile does not grow with depth, and
    no batch of another size, such as the last of an epoch, compiles again. Batches of fewer than two events run as they are, as does
    what draws, iterates, or solves coordinate by coordinate. The result is a flow of the same class with the same ``state_dict``;
    it saves, copies and conditions as the flow does, and raises the same errors. A map that torch cannot compile runs as it is, and the
    log says so.

    On a CPU only maps of many operations are compiled: those over fused kernels gain nothing there, the others (Bernstein polynomials,
    sums of squares, mixtures, networks that are monotone) are worth the seconds of a C++ compiler; ``python benchmarks/compile_time.py``
    measures both. On a GPU every map is compiled. Its kernels are launched one by one, except in batches of ``graph_rows`` events: these
    replay CUDA graphs, which is faster where kernels are small. Other sizes, such as the last batch of an epoch, capture nothing. Second
    derivatives go through ``model`` itself: torch.compile gives first ones.

    Args:
        model: a flow, or a module that holds maps.
        backend: of torch.compile, and then for every map; None chooses per map and device.
        graph_rows: events of a batch that replays CUDA graphs, such as the batch size of a training; None for none.

    Returns:
        the compiled flow; ``model`` is left as it was.

    Raises:
        ConfigError: there is no map to compile, or ``graph_rows`` is not a whole number from 2.

    Example:
        >>> import torch, flowkit as fk
        >>> flow = fk.flows.RealNVP(2, layers=2)
        >>> fast = fk.compile(flow)
        >>> torch.allclose(fast.log_prob(torch.ones(8, 2)), flow.log_prob(torch.ones(8, 2)))
        True
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"compile: expected a flow; got {type(model).__name__}.")
    if graph_rows is not None:
        whole_number(graph_rows, "compile", "graph_rows", 2)
    kept: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):  # the dictionaries too: .to(device) and load_state_dict reach both
            kept[id(held)] = held
            kept |= {id(tensor): tensor for tensor in held.values() if tensor is not None}
    made = copy.deepcopy(model, kept)
    maps = [module for module in made.modules() if isinstance(module, Transform)]
    if not maps:
        raise ConfigError(f"compile: {type(model).__name__} holds no map of flowkit. Use torch.compile for other modules.")
    for step in maps:
        if not any(isinstance(part, Transform) for part in step.modules() if part is not step):
            region = step.__dict__["_formula"] = _Region(step, backend, graph_rows)
            if type(step).masked_normal is not Transform.masked_normal:
                step.__dict__["masked_normal"] = region.masked_normal
    return made


class _Region:
    """What a map of a compiled flow does in place of its ``_formula``, and of a ``masked_normal`` that goes around that."""

    def __init__(self, step: Transform, backend: str | None, graph_rows: int | None) -> None:
        self.step, self.backend, self.graph_rows = step, backend, graph_rows
        self._kind: _Kind | None = None  # found at the first call: a pickled map is not whole before

    def __getstate__(self) -> dict[str, Any]:
        return {"step": self.step, "backend": self.backend, "graph_rows": self.graph_rows, "_kind": None}

    def __call__(self, value: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> _Pair:
        step = self.step
        event = step.out_shape if inverse else step.in_shape
        batch = value.shape[: value.dim() - len(event)]
        if not runs_eagerly() or batch.numel() < 2 or torch._C._len_torch_dispatch_stack() or torch.autograd.forward_ad._current_level >= 0:
            return self._as_it_is(value, context, generator, inverse)
        kind, call = self._of_kind(), _call(inverse, value)
        chosen = kind.choice(step, call)
        if chosen is None:
            with _Count() as count:
                result = self._as_it_is(value, context, generator, inverse)
            kind.decide(call, count.operations)
            return result
        graph = self.graph_rows == batch.numel() and value.is_cuda
        found = kind.run(step, call, _rows(value, event), map_context(context, step.context_shape, _rows), graph) if chosen else None
        if found is None:
            return self._as_it_is(value, context, generator, inverse)
        out, log_det = found
        check_finite(step._who_call(inverse), out, log_det)
        return out.reshape(*batch, *out.shape[1:]), log_det.reshape(batch)

    def masked_normal(self, value: Tensor, context: Any = None, *, inverse: bool, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """The map's own where its formula runs as it is; else by ``_formula``."""
        step = self.step
        own = runs_eagerly() and self._of_kind().choice(step, _call(inverse, value)) is False
        return (type(step) if own else Transform).masked_normal(step, value, context, inverse=inverse, generator=generator)

    def _of_kind(self) -> _Kind:
        if self._kind is None:
            self._kind = _kind(_structure(self.step), self.backend)
        return self._kind

    def _as_it_is(self, value: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> _Pair:
        return type(self.step)._formula(self.step, value, context, generator, inverse)


class _Call(NamedTuple):
    """What of a call decides which operations it is made of, besides the map: its direction, and what chooses the kernels."""

    inverse: bool
    device: str
    dtype: torch.dtype
    kernels: op.Choice | None


def _call(inverse: bool, value: Tensor) -> _Call:
    return _Call(inverse, value.device.type, value.dtype, op._CHOICE[0])


class _Kind:
    """Maps of one structure: what is known about compiling them, and their programs."""

    def __init__(self, backend: str | None) -> None:
        self.backend = backend
        self._choices: dict[_Call, bool] = {}
        self._programs: dict[tuple[_Call, bool, int], Callable[..., _Pair]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kind:
        return self

    def choice(self, step: Transform, call: _Call) -> bool | None:
        """Whether to compile such a call; None while that is not known."""
        known = self._choices.get(call)
        if known is None and (not _compilable(step, call.inverse) or self.backend is not None or call.device != "cpu"):
            known = self._choices[call] = _compilable(step, call.inverse)
        return known

    def decide(self, call: _Call, operations: int) -> None:
        """Choose by the number of operations of a call."""
        self._choices[call] = operations > FEW

    def run(self, step: Transform, call: _Call, value: Tensor, context: Context, graph: bool = False) -> _Pair | None:
        """The compiled call, with ``graph`` by a CUDA graph of that many rows; None where torch cannot compile it, which is then not tried again."""
        key = (call, torch.is_grad_enabled(), len(value) if graph else 0)
        if key not in self._programs:
            self._programs[key] = _program(step, call.inverse, self.backend or "inductor", graph)
        for tensor in () if graph else (value, *_tensors(context)):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        failures = torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit  # the second is not of the first's class
        try:
            out, log_det = self._programs[key](step, value, context)
            # what a graph returns lies in memory that its next run overwrites
            return (out.clone(), log_det.clone()) if graph else (out, log_det)
        except failures as error:
            told = error.__cause__ if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit) else error
            reason = next((line for line in str(told).splitlines() if line.strip()), type(error).__name__)
            _LOG.warning("compile: %s runs as it is, torch.compile cannot take it: %s", step._who_call(call.inverse), reason)
            self._choices[call] = False
            return None


@functools.lru_cache(maxsize=256)
def _kind(structure: Any, backend: str | None) -> _Kind:
    """One for all maps of that structure in the process."""
    return _Kind(backend)


def _structure(step: Transform) -> Any:
    """The classes, shapes and constants a map is made of. Private attributes follow from these; torch.compile's own guards tell them apart."""
    return tuple((name, type(module), _shapes(module), _constants(module)) for name, module in step.named_modules())


def _shapes(module: nn.Module) -> Any:
    return tuple((name, None if held is None else held.shape) for name, held in (module._parameters | module._buffers).items())


def _constants(module: nn.Module) -> Any:
    return tuple(
        (name, _plain(value))
        for name, value in vars(module).items()
        if not (name.startswith("_") or name == "training" or (name in BUFFERED and not isinstance(value, str)))
    )


def _plain(value: Any) -> Any:
    """Hashable, and equal for equal constants: numbers and strings as they are written, which tells 1 from 1.0 and True; of other objects the class."""
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return tuple((repr(key), _plain(item)) for key, item in value.items())
    return repr(value) if value is None or isinstance(value, bool | int | float | str | torch.dtype) else type(value)


def _compilable(step: Transform, inverse: bool) -> bool:
    """Whether a call is one straight line of tensor operations, the same for every value."""
    return step.traits.compiles and not step.traits.stochastic and not (inverse and step.traits.inverse in ("sequential", "iterative"))


def _program(step: Transform, inverse: bool, backend: str, graph: bool) -> Callable[..., _Pair]:
    """A compiled function of a map, its values and its context. Of its own code: torch keeps eight variants for each code object."""
    call = _inverse if inverse else _forward
    name = f"{call.__name__}_of_{type(step).__name__}"
    own = types.FunctionType(call.__code__.replace(co_name=name), call.__globals__, name)
    if graph and backend == "inductor":
        return torch.compile(own, fullgraph=True, dynamic=False, options={"triton.cudagraphs": True})
    return torch.compile(own, backend=backend, fullgraph=True, dynamic=False if graph else None)


def _forward(step: Transform, value: Tensor, context: Any) -> _Pair:
    return step._forward(value, context, None)


def _inverse(step: Transform, value: Tensor, context: Any) -> _Pair:
    return step._inverse(value, context, None)


def _rows(value: Tensor, event: Shape) -> Tensor:
    """(*B, *event) -> (N, *event) of one layout; a view of its own, so that marks on it do not reach the caller's tensor."""
    return value.reshape(-1, *value.shape[value.dim() - len(event) :]).contiguous()


def _tensors(context: Context) -> list[Tensor]:
    if context is None or isinstance(context, Tensor):
        return [] if context is None else [context]
    return [tensor for part in context.values() for tensor in _tensors(part)]


class _Count(TorchFunctionMode):
    """Counts the calls of torch that compute a tensor; views, sizes and what comes back unchanged are free. (A dispatch mode would see
    more, and make torch import its compiler, which takes seconds.)"""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result[0] if isinstance(result, tuple | list) and result else result
        self.operations += isinstance(made, Tensor) and not made._is_view() and not any(made is given for given in args)
        return result
