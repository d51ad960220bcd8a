"""The step of a variational autoencoder as a layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import show
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits


@SURJECTIONS.register("variational_step", "vae_step")
class VariationalStep(Surjection):
    """x ~ p(x|z), z ~ q(z|x): the contribution of ``inverse`` is log p(x|z) - log q(z|x), so a flow with it is an ELBO.

    Several may be chained with each other and with bijectors, which gives hierarchical autoencoders with flow priors.

    Args:
        decoder: p(x|z), a distribution whose context is z.
        encoder: q(z|x), a distribution whose context is x.

    Reference: Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114; Nielsen et al. (2020),
    SurVAE Flows, arXiv:2007.02731, table 1 (stochastic transformation).
    """

    draws = frozenset({"forward", "inverse"})
    traits = Traits(log_det="bound", stochastic=True)

    def __init__(self, decoder: Distribution, encoder: Distribution) -> None:
        super().__init__()
        for name, part in (("decoder", decoder), ("encoder", encoder)):
            if not isinstance(part, Distribution):
                raise ConfigError(f"VariationalStep: expected a distribution as {name}; got {type(part).__name__}.")
        self.decoder, self.encoder = decoder, encoder
        self.in_shape, self.out_shape = encoder.event_shape, decoder.event_shape
        for name, part, seen in (("decoder", decoder, self.in_shape), ("encoder", encoder, self.out_shape)):
            if part.context_shape != seen:
                raise ShapeError(f"VariationalStep: the {name} must take a context of shape {show(seen)}, the other's event; it takes {part.context_shape}.")

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = self.decoder.rsample((), z, generator)
        return x, self.encoder.log_prob(z, x) - self.decoder.log_prob(x, z)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = self.encoder.rsample((), x, generator)
        return z, self.decoder.log_prob(x, z) - self.encoder.log_prob(z, x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, VariationalStep]]:
        def normal(features: int, seen: int) -> Any:
            return build({"name": "diagonal_normal", "shape": (features,), "context_features": seen}, Distribution)

        yield "linear", cls(normal(3, 2), normal(2, 3))
