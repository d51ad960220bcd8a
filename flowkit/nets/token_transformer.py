"""A transformer over sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, whole_number
from flowkit.nets._noise_level import FEATURES, noise_features
from flowkit.nets.class_embedding import ClassEmbedding


@NETS.register("token_transformer")
class TokenTransformer(nn.Module):
    """Logits of every token's level by attention over all tokens; every token sees every other.

    Pre-norm blocks of attention and a two-layer network of four times the width. Positions have a learned vector each; noise level
    and label shift and scale every norm. The last layer starts at zero.

    Args:
        tokens: n, length of the sequences.
        levels: K; tokens are 0 .. K - 1, and K for a mask.
        width: of a token's vector, a multiple of ``heads``.
        blocks: number of blocks.
        heads: attention heads.
        classes: number of labels; 0 for none.

    Shapes: tokens (*B, n) int64, noise (*B), labels (*B) int64 with -1 for none -> (*B, n, K). Cost: n^2 width a block.

    Reference: Vaswani et al. (2017), Attention is all you need, arXiv:1706.03762; Peebles and Xie (2022), Scalable diffusion
    models with transformers, arXiv:2212.09748, section 3.2, for the conditioning of the norms.
    """

    def __init__(self, tokens: int, levels: int, width: int = 64, blocks: int = 2, *, heads: int = 4, classes: int = 0) -> None:
        super().__init__()
        who = "TokenTransformer"
        self.tokens, self.levels, self.width = positive(tokens, who, "tokens"), whole_number(levels, who, "levels", 2), positive(width, who, "width")
        self.blocks, self.heads, self.classes = positive(blocks, who, "blocks"), positive(heads, who, "heads"), whole_number(classes, who, "classes", 0)
        if self.width % self.heads:
            raise ConfigError(f"{who}: expected width to be a multiple of heads={self.heads}; got {self.width}.")
        self.level_vectors = nn.Embedding(self.levels + 1, self.width)
        self.position_vectors = nn.Parameter(0.02 * torch.randn(self.tokens, self.width))
        self.label = ClassEmbedding(self.classes) if self.classes else None
        extra = FEATURES + (0 if self.label is None else self.label.out_features)
        self.body = nn.ModuleList(_Block(self.width, self.heads, extra) for _ in range(self.blocks))
        self.norm = _ShiftedNorm(self.width, extra)
        self.last = nn.Linear(self.width, self.levels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, tokens: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        extra = noise_features(noise)
        if self.label is not None and labels is not None:
            extra = torch.cat([extra, self.label(labels)], dim=-1)
        h = self.level_vectors(tokens) + self.position_vectors
        for block in self.body:
            h = block(h, extra)
        return self.last(self.norm(h, extra))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TokenTransformer]]:
        yield "plain", cls(3, 4, 8, 1, heads=2)
        yield "classes", cls(3, 4, 8, 2, heads=1, classes=2)


class _ShiftedNorm(nn.Module):
    """Layer norm over a token's vector, scaled and shifted by the condition: (*B, n, w), (*B, c) -> (*B, n, w)."""

    def __init__(self, width: int, extra: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(extra, 2 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, h: Tensor, extra: Tensor) -> Tensor:
        scale, shift = self.condition(extra).unsqueeze(-2).chunk(2, dim=-1)
        return self.norm(h) * (1 + scale) + shift


class _Block(nn.Module):
    """Attention, then a network for each token, both added to what came in."""

    def __init__(self, width: int, heads: int, extra: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_net = _ShiftedNorm(width, extra), _ShiftedNorm(width, extra)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, extra: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before_attention(h, extra)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        h = h + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))
        return h + self.net(self.before_net(h, extra))
