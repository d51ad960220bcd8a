"""Coupling layers of scalar lattice fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._lattice_nets import EvenOddNet, field_net
from flowkit.bijectors._scores import entry, left
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, positive, positive_number, positive_sizes, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets import CircularConvNet
from flowkit.nets.circular_conv_net import check_kernel
from flowkit.numerics.activations import soft_bounded

SITES = ("odd", "even")
SYMMETRIES = ("sign", "none")


@BIJECTORS.register("checkerboard_coupling")
class CheckerboardCoupling(Bijector):
    """Affine coupling on a periodic lattice: one colour of the checkerboard conditions, the other is mapped site by site,

        x_a = z_a exp(s_a) + t_a,   (s, t) = net(z with the mapped sites set to zero),   |s| <= bound,   log_det = sum_a s_a

    with a net of convolutions that wrap around, so that lattices of even sizes are shifted by two sites as before or after the map.
    With ``symmetry="sign"`` s is even and t odd under z -> -z: the map commutes with a change of sign. It starts at the identity.
    Both directions cost one pass of the net.

    Args:
        shape: sites along each of 1 to 3 axes, two sites in all or more.
        hidden: channels of the net's hidden layers.
        mapped: the colour that is mapped, "odd" for sites with an odd sum of coordinates, or "even".
        symmetry: "sign", or "none".
        activation: of the net; an odd one, "tanh", for ``symmetry="sign"``.
        kernel: odd size of the net's convolutions, which reaches at most once around the lattice.
        bound: largest |s|.

    Reference: Albergo, Kanwar, Shanahan (2019), Flow-based generative models for MCMC in lattice field theory, arXiv:1904.12072; the sign:
    Del Debbio, Marsh Rossney, Wilson (2021), Efficient modelling of trivializing maps for lattice phi^4 theory, arXiv:2105.12481.
    """

    chosen: Tensor

    def __init__(
        self,
        shape: int | Sequence[int],
        hidden: Sequence[int] = (8, 8),
        mapped: Literal["odd", "even"] = "odd",
        *,
        symmetry: Literal["sign", "none"] = "sign",
        activation: str = "tanh",
        kernel: int = 3,
        bound: float = 3.0,
    ) -> None:
        super().__init__()
        self.shape, self.hidden, self.mapped, self.symmetry = shape, positive_sizes(hidden, self.who, "hidden"), mapped, symmetry
        self.activation, self.kernel, self.bound = activation, positive(kernel, self.who, "kernel"), positive_number(bound, self.who, "bound")
        self.in_shape = self.out_shape = as_shape(shape, self.who)
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        if not 1 <= len(sizes) <= 3 or len(sizes) < len(self.in_shape) or max(sizes) < 2:
            raise ConfigError(f"{self.who}: expected the sizes of 1 to 3 axes, two sites in all or more; got {shape!r}. Pass e.g. (8, 8).")
        for name, given, options in (("mapped", mapped, SITES), ("symmetry", symmetry, SYMMETRIES)):
            if given not in options:
                raise ConfigError(f"{self.who}: expected {name} to be one of {', '.join(options)}; got {given!r}.")
        check_kernel(self.kernel, sizes, self.who)
        self._net: CircularConvNet | EvenOddNet = field_net(self.who, self.hidden, activation, self.kernel, len(sizes), symmetry)
        parity = sum(torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij"), torch.zeros((), dtype=torch.int64)) % 2
        self.register_buffer("chosen", (parity == (mapped == "odd")).to(torch.get_default_dtype()), persistent=False)
        self.traits = Traits(score="closed", smooth=activation not in ("relu", "leaky_relu"))

    def _parameters_at(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift (*B, *shape), zero where nothing is mapped."""
        chosen = self.chosen.to(value.dtype)
        found = self._net((value * (1 - chosen)).unsqueeze(-1 - len(self.in_shape))).to(value.dtype)  # autocast may have run it in bf16
        raw, shift = found.unbind(-1 - len(self.in_shape))
        return soft_bounded(raw, self.bound) * chosen, shift * chosen

    def _mapped(self, value: Tensor, log_scale: Tensor, shift: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        rank = len(self.in_shape)
        if inverse:
            return (value - shift) * torch.exp(-log_scale), -sum_event(log_scale, rank)
        return value * torch.exp(log_scale) + shift, sum_event(log_scale, rank)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._mapped(z, *self._parameters_at(z), inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._mapped(x, *self._parameters_at(x), inverse=True)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The mapped sites' score is s' = s / (dx_a/dz_a); then one product with the net's Jacobian corrects the other colour's.

        With x_a = z_a e^s + t and x_a e^s's derivative in s, d(s' x_a + s)/ds = s z_a + 1 and d/dt = s'; for the inverse
        z_a = (x_a - t) e^-s, d(s z_a - s)/ds = -(s z_a + 1) and d/dt = -s', with s the score at z and s' that at x.
        """
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            entered = entry(value, recording)
            log_scale, shift = self._parameters_at(entered)
            out, log_det = self._mapped(entered, log_scale, shift, inverse)
        with torch.no_grad():
            carried = score * torch.exp(log_scale if inverse else -log_scale)
            latent = carried * out if inverse else score * value
            sign = -1.0 if inverse else 1.0
            cotangents = [sign * (latent + 1), -score if inverse else carried]
        (correction,) = torch.autograd.grad([log_scale, shift], entered, cotangents, retain_graph=True)
        after = carried - correction
        return left(out, log_det, after, recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CheckerboardCoupling]]:
        yield "square", cls((4, 4), (4,))
        yield "line_free", cls(5, (4,), "even", symmetry="none")
        yield "rectangle_relu", cls((2, 3), (4, 4), symmetry="none", activation="leaky_relu", bound=1.0)
