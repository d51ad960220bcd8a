"""Calls that differentiate inside, made to work under ``torch.inference_mode`` too, where nothing can be recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def outside_inference(call: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """The call as it is; under inference mode outside of it and without gradients, on copies of tensors that inference made."""
    if not torch.is_inference_mode_enabled():
        return call(*values, **options)
    with torch.inference_mode(False), torch.no_grad():
        return call(*map(_ordinary, values), **options)


def _ordinary(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordinary(part) for key, part in value.items()}
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
