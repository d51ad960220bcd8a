"""Dense networks read instead of called: their weights, where nothing but the weights and the activation decides on what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

_NUMBERS = {"negative_slope": 0.01, "alpha": 1.0}  # of activations, where their names stand for them


class DenseLayers(NamedTuple):
    """A stack of dense layers as it stands now.

    Attributes:
        weights: W1 (H1, inputs), b1 (H1), W2, b2, ... in order.
        activation: between them.
    """

    weights: tuple[Tensor, ...]
    activation: str


def is_plain(*modules: nn.Module) -> bool:
    """Whether modules may be read: their class's own forward, and no hook waits for a call, of theirs or of all modules."""
    every = global_hooks
    if every._global_forward_hooks or every._global_forward_pre_hooks or every._global_backward_hooks or every._global_backward_pre_hooks:
        return False
    for part in modules:
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks or "forward" in part.__dict__:
            return False
    return True


def read_layers(layers: Sequence[nn.Module], kind: type[nn.Linear], activation: type[nn.Module]) -> tuple[Tensor, ...] | None:
    """Weights and biases of linear layers with activations between them; None where one is of another class, has other numbers or may not be read."""
    if not is_plain(*layers):
        return None
    tensors: list[Tensor] = []
    for place, layer in enumerate(layers):
        if type(layer) is not (activation if place % 2 else kind):
            return None
        if place % 2:
            if any(layer.__dict__.get(name, number) != number for name, number in _NUMBERS.items()):
                return None
        else:
            weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
            if weight is None or bias is None:
                return None
            tensors += (weight, bias)
    return tuple(tensors)
