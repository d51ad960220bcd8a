"""Calls that differentiate inside: made to work under ``torch.inference_mode`` too, where nothing can be recorded, and refused inside ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, FlowkitError


def outside_inference(who: str, call: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """The call as it is; under inference mode outside of it and without gradients, on copies of tensors that inference made.

    Raises:
        ConfigError: inside a transform of ``torch.func`` (vmap, grad, jvp), which the call cannot be differentiated in.
    """
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _inside_transforms(who, call, *values, **options)
    if not torch.is_inference_mode_enabled():
        return call(*values, **options)
    with torch.inference_mode(False), torch.no_grad():
        return call(*map(_ordinary, values), **options)


def _ordinary(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordinary(part) for key, part in value.items()}
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _inside_transforms(who: str, call: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """Closed forms without a graph work there; what records one does not."""
    try:
        return call(*values, **options)
    except FlowkitError:
        raise
    except RuntimeError as error:
        raise ConfigError(
            f"{who}: expected a call outside torch.func; got one inside vmap, grad or jvp, where it cannot be differentiated. "
            "Give all events at once instead, along leading axes: any batch shape will do."
        ) from error
