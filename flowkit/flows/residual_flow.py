"""Residual flows: i-ResNet, Residual Flow and i-DenseNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Unpack

from torch import nn

from flowkit.bijectors import ActNorm, Chain, ResidualOf
from flowkit.core.errors import ConfigError
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import flag, whole_number
from flowkit.core.transform import Bijector
from flowkit.flows._recipe import Options, Recipe
from flowkit.nets import LipschitzDenseMLP, LipschitzMLP
from flowkit.nets._lipschitz import LIPSCHITZ_ACTIVATIONS


@FLOWS.register("residual_flow")
class ResidualFlow(Recipe):
    """Contractive residual blocks z = x + g(x) from data to latent, with ActNorm between; sampling solves a fixed point per block.

    With ``log_det="exact"`` (up to some 32 features) ``log_prob`` is the density itself; with "roulette" it is an unbiased estimate,
    drawn from ``generator``, and with "power_series" a truncated one.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``; ``layers`` counts blocks. Activations: "lip_swish", "clip_swish",
            "elu", "tanh".
        block: "mlp", or "dense" for an i-DenseNet (``hidden`` then counts the features each of its layers adds).
        log_det, terms, probes: see ``ResidualOf``.
        coefficient: Lipschitz bound of every block.
        act_norm: whether to put ActNorm before, between and after the blocks.

    Reference: Behrmann et al. (2019), Invertible Residual Networks, arXiv:1811.00995; Chen et al. (2019), Residual Flows, arXiv:1906.02735;
    Perugachi-Diaz et al. (2021), Invertible DenseNets, arXiv:2102.02694.
    """

    activations = LIPSCHITZ_ACTIVATIONS

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        *,
        block: Literal["mlp", "dense"] = "mlp",
        log_det: Literal["exact", "power_series", "roulette"] = "exact",
        terms: int = 4,
        probes: int | None = 1,
        coefficient: float = 0.97,
        act_norm: bool = True,
        **options: Unpack[Options],
    ) -> None:
        if block not in ("mlp", "dense"):
            raise ConfigError(f"ResidualFlow: expected block 'mlp' or 'dense'; got {block!r}.")
        self.block, self.log_det, self.probes = block, log_det, self._count_or_none("probes", probes)
        self.terms = whole_number(terms, "ResidualFlow", "terms", 0 if log_det == "roulette" else 1)
        self.coefficient, self.act_norm = coefficient, flag(act_norm, "ResidualFlow", "act_norm")
        options.setdefault("activation", "clip_swish" if block == "dense" else "lip_swish")
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        kind = LipschitzDenseMLP if self.block == "dense" else LipschitzMLP
        maps: list[Bijector] = []
        for _ in range(self.layers):
            net: nn.Module = kind(self.features, self.features, self.hidden, context_features=context, activation=self.activation, coefficient=self.coefficient)
            maps += [ActNorm((self.features,))] if self.act_norm else []
            maps.append(ResidualOf(net, log_det=self.log_det, terms=self.terms, probes=self.probes))
        maps += [ActNorm((self.features,))] if self.act_norm else []
        return ~Chain(maps)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ResidualFlow]]:
        yield "plane", cls(2, layers=2, hidden=(8,))
        yield "conditional", cls(3, 2, layers=1, hidden=(4,), block="dense")
        yield "classes", cls(2, layers=2, hidden=(8,), classes=3)
