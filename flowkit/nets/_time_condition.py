"""What velocity networks share: features of the time, their sum with a context, and attention that can be differentiated twice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

_FASTEST, _SLOWEST = 1000.0, 0.1  # angular frequencies of the features of a time in [0, 1]


class TimeCondition(nn.Module):
    """A vector for a time and a context: a two-layer network of sines and cosines of the time, plus a linear map of the context.

    Args:
        width: size of the vectors.
        context_features: size of the context's last axis; 0 for none.
    """

    frequencies: Tensor

    def __init__(self, width: int, context_features: int = 0) -> None:
        super().__init__()
        count = max(width // 8, 4)
        steps = torch.linspace(math.log(_FASTEST), math.log(_SLOWEST), count)
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.net = nn.Sequential(nn.Linear(2 * count, width), nn.SiLU(), nn.Linear(width, width))
        self.context_layer = nn.Linear(context_features, width) if context_features else None

    def forward(self, t: Tensor, context: Tensor | None, batch: Sequence[int], dtype: torch.dtype) -> Tensor:
        """t () or (*B), context (*Bc, C) -> (N, width) with N the size of the batch, or 1 where all of it shares one."""
        angles = _rows(t.to(dtype).unsqueeze(-1), batch) * self.frequencies
        vectors = self.net(torch.cat([angles.cos(), angles.sin()], dim=-1))
        if self.context_layer is not None and context is not None:
            vectors = vectors + self.context_layer(_rows(context.to(dtype), batch))
        return vectors


def _rows(value: Tensor, batch: Sequence[int]) -> Tensor:
    """(F) -> (1, F), and (*Bc, F) -> (N, F)."""
    if value.dim() == 1:
        return value.unsqueeze(0)
    return value.expand(*batch, value.shape[-1]).reshape(math.prod(batch), value.shape[-1])


def attend(q: Tensor, k: Tensor, v: Tensor, *, twice: bool) -> Tensor:
    """softmax(q k' / sqrt(c)) v of (..., n, c); with ``twice`` by operations that can be differentiated twice, and forward."""
    if not twice:
        return functional.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.softmax(-1) @ v


def normalized(norm: nn.GroupNorm, h: Tensor, *, twice: bool) -> Tensor:
    """A group norm of (N, C, H, W); with ``twice`` by operations whose batched derivative can be differentiated again (its own cannot, torch 2.13)."""
    if not twice:
        return norm(h)  # type: ignore[no-any-return]
    groups = h.reshape(len(h), norm.num_groups, -1)
    variance, mean = torch.var_mean(groups, -1, correction=0, keepdim=True)
    scaled = ((groups - mean) * torch.rsqrt(variance + norm.eps)).reshape(h.shape)
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def differentiated(x: Tensor) -> bool:
    """Whether derivatives in the input may be taken, as a divergence does: fused attention has no second derivative, nor a forward one."""
    if x.requires_grad or torch.compiler.is_compiling():
        return x.requires_grad
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
