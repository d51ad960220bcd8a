"""Coupling layers of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._conditioning import carry_through, check_univariate, traits_over
from flowkit.bijectors._image_conditioning import image_domain, image_shape, start_image_net
from flowkit.bijectors._scores import entry, left
from flowkit.core.build import build
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS, NETS
from flowkit.core.shapes import positive_sizes, whole_number
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate

MASKS = ("channel", "channel_reversed", "checkerboard", "checkerboard_reversed")


@BIJECTORS.register("image_coupling")
class ImageCoupling(Bijector):
    """Part of the image conditions, the rest is mapped elementwise: x_t = u(z_t; net(z_c, context)), x_c = z_c.

    Masks, for C channels and pixels (i, j):

    - "channel": the first C // 2 channels condition, the rest is mapped; C >= 2;
    - "channel_reversed": the first ceil(C / 2) channels are mapped, the rest conditions; C >= 2;
    - "checkerboard": pixels with i + j even condition, those with i + j odd are mapped, in all channels; any C and size of
      two pixels or more;
    - "checkerboard_reversed": the other way round.

    Both directions cost one pass of the net. Univariates with options per coordinate have them per channel.

    Args:
        shape: (C, H, W) with H and W None for any size, or C.
        univariate: the scalar map; one of an interval needs H and W.
        hidden: channels of the net's hidden layers.
        mask: which part is mapped.
        context_features: size of the context's last axis, a vector per image.
        net: registered conditioner of images, called as ``conv_net`` is.
        activation: of the net.

    Reference: Dinh et al. (2017), Real NVP, arXiv:1605.08803, section 3.4; Kingma and Dhariwal (2018), arXiv:1807.03039, section 3.3.
    """

    mapped: Tensor
    conditioning: Tensor

    def __init__(
        self,
        shape: int | Sequence[int | None],
        univariate: Univariate,
        hidden: Sequence[int] = (64, 64),
        mask: Literal["channel", "channel_reversed", "checkerboard", "checkerboard_reversed"] = "channel",
        *,
        context_features: int = 0,
        net: str = "conv_net",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.hidden, self.mask = shape, positive_sizes(hidden, self.who, "hidden"), mask
        self.context_features, self.net, self.activation = context_features, net, activation
        self.in_shape = self.out_shape = image_shape(shape, "ImageCoupling")
        self.context_shape = (context_features,) if context_features else None
        channels, height, width = self.in_shape
        mapped, rest = _channels(mask, channels)
        self.univariate = check_univariate(univariate, self.who)
        self._univariate = univariate.select(mapped)
        outputs = len(mapped) * self._univariate.parameter_count
        made = NETS[net](len(rest), outputs, self.hidden, context_features=context_features, activation=activation)
        self._net = start_image_net(made, self._univariate, len(mapped), "ImageCoupling")
        self._board = mask.startswith("checkerboard")
        self._odd = int(mask == "checkerboard")  # parity of i + j at the mapped pixels
        pixels = None
        if self._board and height is not None and width is not None:
            pixels = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == self._odd
        self._domain = image_domain(self._univariate, mapped, self.in_shape, pixels, "ImageCoupling")
        self._codomain = image_domain(self._univariate, mapped, self.in_shape, pixels, "ImageCoupling")
        self.register_buffer("mapped", torch.tensor(mapped), persistent=False)
        self.register_buffer("conditioning", torch.tensor(rest), persistent=False)
        self.traits = traits_over(univariate, "dense", activation)

    def _pixels(self, value: Tensor) -> Tensor | None:
        """Positions in the flattened image that a checkerboard maps; None for all."""
        if not self._board:
            return None
        height, width = value.shape[-2:]
        if height * width < 2:
            raise ShapeError(f"{self.who}: a checkerboard needs two pixels or more; got an image of {height} x {width}. Use mask='channel'.")
        if width % 2:  # rows of odd length: the colours alternate along the flattened image too
            return torch.arange(self._odd, height * width, 2, device=value.device)
        count = torch.arange(height * (width // 2), device=value.device)
        row, place = count // (width // 2), count % (width // 2)
        return row * width + 2 * place + (row + self._odd) % 2

    def _params(self, value: Tensor, pixels: Tensor | None, context: Any) -> Tensor:
        """Parameters (*B, pixels, channels, parameter_count) from the part that conditions."""
        seen = value.index_select(-3, self.conditioning)
        if pixels is not None:
            hidden = seen.flatten(-2).index_fill(-1, pixels, 0.0)
            seen = hidden.reshape(seen.shape)
        params = self._net(seen, context).to(value.dtype).flatten(-2)  # autocast may have run the net in bf16
        params = params if pixels is None else params.index_select(-1, pixels)
        return params.mT.unflatten(-1, (len(self.mapped), self._univariate.parameter_count))

    def _run(self, value: Tensor, context: Any, inverse: bool) -> tuple[Tensor, Tensor]:
        pixels = self._pixels(value)
        params = self._params(value, pixels, context)
        call = self._univariate.untransform_event if inverse else self._univariate.transform_event
        out, log_det = call(self._part(value, pixels), params, 2)
        return self._whole(value, pixels, out), log_det

    def _part(self, value: Tensor, pixels: Tensor | None) -> Tensor:
        """What is mapped (*B, pixels, channels): channels last, where univariates have their options."""
        part = value.index_select(-3, self.mapped).flatten(-2)
        return (part if pixels is None else part.index_select(-1, pixels)).mT

    def _whole(self, value: Tensor, pixels: Tensor | None, part: Tensor) -> Tensor:
        """The image with that part in its place."""
        if pixels is None:
            return value.index_copy(value.dim() - 3, self.mapped, part.mT.unflatten(-1, value.shape[-2:]))
        return value.flatten(-2).index_copy(value.dim() - 2, pixels, part.mT).reshape(value.shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, inverse=True)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        recording, pixels = torch.is_grad_enabled(), self._pixels(value)
        with torch.enable_grad():
            entered = entry(value, recording)
            params = self._params(entered, pixels, context)
            made = carry_through(self._univariate, self._part(entered, pixels), params, entered, self._part(score, pixels), 2, inverse=inverse)
            out = self._whole(entered, pixels, made.out)
        after = self._whole(score if made.correction is None else score - made.correction, pixels, made.score)
        return left(out, made.log_det, after, recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ImageCoupling]]:
        affine = build({"name": "affine"}, Univariate)
        spline = build({"name": "rational_quadratic_spline", "bins": 3}, Univariate)
        bounded = build({"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}, Univariate)
        yield "checkerboard_spline", cls((1, 2, 3), spline, (4,), "checkerboard")
        yield "channel_conditional", cls((3, 2, 2), affine, (4, 4), context_features=2, activation="tanh")
        yield "bounded", cls((1, 2, 2), bounded, (4,), "checkerboard_reversed", activation="tanh")
        yield "any_size", cls(2, affine, (4,), "channel_reversed", activation="tanh")


def _channels(mask: str, channels: int) -> tuple[list[int], list[int]]:
    """Channels that are mapped and channels that condition; all of both for a checkerboard."""
    if mask not in MASKS:
        raise ConfigError(f"ImageCoupling: expected mask to be one of {', '.join(MASKS)}; got {mask!r}.")
    every = list(range(channels))
    if mask.startswith("checkerboard"):
        return every, every
    if channels == 1:
        raise ConfigError("ImageCoupling: one channel cannot be split. Use mask='checkerboard', or Squeeze the image first.")
    first = every[: channels // 2] if mask == "channel" else every[: channels - channels // 2]
    rest = every[len(first) :]
    return (rest, first) if mask == "channel" else (first, rest)
