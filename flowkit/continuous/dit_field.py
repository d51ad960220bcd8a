"""Diffusion transformers as velocity fields of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.continuous._image_field import ImageField
from flowkit.core.registry import FIELDS
from flowkit.nets.dit import DiT


@FIELDS.register("dit_field")
class DiTField(ImageField):
    """A transformer over the patches of an image, conditioned on t and a context, as velocity; zero when built.

    It has no divergence of its own: densities use Hutchinson's estimate.

    Args:
        image_shape: (C, H, W); H and W multiples of ``patch``.
        patch: side of a patch.
        width: of a patch's vector, a multiple of ``heads`` and of 4.
        depth: blocks.
        heads: of attention.
        context_features: size of the context's last axis, such as that of an embedded class.

    Shapes: t () or (*B), x (*B, C, H, W), context (*B, context_features) -> (*B, C, H, W).

    Reference: Peebles and Xie (2023), Scalable Diffusion Models with Transformers, arXiv:2212.09748; Ma et al. (2024), SiT, arXiv:2401.08740.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch: int = 2,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        *,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.net = DiT(image_shape, patch, width, depth, heads, context_features=context_features)
        self.image_shape, self.patch, self.width, self.depth, self.heads = self.net.image_shape, self.net.patch, self.net.width, self.net.depth, self.net.heads
        self.context_features = self.net.context_features
        self.event_shape, self.context_shape = self.image_shape, (self.context_features,) if self.context_features else None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiTField]]:
        yield "plain", cls((1, 4, 4), 2, 8, 1, 2)
        yield "conditional", cls((2, 4, 2), 2, 8, 2, 2, context_features=3)
