"""U-Nets as velocity fields of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.continuous._image_field import ImageField
from flowkit.core.registry import FIELDS
from flowkit.nets.unet import UNet


@FIELDS.register("unet_field")
class UNetField(ImageField):
    """A U-Net of (image, t, context) as velocity; zero when built.

    ``channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,)`` is the network usual for CIFAR-10. It has no divergence of
    its own: densities use Hutchinson's estimate.

    Args:
        image_shape: (C, H, W); H and W divisible by 2^(levels - 1).
        channels: of the first level.
        multipliers: channels of the levels, as multiples of ``channels``.
        blocks: residual blocks of a level.
        attention: heights of the levels with self-attention.
        head_channels: channels of an attention head.
        context_features: size of the context's last axis, such as that of an embedded class.
        dropout: inside the blocks.

    Shapes: t () or (*B), x (*B, C, H, W), context (*B, context_features) -> (*B, C, H, W).

    Reference: Ho et al. (2020), Denoising Diffusion Probabilistic Models, arXiv:2006.11239; Lipman et al. (2023),
    Flow Matching for Generative Modeling, arXiv:2210.02747.
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
    ) -> None:
        super().__init__()
        extra = {"attention": attention, "head_channels": head_channels, "context_features": context_features, "dropout": dropout}
        self.net = UNet(image_shape, channels, multipliers, blocks, **extra)  # type: ignore[arg-type]
        self.image_shape, self.channels, self.multipliers, self.blocks = self.net.image_shape, self.net.channels, self.net.multipliers, self.net.blocks
        self.attention, self.head_channels, self.dropout = self.net.attention, self.net.head_channels, dropout
        self.context_features = self.net.context_features
        self.event_shape, self.context_shape = self.image_shape, (self.context_features,) if self.context_features else None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UNetField]]:
        yield "one_level", cls((1, 2, 2), 4, (1,))
        yield "conditional", cls((2, 4, 2), 4, (1, 1), attention=(2,), context_features=3, head_channels=2)
