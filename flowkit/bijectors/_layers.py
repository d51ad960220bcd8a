"""Several maps of one structure kept as one module with stacked parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowkit.core.build import build, describe
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive
from flowkit.core.transform import Bijector


class Layers(nn.Module):
    """``count`` maps of one structure: every parameter and saved buffer of ``bijector`` has a leading axis (count, ...).

    Buffers that follow from constructor arguments are shared. The first layer keeps the values of the bijector given, the
    others are built anew from its description, so that they do not start as copies of each other.

    Args:
        bijector: a bijector whose parts are registered.
        count: number of layers.
        who: for messages.
    """

    def __init__(self, bijector: Bijector, count: int, who: str) -> None:
        super().__init__()
        if not isinstance(bijector, Bijector):
            raise ConfigError(f"{who}: expected a bijector; got {type(bijector).__name__}.")
        self.count = positive(count, who, "the number of layers")
        self.bijector = stacked([bijector, *(_afresh(bijector) for _ in range(self.count - 1))])
        state = self.bijector.state_dict()
        self.names = tuple(name for name, _ in self.bijector.named_parameters()) + tuple(name for name, _ in self.bijector.named_buffers() if name in state)
        # a tensor tied across modules stands at several places, a module met twice has its places once
        position = {id(tensor): i for i, tensor in enumerate(self.stacks())}
        self.places = tuple((".".join(filter(None, ("bijector", path, name))), position[id(tensor)]) for path, _, name, tensor in _entries(self.bijector))

    def stacks(self) -> tuple[Tensor, ...]:
        """The stacked tensors (count, ...), in the order of ``names``."""
        return tuple(_lookup(self.bijector, name) for name in self.names)

    def at(self, index: int) -> tuple[Tensor, ...]:
        """The tensors of one layer, views into the stacks."""
        return tuple(stack[index] for stack in self.stacks())

    def run(self, tensors: Sequence[Tensor], method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the bijector with these tensors as its parameters."""
        named = {place: tensors[i] for place, i in self.places}
        return functional_call(self, named, (method, *arguments), options, tie_weights=False)

    def forward(self, method: str, *arguments: Any, **options: Any) -> Any:
        """``method`` of the bijector, as ``functional_call`` reaches it."""
        return getattr(self.bijector, method)(*arguments, **options)

    @torch.no_grad()
    def fill(self, modules: Sequence[nn.Module]) -> None:
        """Copy the values of ``count`` modules in."""
        for i, module in enumerate(modules):
            for name, mine in zip(self.names, self.at(i), strict=True):
                mine.copy_(_lookup(module, name))

    def layer(self, index: int) -> Bijector:
        """A copy of one layer as a map of its own."""
        made = copy.deepcopy(self.bijector)
        for path, module, name, tensor in _entries(made):
            values = _lookup(self.bijector, f"{path}.{name}" if path else name)[index].detach().clone()
            if isinstance(tensor, nn.Parameter):
                module._parameters[name] = nn.Parameter(values, requires_grad=tensor.requires_grad)
            else:
                module._buffers[name] = values
        return _shared_again(made, self.bijector)


def stacked(modules: Sequence[Bijector]) -> Bijector:
    """A copy of the first module that holds the parameters and saved buffers of all, stacked along a new first axis."""
    made = copy.deepcopy(modules[0])
    for path, module, name, tensor in _entries(made):
        full = f"{path}.{name}" if path else name
        values = torch.stack([_lookup(other, full).detach().to(tensor) for other in modules])
        if isinstance(tensor, nn.Parameter):
            module._parameters[name] = nn.Parameter(values, requires_grad=tensor.requires_grad)
        else:
            module._buffers[name] = values
    return _shared_again(made, modules[0])


def _entries(module: nn.Module) -> list[tuple[str, nn.Module, str, Tensor]]:
    """Path of the owner, owner, name and tensor of every parameter and saved buffer; shared modules once."""
    found = []
    for path, owner in module.named_modules():
        named = [*owner._parameters.items(), *((name, buffer) for name, buffer in owner._buffers.items() if name not in owner._non_persistent_buffers_set)]
        found += [(path, owner, name, tensor) for name, tensor in named if tensor is not None]
    return found


def _shared_again(made: Bijector, model: nn.Module) -> Bijector:
    """Tie in ``made`` the parameters that are one tensor in ``model``."""
    first: dict[int, nn.Parameter] = {}
    for (_, _, _, original), (_, owner, name, tensor) in zip(_entries(model), _entries(made), strict=True):
        if isinstance(tensor, nn.Parameter):
            owner._parameters[name] = first.setdefault(id(original), tensor)
    return made


def _lookup(module: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last)


def _afresh(bijector: Bijector) -> Bijector:
    """A newly built map of the same description."""
    weights: dict[str, Tensor] = {}
    return build(describe(bijector, weights), Bijector, weights=weights)
