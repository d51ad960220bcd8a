"""Autoregression of images in raster order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._conditioning import check_univariate, traits_over
from flowkit.bijectors._image_conditioning import image_domain, image_shape, start_image_net
from flowkit.core.build import build
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.nets import PixelCNN


@BIJECTORS.register("autoregressive_2d")
class Autoregressive2d(Bijector):
    """x_k = u(z_k; net_k(z_<k, context)), k running over the pixels row by row, and over the channels within a pixel.

    Forward is one pass of the net. The inverse is C H W passes, each on the rows that the net can see. In the order of k
    the Jacobian is triangular, and log_det the sum of the univariate's log-slopes. Univariates with options per
    coordinate have them per channel.

    Args:
        shape: (C, H, W) with H and W None for any size, or C.
        univariate: the scalar map; one of an interval needs H and W.
        hidden: equal widths of the net, one per residual block, at least C.
        context_features: size of the context's last axis, a vector per image.
        activation: of the net.
        kernel: odd size of its window.

    Reference: van den Oord et al. (2016), Conditional image generation with PixelCNN decoders, arXiv:1606.05328, for the
    net; Papamakarios et al. (2017), arXiv:1705.07057, for the map.
    """

    def __init__(
        self,
        shape: int | Sequence[int | None],
        univariate: Univariate,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "relu",
        kernel: int = 3,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.hidden, self.context_features = shape, positive_sizes(hidden, self.who, "hidden"), context_features
        self.activation, self.kernel = activation, positive(kernel, "Autoregressive2d", "kernel")
        self.in_shape = self.out_shape = image_shape(shape, "Autoregressive2d")
        self.context_shape = (context_features,) if context_features else None
        channels = self.in_shape[0]
        every = list(range(channels))
        self.univariate = check_univariate(univariate, self.who)
        self._univariate = univariate.select(every)
        self._of_channel = torch.nn.ModuleList(univariate.select([channel]) for channel in every)
        net = PixelCNN(channels, self._univariate.parameter_count, self.hidden, context_features=context_features, activation=activation, kernel=kernel)
        self._rows_above = net.rows_above
        self.net = start_image_net(net, self._univariate, channels, "Autoregressive2d")
        self._domain = image_domain(self._univariate, every, self.in_shape, None, "Autoregressive2d")
        self._codomain = image_domain(self._univariate, every, self.in_shape, None, "Autoregressive2d")
        # events are laid out channel by channel, so with several channels raster order is not the order given
        self.traits = traits_over(univariate, "triangular" if channels == 1 else "dense", activation, sequential=True).but(score="two_pass")

    def _params(self, value: Tensor, context: Any) -> Tensor:
        """(*B, C, H, W) -> (*B, H, W, C, parameter_count)."""
        params = self.net(value, context).to(value.dtype)
        return params.movedim(-3, -1).unflatten(-1, (len(self._of_channel), self._univariate.parameter_count))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, log_det = self._univariate.transform_event(z.movedim(-3, -1), self._params(z, context), 3)
        return x.movedim(-1, -3), log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        # numbers not solved yet stay at zero: the net cannot see them
        (channels, height, width), slopes = x.shape[-3:], []
        z = torch.zeros_like(x).flatten(-3)
        for i in range(height):
            top = max(0, i - self._rows_above)
            for j in range(width):
                for c, univariate in enumerate(self._of_channel):
                    assert isinstance(univariate, Univariate)
                    seen = z.unflatten(-1, (channels, height, width))[..., top : i + 1, :]
                    params = self._params(seen, context)[..., -1, j, c, :]
                    solved, log_slope = univariate.untransform(x[..., c, i, j].unsqueeze(-1), params.unsqueeze(-2))
                    place = (c * height + i) * width + j
                    z = z.slice_scatter(solved, dim=-1, start=place, end=place + 1)
                    slopes.append(log_slope)
        return z.unflatten(-1, (channels, height, width)), sum_event(torch.cat(slopes, dim=-1), 1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Autoregressive2d]]:
        affine = build({"name": "affine"}, Univariate)
        bounded = build({"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}, Univariate)
        yield "affine", cls((2, 2, 1), affine, (4,), activation="tanh")
        yield "bounded_conditional", cls((1, 2, 2), bounded, (4,), context_features=2, activation="silu")
