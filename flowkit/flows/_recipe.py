"""What recipes share: a standard normal base and the three ways to give a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.shapes import positive
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.nets import ClassEmbedding

CLASS_FEATURES = 16  # size of the vector a class label becomes


class Recipe(Flow):
    """A named architecture on R^D: a standard normal base and a chain of maps.

    Contexts: ``context_features=C`` takes vectors (*Bc, C). ``classes=K`` takes int64 labels 0 .. K - 1, -1 for none.
    ``context_shape`` with ``embed``, a net from it to ``context_features`` numbers, takes anything else.
    """

    def _assemble(
        self,
        make: Callable[[int], Bijector],
        *,
        features: int,
        context_features: int,
        classes: int,
        context_shape: Sequence[int | None] | None,
        embed: nn.Module | None,
        support: Domain | None,
        standardize: bool,
    ) -> None:
        """Build the flow; ``make`` gets the size of the context that the maps see and returns latent-to-data."""
        who = type(self).__name__
        positive(features, who, "features")
        if classes and (embed is not None or context_features):
            raise ConfigError(f"{who}: classes= brings its own context; drop context_features= and embed=.")
        if embed is not None and not (context_features and context_shape is not None):
            raise ConfigError(f"{who}: embed= needs context_shape=, the shape it reads, and context_features=, the size it returns.")
        if context_features < 0 or classes < 0:
            raise ConfigError(f"{who}: expected context_features and classes >= 0; got {context_features} and {classes}.")
        bijector = make(CLASS_FEATURES if classes else context_features)
        net = ClassEmbedding(classes, CLASS_FEATURES) if classes else embed
        raw = () if classes else None if context_shape is None else tuple(context_shape)
        super().__init__(StandardNormal((features,)), bijector, support, standardize=standardize, embed=net, context_shape=raw)
        self.features, self.context_features, self.classes = features, context_features, classes
        self.class_embedding = net if classes else None
        self.embed = embed

    @property
    def embedding(self) -> nn.Module | None:
        return self.class_embedding if self.classes else self.embed
