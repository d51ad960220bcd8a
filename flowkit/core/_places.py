"""Where the parameters of a module stand."""

from __future__ import annotations

from torch import nn


def parameter_places(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Parameter]]:
    """Every place of every parameter by name: a module held twice has its places once, a tensor tied across modules stands at several.

    These are the names to lend other tensors at, with ``functional_call(..., tie_weights=False)``; a place lent twice in
    one call is not given back.
    """
    found = []
    for path, owner in module.named_modules(prefix=prefix):
        found += [(f"{path}.{name}" if path else name, parameter) for name, parameter in owner._parameters.items() if parameter is not None]
    return found
