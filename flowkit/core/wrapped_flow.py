"""A flow made of another one, whose parts it shares."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowkit.core.distribution import Distribution
from flowkit.core.domain.domain import Domain
from flowkit.core.flow import Flow
from flowkit.core.surjection import Surjection
from flowkit.core.transform import Bijector


class WrappedFlow(Flow):
    """A flow that answers with the maps and the base of ``self.flow``; a subclass sets that and changes a call."""

    flow: Flow

    @property
    def base(self) -> Distribution:  # type: ignore[override]
        """The flow's base."""
        return self.flow.base

    @property
    def bijector(self) -> Bijector | Surjection:  # type: ignore[override]
        """The flow's bijector."""
        return self.flow.bijector

    @property
    def standardizer(self) -> Any:  # type: ignore[override]
        """The flow's ``Standardize`` map, or None."""
        return self.flow.standardizer

    @property
    def support_map(self) -> Bijector | None:  # type: ignore[override]
        """The flow's map onto its support, or None."""
        return self.flow.support_map

    @property
    def embedding(self) -> nn.Module | None:
        return self.flow.embedding

    @property
    def maps(self) -> tuple[Bijector | Surjection, ...]:
        return self.flow.maps

    @property
    def domain(self) -> Domain:
        return self.flow.domain
