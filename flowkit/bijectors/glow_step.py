"""One step of Glow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from flowkit.bijectors._composed import Composed
from flowkit.bijectors._conditioning import check_univariate
from flowkit.bijectors._image_conditioning import image_shape
from flowkit.bijectors.act_norm import ActNorm
from flowkit.bijectors.conv1x1 import Conv1x1
from flowkit.bijectors.image_coupling import ImageCoupling
from flowkit.core.build import build
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive_sizes, whole_number
from flowkit.core.univariate import Univariate


@BIJECTORS.register("glow_step")
class GlowStep(Composed):
    """Activation normalisation, invertible 1x1 convolution and a coupling, in this order.

    ``forward`` runs from data to latent, as in the paper; chain ``~GlowStep(...)`` where a flow generates.
    The normalisation is set by ``initialize`` from the batch that enters it. The coupling starts as the identity, the
    convolution as a random rotation, so the step starts as that rotation of the channels.

    Args:
        shape: (C, H, W) with H and W None for any size, or C.
        hidden: channels of the hidden layers of the coupling's net.
        univariate: of the coupling; default affine.
        form: parametrisation of the 1x1 convolution, as for ``Conv1x1``.
        mask: of the coupling, as for ``ImageCoupling``; one channel needs "checkerboard".
        context_features: size of the coupling's context, a vector per image.
        net, activation: of the coupling.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, section 3 and figure 2a.
    """

    def __init__(
        self,
        shape: int | Sequence[int | None],
        hidden: Sequence[int] = (512, 512),
        univariate: Univariate | None = None,
        *,
        form: Literal["plu", "qr", "exp", "cayley"] = "plu",
        mask: Literal["channel", "channel_reversed", "checkerboard", "checkerboard_reversed"] = "channel",
        context_features: int = 0,
        net: str = "conv_net",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.hidden, self.univariate, self.form, self.mask = shape, positive_sizes(hidden, self.who, "hidden"), univariate, form, mask
        self.context_features, self.net, self.activation = context_features, net, activation
        event = image_shape(shape, "GlowStep")
        scalar = build({"name": "affine"}, Univariate) if univariate is None else check_univariate(univariate, "GlowStep")
        coupling = ImageCoupling(event, scalar, self.hidden, mask, context_features=context_features, net=net, activation=activation)
        self._compose([ActNorm(event), Conv1x1(event[0], form, start="rotation"), coupling])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GlowStep]]:
        yield "affine", cls((2, 2, 2), (4,), activation="tanh")
        yield "conditional", cls((2, 2, 2), (4, 4), build({"name": "shift"}, Univariate), form="qr", mask="checkerboard", context_features=2)
