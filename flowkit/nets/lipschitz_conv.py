"""Convolutional networks with a Lipschitz constant below 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import Shape, positive, whole_number
from flowkit.nets._lipschitz import LipschitzNet, bounded_kernel, check_coefficient, lipschitz_activation


@NETS.register("lipschitz_conv")
class LipschitzConv(LipschitzNet):
    """Convolutions k x k, 1 x 1, k x k, padded with zeros, with |g(x, c) - g(y, c)| <= coefficient |x - y| on images of any size.

    Each kernel is divided by an upper bound of its operator norm where that exceeds the layer's share, the third root of
    ``coefficient``: Fourier samples, a bound of what lies between them, and Gram iteration. It holds for every parameter
    value and every image size at once (about 4 percent above the norm for 3 x 3 kernels), without state or mutation.

    Args:
        channels: C.
        width: channels of the two hidden layers.
        kernel: k, odd.
        context_features: size of a vector context, added to the channels of every layer.
        activation: "lip_swish", "clip_swish" (twice as wide), "elu" or "tanh".
        coefficient: the Lipschitz bound, at most 0.999.

    Shapes: x (*B, C, H, W), context (*B, context_features) -> (*B, C, H, W).

    Reference: Chen et al. (2019), Residual Flows, arXiv:1906.02735; Delattre et al. (2023), Efficient Bound of Lipschitz Constant
    for Convolutional Layers by Gram Iteration, arXiv:2305.16173; Ehlich and Zeller (1964), Math. Z. 86, for the samples.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        *,
        kernel: int = 3,
        context_features: int = 0,
        activation: str = "lip_swish",
        coefficient: float = 0.97,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, "LipschitzConv", "context_features", 0)
        self.channels, self.width = positive(channels, "LipschitzConv", "channels"), positive(width, "LipschitzConv", "width")
        self.kernel, self.context_features, self.activation = positive(kernel, "LipschitzConv", "kernel"), context_features, activation
        if self.kernel % 2 == 0:
            raise ConfigError(f"LipschitzConv: expected an odd kernel, which keeps the image's size; got {self.kernel}.")
        self.coefficient = check_coefficient(coefficient, "LipschitzConv")
        activations = [lipschitz_activation(activation, axis=-3) for _ in range(2)]
        wide = self.width * activations[0].outputs
        sizes = [(self.channels, self.width, self.kernel), (wide, self.width, 1), (wide, self.channels, self.kernel)]
        layers = [nn.Conv2d(before, after, side, padding=side // 2) for before, after, side in sizes]
        self._place(activations, layers, [self.width, self.width, self.channels], context_features)

    @property
    def in_shape(self) -> Shape:
        """Event shape of x."""
        return (self.channels, None, None)

    def at(self, context: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The function of x alone, its bounded kernels and its share of the context computed once for many calls."""
        share = self.coefficient ** (1 / len(self.layers))
        kernels = [bounded_kernel(kernel, share) for kernel in self._weights()]
        shifts = [shift[..., None, None] for shift in self._shifts(context)]

        def function(x: Tensor) -> Tensor:
            for kernel, shift, activation in zip(kernels[:-1], shifts[:-1], self.activations, strict=True):
                x = activation(_convolve(x, kernel) + shift)
            return _convolve(x, kernels[-1]) + shifts[-1]

        return function

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LipschitzConv]]:
        yield "image", cls(2, 4)
        yield "conditional", cls(1, 4, context_features=2, activation="clip_swish")


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution padded with zeros over any leading batch: (*B, Cin, H, W) -> (*B, Cout, H, W)."""
    out = functional.conv2d(x.reshape(-1, *x.shape[-3:]), kernel, padding=kernel.shape[-1] // 2)
    return out.reshape(*x.shape[:-3], *out.shape[-3:])
