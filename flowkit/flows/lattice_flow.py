"""Flows of scalar lattice fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from flowkit.bijectors import Chain, CheckerboardCoupling, FourierPSD
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.distributions import StandardNormal


@FLOWS.register("lattice_flow")
class LatticeFlow(Flow):
    """A scalar field on a periodic lattice: white noise, checkerboard couplings, then a learned spectrum (``FourierPSD``).

    Without layers it is a free field, whose action is quadratic; the couplings, odd and even sites by turns, bend the noise for the
    interaction. Starts as the free field of squared mass ``m2``. With the spectrum last training goes faster than with it first. Keep
    ``symmetry="sign"`` where the action has it: without it the reverse divergence can settle on one sign of the field. Sampling and
    ``log_prob`` both cost one pass. Train it on an action, such as ``Phi4``, with ``ReverseKL``; there is no ``Standardize``.

    Args:
        shape: sites along each of 1 to 3 axes.
        layers: number of couplings, 0 or more.
        hidden: channels of each net's hidden layers.
        symmetry: "sign" for fields whose density does not change under phi -> -phi; or "none".
        m2: squared mass of the free field that training starts from, > 0.
        activation: of the nets; "tanh" for ``symmetry="sign"``.
        kernel: odd size of the convolutions.

    Reference: Albergo, Kanwar, Shanahan (2019), arXiv:1904.12072; Komijani, Marinkovic (2023), arXiv:2301.01504.

    Example:
        >>> import torch
        >>> from flowkit.flows import LatticeFlow
        >>> flow = LatticeFlow((4, 4), layers=2)
        >>> x, log_prob = flow.sample_and_log_prob(3, generator=torch.Generator().manual_seed(0))
        >>> x.shape, torch.allclose(log_prob, flow.log_prob(-x), atol=1e-5)
        (torch.Size([3, 4, 4]), True)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        layers: int = 4,
        hidden: Sequence[int] = (8, 8),
        *,
        symmetry: Literal["sign", "none"] = "sign",
        m2: float = 1.0,
        activation: str = "tanh",
        kernel: int = 3,
    ) -> None:
        who = type(self).__name__
        self.shape, self.layers, self.hidden = shape, whole_number(layers, who, "layers", 0), positive_sizes(hidden, who, "hidden")
        self.symmetry, self.m2, self.activation, self.kernel = symmetry, m2, activation, positive(kernel, who, "kernel")
        free = FourierPSD(shape, m2=m2)
        couplings = [
            CheckerboardCoupling(shape, self.hidden, "even" if layer % 2 else "odd", symmetry=symmetry, activation=activation, kernel=kernel)
            for layer in range(self.layers)
        ]
        super().__init__(StandardNormal(tuple(size for size in free.in_shape if size is not None)), Chain([*couplings, free]))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LatticeFlow]]:
        yield "plane", cls((2, 2), layers=2, hidden=(4,))
        yield "line", cls(3, layers=1, hidden=(4,), symmetry="none")
