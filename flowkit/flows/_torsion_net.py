"""Conditioners for couplings between torsions and other coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowkit.nets import MLP

HARMONICS = 3  # a methyl group has three equal places


class TorsionNet(nn.Module):
    """An MLP that sees angles as cos(k t), sin(k t), k = 1 .. 3, so that it is continuous where they wrap, and other values as they are.

    Args:
        circular: for each input, whether it is an angle.
        out_features: size of the output; hidden: widths; context_features: size of the context's last axis.
    """

    angles: Tensor
    plain: Tensor

    def __init__(self, circular: Sequence[bool], out_features: int, hidden: Sequence[int], context_features: int = 0, activation: str = "silu") -> None:
        super().__init__()
        self.out_features = out_features
        angles = [i for i, flag in enumerate(circular) if flag]
        plain = [i for i, flag in enumerate(circular) if not flag]
        self.register_buffer("angles", torch.tensor(angles, dtype=torch.int64), persistent=False)
        self.register_buffer("plain", torch.tensor(plain, dtype=torch.int64), persistent=False)
        self.net = MLP(len(plain) + 2 * HARMONICS * len(angles), out_features, hidden, context_features=context_features, activation=activation)

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return self.net.last

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        turns = [k * x.index_select(-1, self.angles) for k in range(1, HARMONICS + 1)]
        seen = [x.index_select(-1, self.plain), *(turn.cos() for turn in turns), *(turn.sin() for turn in turns)]
        return self.net(torch.cat(seen, dim=-1), context)
