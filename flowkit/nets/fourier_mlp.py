"""Networks of a place and a time, the time by its sines and cosines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flowkit.core.errors import ShapeError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, whole_number


@NETS.register("fourier_mlp")
class FourierMLP(nn.Module):
    """A multilayer perceptron of (x, t) that starts at zero: its last layer is zero.

        e(t) = W_2 gelu(W_1 [sin(c t + phi), cos(c t + phi)]),  h_0 = gelu(V x + e(t)),  h_k = gelu(U_k h_{k-1}),  out = L h_depth

    The frequencies c are ``width`` numbers from 0.1 to 100, the phases phi are learned; each matrix has its bias. With features=0
    it is a function of the time alone. A time common to many rows is embedded once: ``embed`` and ``at`` are the two halves of a call.

    Args:
        features: size of x's last axis; 0 for none.
        out_features: size of the output's last axis.
        width: of every hidden layer.
        depth: hidden layers after h_0.

    Shapes: x (*B, features), t () or broadcast against *B -> (*B, out_features); without x t's own shape is *B.

    Reference: Zhang and Chen (2022), Path integral sampler, arXiv:2111.15141.

    Example:
        >>> import torch
        >>> from flowkit.nets import FourierMLP
        >>> FourierMLP(2, 3)(torch.ones(5, 2), torch.tensor(0.5)).shape
        torch.Size([5, 3])
    """

    frequencies: Tensor

    def __init__(self, features: int, out_features: int, width: int = 64, *, depth: int = 2) -> None:
        super().__init__()
        self.features, self.out_features = whole_number(features, "FourierMLP", "features", 0), positive(out_features, "FourierMLP", "out_features")
        self.width, self.depth = positive(width, "FourierMLP", "width"), whole_number(depth, "FourierMLP", "depth", 0)
        self.register_buffer("frequencies", torch.linspace(0.1, 100.0, self.width), persistent=False)
        self.phases = nn.Parameter(torch.randn(self.width))
        self.time = nn.Sequential(nn.Linear(2 * self.width, self.width), nn.GELU(), nn.Linear(self.width, self.width))
        self.first = nn.Linear(self.features, self.width) if self.features else None
        body: list[nn.Module] = [nn.GELU()]
        for _ in range(self.depth):
            body += [nn.Linear(self.width, self.width), nn.GELU()]
        self.body, self.last = nn.Sequential(*body), nn.Linear(self.width, self.out_features)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def embed(self, t: Tensor) -> Tensor:
        """e(t): (*T) -> (*T, width)."""
        angles = t.to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies + self.phases
        embedded: Tensor = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedded

    def at(self, embedded: Tensor, x: Tensor | None = None) -> Tensor:
        """The output for an embedded time (*T, width), broadcast against x (*B, features): (*B, out_features)."""
        if (self.first is None) != (x is None) or (x is not None and x.shape[-1:] != (self.features,)):
            got = "none" if x is None else f"shape {tuple(x.shape)}"
            raise ShapeError(f"FourierMLP: expected x {f'(*B, {self.features})' if self.features else 'None, a function of time alone'}; got {got}.")
        hidden = embedded if self.first is None else self.first(x) + embedded
        out: Tensor = self.last(self.body(hidden))
        return out

    def forward(self, x: Tensor | None, t: Tensor) -> Tensor:
        return self.at(self.embed(t), x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, FourierMLP]]:
        yield "plane", cls(2, 3, 8)
        yield "time_alone", cls(0, 1, 8, depth=1)
