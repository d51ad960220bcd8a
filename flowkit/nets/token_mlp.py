"""A fully connected network over sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._noise_level import FEATURES, noise_features
from flowkit.nets.class_embedding import ClassEmbedding
from flowkit.nets.residual_mlp import ResidualMLP


@NETS.register("token_mlp")
class TokenMLP(nn.Module):
    """Logits of every token's level from all tokens, one-hot, the noise level and a label, through one residual network.

    For short sequences of fixed length: n (K + 1) inputs and n K outputs.

    Args:
        tokens: n, length of the sequences.
        levels: K; tokens are 0 .. K - 1, and K for a mask.
        hidden: one equal width per residual block.
        classes: number of labels; 0 for none.
        activation: as for ``MLP``.

    Shapes: tokens (*B, n) int64, noise (*B), labels (*B) int64 with -1 for none -> (*B, n, K).
    """

    def __init__(self, tokens: int, levels: int, hidden: Sequence[int] = (256, 256), *, classes: int = 0, activation: str = "silu") -> None:
        super().__init__()
        self.tokens, self.levels = positive(tokens, "TokenMLP", "tokens"), whole_number(levels, "TokenMLP", "levels", 2)
        self.hidden, self.activation = positive_sizes(hidden, "TokenMLP", "hidden"), activation
        self.classes = whole_number(classes, "TokenMLP", "classes", 0)
        if not self.hidden:
            raise ConfigError("TokenMLP: expected at least one hidden width; got none. Pass e.g. hidden=(256, 256).")
        # a weight times one-hot tokens, which are never formed
        self.first = nn.EmbeddingBag(self.tokens * (self.levels + 1), self.hidden[0], mode="sum")
        nn.init.normal_(self.first.weight, std=(3 * self.tokens * (self.levels + 1)) ** -0.5)  # as a dense layer of that fan-in starts
        self.label = ClassEmbedding(self.classes) if self.classes else None
        extra = FEATURES + (0 if self.label is None else self.label.out_features)
        self.body = ResidualMLP(self.hidden[0], self.tokens * self.levels, self.hidden, context_features=extra, activation=activation)

    def forward(self, tokens: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        batch = tokens.shape[:-1]
        place = (self.levels + 1) * torch.arange(self.tokens, device=tokens.device)
        known = self.first((tokens + place).reshape(batch.numel(), self.tokens)).reshape(*batch, self.hidden[0])
        extra = noise_features(noise)
        if self.label is not None and labels is not None:
            extra = torch.cat([extra, self.label(labels)], dim=-1)
        return self.body(known, extra).unflatten(-1, (self.tokens, self.levels))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TokenMLP]]:
        yield "plain", cls(3, 4, (8, 8))
        yield "classes", cls(3, 4, (8,), classes=2)
