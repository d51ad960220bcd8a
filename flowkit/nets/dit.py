"""Transformers over patches of an image, conditioned on a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._time_condition import TimeCondition, attend, differentiated


@NETS.register("dit")
class DiT(nn.Module):
    """A diffusion transformer: attention over patches, every layer norm shifted, scaled and gated by time and context.

    The gates and the last layer start at zero: the blocks are the identity, and the output is zero.

    Args:
        image_shape: (C, H, W); H and W multiples of ``patch``.
        patch: side of a patch.
        width: of a patch's vector, a multiple of ``heads``.
        depth: blocks.
        heads: of attention.
        context_features: size of the context's last axis; 0 for none.
        out_channels: of the output; default C.

    Shapes: x (*B, C, H, W), t () or (*B), context (*B, context_features) -> (*B, out_channels, H, W). Cost: n^2 width a block, n patches.

    Reference: Peebles and Xie (2023), Scalable Diffusion Models with Transformers, arXiv:2212.09748.
    """

    positions: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        patch: int = 2,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        *,
        context_features: int = 0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.patch = positive_sizes(image_shape, "DiT", "image_shape"), positive(patch, "DiT", "patch")
        self.width, self.depth, self.heads = positive(width, "DiT", "width"), positive(depth, "DiT", "depth"), positive(heads, "DiT", "heads")
        self.context_features = whole_number(context_features, "DiT", "context_features", 0)
        self.out_channels = None if out_channels is None else positive(out_channels, "DiT", "out_channels")
        if len(self.image_shape) != 3 or self.image_shape[1] % self.patch or self.image_shape[2] % self.patch:
            raise ConfigError(f"DiT: expected an image_shape (C, H, W), H and W multiples of patch={self.patch}; got {image_shape!r}.")
        if self.width % self.heads or self.width % 4:
            raise ConfigError(f"DiT: expected width to be a multiple of 4 and of heads={self.heads}; got {self.width}.")
        inner, outer = self.image_shape[0], self.out_channels or self.image_shape[0]
        rows, columns = self.image_shape[1] // self.patch, self.image_shape[2] // self.patch
        self.register_buffer("positions", _positions(rows, columns, self.width), persistent=False)
        self.condition = TimeCondition(self.width, self.context_features)
        self.first = nn.Linear(inner * self.patch**2, self.width)
        self.body = nn.ModuleList(_Block(self.width, self.heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width, elementwise_affine=False, eps=1e-6)
        self.modulation, self.last = nn.Linear(self.width, 2 * self.width), nn.Linear(self.width, outer * self.patch**2)
        for parameter in (*self.modulation.parameters(), *self.last.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        batch, twice = x.shape[:-3], differentiated(x)
        condition = functional.silu(self.condition(t, context, batch, x.dtype))
        h = self.first(self._patches(x.reshape(math.prod(batch), *x.shape[-3:]))) + self.positions
        for block in self.body:
            h = block(h, condition, twice)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        h = self._image(self.last(torch.addcmul(shift, self.norm(h), 1 + scale)))
        return h.reshape(*batch, *h.shape[1:])

    def _patches(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, n, C patch^2)."""
        _, height, width = self.image_shape
        p = self.patch
        return x.reshape(len(x), x.shape[1], height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _image(self, h: Tensor) -> Tensor:
        """(N, n, C' patch^2) -> (N, C', H, W)."""
        _, height, width = self.image_shape
        p = self.patch
        tiles = h.reshape(len(h), height // p, width // p, h.shape[-1] // p**2, p, p)
        return tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(h), h.shape[-1] // p**2, height, width)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiT]]:
        yield "plain", cls((1, 4, 4), 2, 8, 1, 2)
        yield "conditional", cls((2, 4, 2), 2, 8, 2, 2, context_features=3)


class _Block(nn.Module):
    """Attention, then a two-layer network of each patch, both gated and added: (N, n, w) and a condition (N or 1, w) -> (N, n, w)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, condition: Tensor, twice: bool) -> Tensor:
        shift, scale, gate, shift_net, scale_net, gate_net = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        normed = torch.addcmul(shift, self.norm(h), 1 + scale)
        q, k, v = self.qkv(normed).reshape(*h.shape[:-1], 3, self.heads, h.shape[-1] // self.heads).permute(2, 0, 3, 1, 4)
        attended = attend(q, k, v, twice=twice).transpose(1, 2).flatten(2)
        h = torch.addcmul(h, gate, self.out(attended))
        return torch.addcmul(h, gate_net, self.net(torch.addcmul(shift_net, self.norm(h), 1 + scale_net)))


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column at geometric frequencies: (rows * columns, width)."""
    frequencies = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten().unsqueeze(-1) * frequencies for place in (row, column)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=-1)
