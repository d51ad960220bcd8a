"""Gradients of adjoint gradients: where a backward pass is itself to be differentiated, the steps are made again under autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.numerics.ode.parameters import Parameters
from flowkit.numerics.ode.replay import replay


def differentiate_again(
    problem: tuple[Any, Any, Any], parameters: Parameters, t: Tensor, state: Tensor, args: Sequence[Any], values: Sequence[Tensor], grad: Tensor
) -> tuple[Any, ...]:
    """Gradients with a graph of the states (T, R, M) at the output times.

    Args:
        problem: system, stepper and march; parameters: where the field's tensors stand.
        t, state, args, values: the inputs of the forward pass as they were given, ``values`` those of the parameters.
        grad: (T, R, M).

    Returns:
        Gradients of t, state, each constant and each parameter; None where none is wanted.
    """
    system, stepper, march = problem
    with torch.no_grad():
        marched = march(state, tuple(args), t, "times")
    own = [value if places else tensor for tensor, value, places in zip(parameters.tensors, values, parameters.places, strict=True)]
    with parameters.installed(own), torch.enable_grad():
        states = torch.stack(replay(system, stepper, marched, state, tuple(args), t))
    inputs = [t, state, *args, *own]
    wanted = [tensor for tensor in inputs if isinstance(tensor, Tensor) and tensor.requires_grad]
    found = iter(torch.autograd.grad(states, wanted, grad, create_graph=True, materialize_grads=True))
    return tuple(next(found) if isinstance(tensor, Tensor) and tensor.requires_grad else None for tensor in inputs)
