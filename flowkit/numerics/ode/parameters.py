"""What the gradients of a field flow to, and its values at the time of the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.numerics.ode.system import Field

Places = list[tuple[nn.Module, str]]


class Parameters:
    """Tensors that a field depends on, with the places in its module where they stand.

    Args:
        tensors: those that want a gradient.
        places: for each, the modules and names that hold it; empty for tensors that a function has captured.
        evaluations: of the field, that finding them took.
        shared: whether the field's graph reaches back to operations made before it was called, which each step's backward must leave
            in place.
    """

    def __init__(self, tensors: Sequence[Tensor], places: Sequence[Places], evaluations: int = 0, shared: bool = False) -> None:
        self.tensors, self.places, self.evaluations, self.shared = tuple(tensors), tuple(places), evaluations, shared

    @staticmethod
    def of_module(module: nn.Module) -> Parameters:
        """The parameters of a module, each once."""
        found: dict[int, tuple[Tensor, Places]] = {}
        for part in module.modules():
            for name, tensor in part._parameters.items():
                if tensor is not None and tensor.requires_grad:
                    found.setdefault(id(tensor), (tensor, []))[1].append((part, name))
        return Parameters([tensor for tensor, _ in found.values()], [places for _, places in found.values()])

    def leaves(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Fresh leaves with the values of the forward pass; captured tensors themselves."""
        return [value.detach().requires_grad_() if places else tensor for tensor, value, places in zip(self.tensors, values, self.places, strict=True)]

    @contextmanager
    def installed(self, leaves: Sequence[Tensor]) -> Iterator[None]:
        """The module with these tensors in place: a backward pass may find others there, as after ``torch.func.functional_call``."""
        spots = [(part, name, leaf) for places, leaf in zip(self.places, leaves, strict=True) for part, name in places]
        before = [part._parameters[name] for part, name, _ in spots]
        try:
            for part, name, leaf in spots:
                part._parameters[name] = leaf  # type: ignore[assignment]
            yield
        finally:
            for (part, name, _), tensor in zip(spots, before, strict=True):
                part._parameters[name] = tensor


def field_parameters(field: Field, given: Any, probes: Sequence[Callable[[], Tensor]]) -> Parameters:
    """The tensors given, or the parameters of the module given.

    Where nothing is given: those of the module that the field is or belongs to, and the other leaves that the graphs of a few
    evaluations (``probes``) reach.
    """
    if isinstance(given, nn.Module):
        return Parameters.of_module(given)
    if given is not None:
        wanted = [p for p in given if p.requires_grad]
        return Parameters(wanted, [[] for _ in wanted])
    owner = field if isinstance(field, nn.Module) else getattr(field, "__self__", None)
    own = Parameters.of_module(owner) if isinstance(owner, nn.Module) else Parameters((), ())
    if not torch.is_grad_enabled():
        return own
    found, shared = _leaves(probes, own.tensors)
    return Parameters((*own.tensors, *found), (*own.places, *([] for _ in found)), len(probes), shared)


def _leaves(probes: Sequence[Callable[[], Tensor]], known: Sequence[Tensor]) -> tuple[list[Tensor], bool]:
    """The leaves of some evaluations' graphs beside those known, and whether the graphs hold older operations."""
    with torch.enable_grad():
        marker: Any = (torch.zeros((), requires_grad=True) + 0).grad_fn
        waiting: list[Any] = [probe().grad_fn for probe in probes]
    seen: set[Any] = {tensor.grad_fn for tensor in known if tensor.grad_fn is not None}
    leaves, found, shared = {id(tensor) for tensor in known}, {}, False
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is None:
            shared = shared or node._sequence_nr() < marker._sequence_nr()
        elif id(variable) not in leaves:
            found[id(variable)] = variable
        waiting.extend(following for following, _ in node.next_functions)
    return list(found.values()), shared
