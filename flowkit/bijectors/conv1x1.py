"""Invertible 1x1 convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._scores import adjoint
from flowkit.bijectors._square_matrix import FORMS
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import constant_log_det, positive, positive_sizes, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.precision import full_precision


@BIJECTORS.register("conv1x1")
class Conv1x1(Bijector):
    """x[:, i, j] = W z[:, i, j] at every pixel, W an invertible C x C matrix; log_det = H W log|det W|.

    With a context every sample has its own matrix. Arithmetic is in float32 at least.

    | form | W | inverse | log abs det W |
    |---|---|---|---|
    | plu | P L U, P fixed | two triangular solves | C additions |
    | qr | Q R, Q of reflections | transpose, one triangular solve | C additions |
    | exp | exp(A) | exp(-A) | trace A |
    | cayley | (I - S)(I + S)^-1, a rotation | transpose | 0 |

    Besides the product of O(C^2) a pixel, plu has no cost in C^3 forward; qr, exp and cayley build W in O(C^3) a call.

    Args:
        channels: C.
        form: parametrisation of W.
        start: "identity", or "rotation", a random one, as Glow starts.
        context_features: size of the context's last axis, 0 for none.
        hidden: widths of the hidden layers of the context's net.

    Shapes: (*B, C, H, W), any H and W.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, section 3.2 (plu); Hoogeboom et al. (2019), Emerging
    convolutions, arXiv:1901.11137, section 3.2 (qr); Xiao and Liu (2020), arXiv:2007.09651 (exp).
    """

    def __init__(
        self,
        channels: int,
        form: Literal["plu", "qr", "exp", "cayley"] = "plu",
        *,
        start: Literal["identity", "rotation"] = "identity",
        context_features: int = 0,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.channels, self.form, self.start = positive(channels, "Conv1x1", "channels"), form, start
        self.context_features, self.hidden = context_features, positive_sizes(hidden, self.who, "hidden")
        if form not in FORMS:
            raise ConfigError(f"Conv1x1: expected form to be one of {', '.join(FORMS)}; got {form!r}.")
        if start not in ("identity", "rotation"):
            raise ConfigError(f"Conv1x1: expected start to be 'identity' or 'rotation'; got {start!r}.")
        self.in_shape = self.out_shape = (self.channels, None, None)
        self.context_shape = (context_features,) if context_features else None
        self._weight = FORMS[form](self.channels, rotation=start == "rotation", context_features=context_features, hidden=self.hidden)
        self.traits = Traits(jacobian="constant", score="closed", volume_preserving=form == "cayley")

    def _apply_to_pixels(self, value: Tensor, call: Callable[[Mapping[str, Tensor], Tensor], Tensor], values: dict[str, Tensor]) -> Tensor:
        exact = torch.promote_types(value.dtype, torch.float32)
        with full_precision(value):
            if self.context_features:
                return call(values, value.to(exact).flatten(-2)).reshape(value.shape).to(value.dtype)
            columns = value.to(exact).movedim(-3, 0)  # one matrix for all samples: their pixels side by side
            out = call(values, columns.reshape(self.channels, columns[0].numel()))
            return out.reshape(columns.shape).movedim(0, -3).to(value.dtype)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        values = self._weight.values(context, z)
        log_det = z.shape[-2] * z.shape[-1] * self._weight.log_abs_det(values)
        return self._apply_to_pixels(z, self._weight.multiply, values), constant_log_det(log_det, z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        values = self._weight.values(context, x)
        log_det = -x.shape[-2] * x.shape[-1] * self._weight.log_abs_det(values)
        return self._apply_to_pixels(x, self._weight.solve, values), constant_log_det(log_det, x, self.in_shape)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            fixed = self._weight.values(context, score)
        call = self._weight.multiply if inverse else self._weight.solve
        carried = self._apply_to_pixels(score, lambda values, columns: adjoint(lambda point: call(values, point), columns), fixed)
        return *self._formula(value, context, generator, inverse), carried

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Conv1x1]]:
        yield "plu", cls(3, start="rotation")
        yield "qr_conditional", cls(2, "qr", context_features=2, hidden=(4,))
        yield "cayley", cls(2, "cayley")
        yield "exp_conditional", cls(2, "exp", context_features=2, hidden=(4,))
        yield "plu_conditional", cls(2, "plu", context_features=2, hidden=(4,))
        yield "single_qr", cls(1, "qr")
