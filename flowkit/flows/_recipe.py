"""What recipes share: arguments, a standard normal base and the three ways to give a context."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, TypedDict

from torch import nn

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.shapes import positive, positive_sizes
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.flows._conditioning import conditioning
from flowkit.nets._parts import ACTIVATIONS


class Options(TypedDict, total=False):
    """Keywords that every recipe takes, with the meanings given at ``Recipe``."""

    support: Domain | None
    standardize: bool
    classes: int
    context_shape: Sequence[int | None] | None
    embed: nn.Module | None
    activation: str


class Recipe(Flow):
    """A named architecture on R^D: a standard normal base and a stack of layers.

    A subclass writes ``_maps``, and an ``__init__`` only for arguments of its own. Contexts: ``context_features=C`` takes
    vectors (*Bc, C); ``classes=K`` takes int64 labels 0 .. K - 1, -1 for none; ``context_shape`` with ``embed``, a net from
    it to ``context_features`` numbers, takes anything else.

    Args:
        features: D.
        context_features: size of a context vector; 0 for none.
        layers: number of layers.
        hidden: widths of each conditioner's hidden layers.
        support: domain that samples stay in; default all of R^D.
        standardize: end with a ``Standardize`` map, set by ``fit``.
        classes: K for labels as context; 0 for none.
        context_shape: event shape that ``embed`` reads.
        embed: net applied to the context, once per distinct one.
        activation: of the conditioners.
    """

    activations: ClassVar[Collection[str]] = tuple(ACTIVATIONS)  # those that the nets know

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        *,
        support: Domain | None = None,
        standardize: bool = True,
        classes: int = 0,
        context_shape: Sequence[int | None] | None = None,
        embed: nn.Module | None = None,
        activation: str = "silu",
    ) -> None:
        who = type(self).__name__
        self.features, self.layers, self.hidden = positive(features, who, "features"), positive(layers, who, "layers"), positive_sizes(hidden, who, "hidden")
        seen = conditioning(who, context_features, classes, context_shape, embed)
        self.context_features, self.classes = seen.context_features, seen.classes
        if not isinstance(activation, str) or activation not in self.activations:
            raise ConfigError(f"{who}: expected activation to be one of {', '.join(self.activations)}; got {activation!r}.")
        self.activation = activation
        bijector = self._maps(seen.features)
        net = seen.net()
        super().__init__(StandardNormal((self.features,)), bijector, support, standardize=standardize, embed=net, context_shape=seen.raw)
        self.class_embedding = net if classes else None
        self.embed = embed

    def _maps(self, context: int) -> Bijector:
        """Latent to data, given the size of the context that the maps see; the plain arguments are stored already."""
        raise NotImplementedError

    @property
    def embedding(self) -> nn.Module | None:
        return self.class_embedding if self.classes else self.embed

    def _count(self, name: str, value: Any) -> int:
        """A checked size argument of the recipe."""
        return positive(value, type(self).__name__, name)

    def _count_or_none(self, name: str, value: Any) -> int | None:
        """A checked size argument with a default of its own."""
        return None if value is None else self._count(name, value)
