"""Linear maps in factored form Q R."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import GeneralLinearMap, Parts
from flowkit.bijectors._matrices import paired_directions, reflect, solve_triangular, times, triangular
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("qr_linear")
class QRLinear(GeneralLinearMap):
    """x = Q R z + shift: Q a product of reflections, R upper triangular with diagonal sign * exp(log_diagonal).

    Starts as the identity if the number of reflections is even. Forward costs one product and m reflections of O(D), inverse
    one triangular solve and as many reflections, log_det D additions.

    Args:
        features: D.
        reflections: m; D - 1 reach every rotation or its mirror image. Default: the even number next to D.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; every factor then depends on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Hoogeboom, van den Berg and Welling (2019), Emerging convolutions, arXiv:1901.11137;
    Tomczak and Welling (2016), arXiv:1611.09630.
    """

    sign: Tensor

    def __init__(self, features: int, *, reflections: int | None = None, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size = positive(features, "QRLinear", "features")
        reflections = None if reflections is None else positive(reflections, "QRLinear", "reflections")
        count = size + size % 2 if reflections is None else reflections
        start = {"log_diagonal": torch.zeros(size)}
        if size > 1:  # in one dimension neither reflections nor other entries have a gradient
            start |= {"directions": paired_directions(count, size), "entries": torch.zeros(size, size)}
        super().__init__(size, start, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.reflections = size, reflections
        self.register_buffer("sign", torch.ones(size))

    def _upper(self, parts: Parts) -> Tensor:
        return triangular(parts.get("entries"), self.sign * parts["log_diagonal"].exp(), upper=True)

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        value = times(self._upper(parts), value)
        value = reflect(value, parts["directions"]) if "directions" in parts else value
        return value, parts["log_diagonal"].sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        value = reflect(value, parts["directions"].flip(-2)) if "directions" in parts else value
        return solve_triangular(self._upper(parts), value, upper=True), parts["log_diagonal"].sum(-1)

    def _from_matrix(self, matrix: Tensor, shift: Tensor) -> QRLinear:
        """Q R from the reflections that LAPACK's factorisation itself is made of: W = H_1 ... H_D R."""
        size = matrix.shape[0]
        packed, scales = torch.geqrf(matrix)
        vectors = (packed.tril(-1) + torch.eye(size).to(packed)).mT  # row i is the direction of H_i
        vectors = torch.where(scales.unsqueeze(-1) == 0, torch.zeros_like(vectors), vectors)  # no reflection was needed there
        diagonal = packed.diagonal()
        made = QRLinear(size, reflections=size)._filled(log_diagonal=diagonal.abs().log(), directions=vectors.flip(0), entries=packed.triu(1), shift=shift)
        made.sign.copy_(diagonal.sign())
        return made

    @classmethod
    def examples(cls) -> Iterator[tuple[str, QRLinear]]:
        yield "plain", cls(3)
        yield "conditional", cls(3, reflections=2, context_features=2)
        yield "single", cls(1, bias=False)
