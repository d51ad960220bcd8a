"""How recipes stack their layers."""

from __future__ import annotations

from flowkit.bijectors import Autoregressive, Coupling
from flowkit.core.univariate import Univariate
from flowkit.flows._recipe import Recipe


def couplings(flow: Recipe, univariate: Univariate, context: int) -> list[Coupling]:
    """Coupling layers that map every other coordinate and then the others; a single coordinate is always mapped."""
    masks = [tuple(flow.features == 1 or (i + layer) % 2 == 1 for i in range(flow.features)) for layer in range(flow.layers)]
    return [Coupling(flow.features, univariate, flow.hidden, mask, context_features=context, activation=flow.activation) for mask in masks]


def autoregressions(flow: Recipe, univariate: Univariate, context: int, passes: int | None) -> list[Autoregressive]:
    """Autoregressive layers in the order as given and turned around, by turns."""
    orders = [range(flow.features)[:: 1 if layer % 2 == 0 else -1] for layer in range(flow.layers)]
    return [
        Autoregressive(flow.features, univariate, flow.hidden, passes, order=tuple(order), context_features=context, activation=flow.activation)
        for order in orders
    ]

