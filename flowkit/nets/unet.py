"""U-Nets over images, conditioned on a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._time_condition import TimeCondition, attend, differentiated, normalized


@NETS.register("unet")
class UNet(nn.Module):
    """A U-Net of residual blocks, conditioned on a time and a context; its last convolution starts at zero.

    Every level has ``blocks`` residual blocks on the way down, one more on the way up, and halves the image for the next; two blocks
    around attention stand in the middle. A block is two 3x3 convolutions behind group norms, the second of which is scaled and
    shifted by the condition; what a block adds starts at zero.

    Args:
        image_shape: (C, H, W); H and W divisible by 2^(levels - 1).
        channels: of the first level.
        multipliers: channels of the levels, as multiples of ``channels``.
        blocks: residual blocks of a level.
        attention: heights of the levels with self-attention after their blocks, such as (16,).
        head_channels: channels of an attention head; a level with fewer has one head.
        context_features: size of the context's last axis; 0 for none.
        dropout: inside the blocks.
        out_channels: of the output; default C.

    Shapes: x (*B, C, H, W), t () or (*B), context (*B, context_features) -> (*B, out_channels, H, W).

    Reference: Ho et al. (2020), Denoising Diffusion Probabilistic Models, arXiv:2006.11239; Dhariwal and Nichol (2021),
    arXiv:2105.05233, for the conditioned norms.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        *,
        attention: Sequence[int] = (),
        head_channels: int = 64,
        context_features: int = 0,
        dropout: float = 0.0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.channels, self.multipliers, self.blocks = _check(image_shape, channels, multipliers, blocks)
        self.attention, self.head_channels = positive_sizes(attention, "UNet", "attention"), positive(head_channels, "UNet", "head_channels")
        self.context_features, self.dropout = whole_number(context_features, "UNet", "context_features", 0), dropout
        self.out_channels = None if out_channels is None else positive(out_channels, "UNet", "out_channels")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError(f"UNet: expected dropout to be a number >= 0 and < 1; got {dropout!r}.")
        inner, height, _ = self.image_shape
        unknown = set(self.attention) - {height >> level for level in range(len(self.multipliers))}
        if unknown:
            raise ConfigError(
                f"UNet: expected attention at heights of its levels, {[height >> i for i in range(len(self.multipliers))]}; got {sorted(unknown)}."
            )
        condition = 4 * self.channels
        self.condition = TimeCondition(condition, self.context_features)
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        self.first = nn.Conv2d(inner, self.channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        current, kept = self.channels, [self.channels]
        for level, width in enumerate(widths):
            for _ in range(self.blocks):
                self.down.append(self._stage(current, width, condition, level))
                current = width
                kept.append(current)
            if level + 1 < len(widths):
                self.down.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                kept.append(current)
        self.middle = nn.ModuleList(
            [_Block(current, current, condition, dropout), _Attention(current, self.head_channels), _Block(current, current, condition, dropout)]
        )
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(self.blocks + 1):
                self.up.append(self._stage(current + kept.pop(), width, condition, level))
                current = width
            if level:
                self.up.append(_Upsample(current))
        self.norm = nn.GroupNorm(_groups(current), current)
        self.last = nn.Conv2d(current, self.out_channels or inner, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def _stage(self, before: int, width: int, condition: int, level: int) -> nn.Module:
        attention = _Attention(width, self.head_channels) if self.image_shape[1] >> level in self.attention else None
        return _Stage(_Block(before, width, condition, self.dropout), attention)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        batch, twice = x.shape[:-3], differentiated(x)
        condition = functional.silu(self.condition(t, context, batch, x.dtype))
        h = self.first(x.reshape(math.prod(batch), *x.shape[-3:]))
        kept = [h]
        for part in self.down:
            h = part(h, condition, twice) if isinstance(part, _Stage) else part(h)
            kept.append(h)
        first, attention, second = self.middle
        h = second(attention(first(h, condition, twice), twice), condition, twice)
        for part in self.up:
            h = part(torch.cat([h, kept.pop()], dim=1), condition, twice) if isinstance(part, _Stage) else part(h)
        h = self.last(functional.silu(normalized(self.norm, h, twice=twice)))
        return h.reshape(*batch, *h.shape[1:])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UNet]]:
        yield "two_levels", cls((1, 4, 4), 4)
        yield "conditional", cls((2, 4, 2), 4, (1, 1), attention=(2,), context_features=3, head_channels=2)


class _Stage(nn.Module):
    """A residual block and, where the level has it, attention."""

    def __init__(self, block: _Block, attention: _Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Tensor, condition: Tensor, twice: bool) -> Tensor:
        h = self.block(h, condition, twice)
        return h if self.attention is None else self.attention(h, twice)


class _Block(nn.Module):
    """Two convolutions added to what came in: (N, C, H, W) and a condition (N or 1, E) -> (N, C', H, W)."""

    def __init__(self, before: int, width: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(_groups(before), before), nn.Conv2d(before, width, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * width)
        self.second_norm, self.second = nn.GroupNorm(_groups(width), width), nn.Conv2d(width, width, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, condition: Tensor, twice: bool) -> Tensor:
        inner = self.first(functional.silu(normalized(self.first_norm, h, twice=twice)))
        scale, shift = self.modulation(condition)[..., None, None].chunk(2, dim=1)
        inner = torch.addcmul(shift, normalized(self.second_norm, inner, twice=twice), 1 + scale)
        return self.skip(h) + self.second(self.drop(functional.silu(inner)))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Self-attention over the pixels, added to what came in: (N, C, H, W) -> the same."""

    def __init__(self, width: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(width // head_channels, 1)
        if width % self.heads:
            raise ConfigError(f"UNet: expected {width} channels at attention to be a multiple of head_channels={head_channels}.")
        self.norm, self.qkv, self.out = nn.GroupNorm(_groups(width), width), nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, twice: bool) -> Tensor:
        pixels = h.shape[-2] * h.shape[-1]
        q, k, v = self.qkv(normalized(self.norm, h, twice=twice)).reshape(len(h), 3, self.heads, h.shape[1] // self.heads, pixels).mT.unbind(1)
        return h + self.out(attend(q, k, v, twice=twice).mT.reshape(h.shape))  # type: ignore[no-any-return]


class _Upsample(nn.Module):
    """Twice the height and width, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(functional.interpolate(h, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


def _groups(width: int) -> int:
    """Groups of a group norm: 32 where that leaves at least 4 channels each, fewer for narrow layers."""
    return math.gcd(32, max(width // 4, 1))


def _check(image_shape: Sequence[int], channels: int, multipliers: Sequence[int], blocks: int) -> tuple[tuple[int, ...], int, tuple[int, ...], int]:
    shape, levels = positive_sizes(image_shape, "UNet", "image_shape"), positive_sizes(multipliers, "UNet", "multipliers")
    if len(shape) != 3 or not levels:
        raise ConfigError(f"UNet: expected an image_shape (C, H, W) and at least one multiplier; got {image_shape!r} and {multipliers!r}.")
    step = 2 ** (len(levels) - 1)
    if shape[1] % step or shape[2] % step:
        raise ConfigError(f"UNet: expected height and width divisible by {step} for {len(levels)} levels; got {shape[1]} x {shape[2]}.")
    return shape, positive(channels, "UNet", "channels"), levels, positive(blocks, "UNet", "blocks")
