"""The three ways to give a recipe its context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import whole_number
from flowkit.nets import ClassEmbedding

CLASS_FEATURES = 16  # size of the vector a class label becomes


class Conditioning(NamedTuple):
    """What a recipe's maps see of a context.

    Args:
        features: size of the vector they see, 0 for none.
        given: net from the raw context to it, as it was given, or None.
        raw: event shape of the raw context where a net reads it.
        context_features, classes: the checked arguments.
    """

    features: int
    given: nn.Module | None
    raw: tuple[int | None, ...] | None
    context_features: int
    classes: int

    def net(self) -> nn.Module | None:
        """The net given, or a new embedding of the classes; made after the maps, whose weights come first from the generator."""
        return ClassEmbedding(self.classes, CLASS_FEATURES) if self.classes else self.given


def conditioning(who: str, context_features: int, classes: int, context_shape: Sequence[int | None] | None, embed: nn.Module | None) -> Conditioning:
    """Check and settle ``context_features=``, ``classes=`` and ``embed=`` with ``context_shape=``."""
    context_features, classes = whole_number(context_features, who, "context_features", 0), whole_number(classes, who, "classes", 0)
    if classes and (embed is not None or context_features):
        raise ConfigError(f"{who}: classes= brings its own context; drop context_features= and embed=.")
    if embed is not None and not (context_features and context_shape is not None):
        raise ConfigError(f"{who}: embed= needs context_shape=, the shape it reads, and context_features=, the size it returns.")
    if classes:
        return Conditioning(CLASS_FEATURES, None, (), 0, classes)
    return Conditioning(context_features, embed, None if context_shape is None else tuple(context_shape), context_features, 0)
