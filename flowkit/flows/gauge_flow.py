"""Flows of U(1) lattice gauge fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flowkit.bijectors import Chain, U1GaugeCoupling
from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import positive, positive_sizes
from flowkit.distributions import UniformBox


@FLOWS.register("gauge_flow")
class GaugeFlow(Flow):
    """Links theta (2, L, L) in [0, 2 pi) of a two-dimensional U(1) gauge field: uniform angles, then gauge-equivariant couplings.

    The density does not change under gauge transformations, exactly. Layer i maps links of direction i mod 2 on the lines
    (i // 2) mod 4, 4 + (i // 2) mod 4, ...: eight layers map every link once. Starts near the uniform law. Sampling is closed;
    ``log_prob`` of given links solves for the inverse of every layer. Train it on ``U1Lattice`` with ``ReverseKL``.

    Args:
        size: L, a multiple of 4.
        layers: number of couplings, best a multiple of 8.
        components: of the maps of plaquettes, see ``NonCompactProjection``.
        hidden: channels of each net's hidden layers.
        activation: of the nets.
        kernel: odd size of the convolutions.

    Reference: Kanwar et al. (2020), Equivariant flow-based sampling for lattice gauge theory, arXiv:2003.06413.

    Example:
        >>> import torch
        >>> from flowkit.flows import GaugeFlow
        >>> flow = GaugeFlow(4, layers=2)
        >>> x, log_prob = flow.sample_and_log_prob(3, generator=torch.Generator().manual_seed(0))
        >>> x.shape, torch.allclose(log_prob, flow.log_prob(x), atol=1e-4)
        (torch.Size([3, 2, 4, 4]), True)
    """

    def __init__(
        self, size: int, layers: int = 16, components: int = 6, hidden: Sequence[int] = (8, 8), *, activation: str = "leaky_relu", kernel: int = 3
    ) -> None:
        who = type(self).__name__
        self.size, self.layers, self.components = positive(size, who, "size"), positive(layers, who, "layers"), positive(components, who, "components")
        self.hidden, self.activation, self.kernel = positive_sizes(hidden, who, "hidden"), activation, positive(kernel, who, "kernel")
        if self.size % 4:
            raise ConfigError(f"{who}: expected a size that is a multiple of 4; got {size}. Use 4, 8, 12, ...")
        couplings = [
            U1GaugeCoupling(size, components, self.hidden, direction=layer % 2, offset=layer // 2 % 4, activation=activation, kernel=kernel)
            for layer in range(self.layers)
        ]
        domain = Box(0.0, 2 * math.pi, (2, self.size, self.size))
        super().__init__(UniformBox(domain.low, domain.high, (2, self.size, self.size)), Chain(couplings))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GaugeFlow]]:
        yield "links", cls(4, layers=2, components=2, hidden=(4,))
        yield "smooth", cls(4, layers=1, components=3, hidden=(), activation="tanh")
