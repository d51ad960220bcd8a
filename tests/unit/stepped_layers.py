"""Autoregressive layers over nets that can be evaluated unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.bijectors import Autoregressive
from flowkit.core.univariate import Univariate
from flowkit.kernels import use
from flowkit.kernels.cpu import library
from flowkit.nets import MaskedLayers, MaskedResidualMLP
from flowkit.univariates import Affine, LinearSpline, QuadraticSpline, RationalQuadraticSpline

fused = pytest.mark.skipif(library.unavailable() is not None, reason="no C++ compiler")

MAPS: dict[str, Callable[[], Univariate]] = {
    "affine": Affine,
    "affine_exp": lambda: Affine(scale="exp"),
    "rational_quadratic": lambda: RationalQuadraticSpline(8, 5.0),
    "rational_quadratic_bounded": lambda: RationalQuadraticSpline(5, (-4.0, 4.0), ends="bounded"),
    "rational_quadratic_circular": lambda: RationalQuadraticSpline(3, 4.0, ends="circular"),
    "linear": lambda: LinearSpline(6, 4.0),
    "quadratic": lambda: QuadraticSpline(6, 4.0),
    "quadratic_bounded": lambda: QuadraticSpline(4, (-4.0, 4.0), ends="bounded"),
}


def graph(features: int) -> Autoregressive:
    """A layer under a random directed acyclic graph."""
    turned = torch.randperm(features)
    adjacency = (torch.rand(features, features) < 0.4).tril(-1)[turned][:, turned]
    return Autoregressive(features, Affine(), (9, 20), adjacency=adjacency, context_features=2, activation="tanh")


def with_own_net(kind: str, context: int, activation: str = "tanh") -> Autoregressive:
    """A layer over a masked net of its own: residual, shallow, or with a context joined or added."""
    features, order, degrees = 6, torch.randperm(6), torch.randint(0, 6, (11,))
    first, inner, last = degrees[:, None] >= order, degrees[:, None] >= degrees, order.repeat_interleave(2)[:, None] > degrees
    net: nn.Module
    if kind in ("residual", "shallow"):
        masks = (first, *(inner,) * (4 if kind == "residual" else 0), last)
        net = MaskedResidualMLP(masks, context_features=context, activation=activation)
    else:
        first = torch.cat([first, first.new_ones(11, context)], dim=1) if kind == "joined" else first
        net = MaskedLayers((first, inner, last), context_features=context, context="joined" if kind == "joined" else "added", activation=activation)
    return Autoregressive(features, Affine(), conditioner=net, order=order.tolist(), context_features=context)


LAYERS: dict[str, Callable[[], Autoregressive]] = {
    **{name: lambda make=make: Autoregressive(5, make(), (16, 16), activation="tanh") for name, make in MAPS.items()},  # type: ignore[misc]
    **{name: lambda name=name: Autoregressive(6, RationalQuadraticSpline(8, 5.0), (20, 17), activation=name) for name in ("relu", "leaky_relu", "elu", "silu")},  # type: ignore[misc]
    "reversed": lambda: Autoregressive(7, RationalQuadraticSpline(4, 5.0), (32,), order=range(7)[::-1]),
    "narrow": lambda: Autoregressive(12, Affine(), (3, 7), activation="tanh"),
    "narrow_conditional": lambda: Autoregressive(12, Affine(), (16, 4), order=torch.randperm(12).tolist(), context_features=3, activation="tanh"),
    "no_hidden": lambda: Autoregressive(5, Affine(), ()),
    "groups": lambda: Autoregressive(7, QuadraticSpline(4, 5.0), (16,), 3, order=torch.randperm(7).tolist(), context_features=1, activation="tanh"),
    "coupling": lambda: Autoregressive(8, RationalQuadraticSpline(8, 5.0), (16, 16), 2),
    "single_conditional": lambda: Autoregressive(1, Affine(), (4,), context_features=2, activation="tanh"),
    "graph": lambda: graph(9),
    "residual": lambda: with_own_net("residual", 0, "silu"),
    "residual_conditional": lambda: with_own_net("residual", 2, "silu"),
    "layers_joined": lambda: with_own_net("joined", 2, "elu"),
    "layers_added": lambda: with_own_net("added", 2, "elu"),
}


def made(name: str, dtype: torch.dtype = torch.float64) -> Autoregressive:
    """A layer with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layer = LAYERS[name]()
        for parameter in layer.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.to(dtype)


def given(layer: Autoregressive, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, layer.features, generator=generator, dtype=torch.float64).clamp(-3.9, 3.9)
    context = torch.randn(*batch, layer.context_features, generator=generator, dtype=torch.float64) if layer.context_features else None
    return x.to(dtype), None if context is None else context.to(dtype)


def by_reference(layer: Autoregressive, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inverse level by level, in plain torch."""
    with use("reference"):
        return layer.inverse(x, context)


def note_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the C++ kernels that are called from here on."""
    names: list[str] = []
    call = library.call

    def noted(name: str, *args: Any) -> None:
        names.append(name)
        call(name, *args)

    monkeypatch.setattr(library, "call", noted)
    return names
