"""Scalar affine map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive_number
from flowkit.core.tally import tally
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.kernels.affine import affine, inverse_affine
from flowkit.kernels.bounded_affine import bounded_affine, inverse_bounded_affine
from flowkit.kernels.op import Op
from flowkit.univariates._scale_maps import OFFSETS, SCALE_MAPS, start_raw

Scale = Literal["tanh", "exp", "softplus", "sigmoid", "sigmoid_inverse"]


@UNIVARIATES.register("affine")
class Affine(Univariate):
    """x = s z + t; parameters (t, raw), the scale s > 0 by one of

    - ``tanh`` (default): s = exp(bound tanh(raw / bound)), within exp(+-bound), so neither direction overflows;
    - ``exp``: s = exp(raw), without limits;
    - ``softplus``: s = softplus(raw + offset) + floor;
    - ``sigmoid``: s = sigmoid(raw + offset) + floor, below 1 + floor: with the defaults what nflows calls its default;
    - ``sigmoid_inverse``: s = 1 / (sigmoid(raw + offset) + floor), above 1 / (1 + floor).

    It starts at the identity; the two sigmoids, which only tend to it, at s = 0.97 + floor (a floor of at most 0.03) and its inverse.

    Args:
        bound: largest |log-scale| of ``tanh``.
        scale: the scale map.
        offset: added to raw; default 2 for the sigmoids and, for ``softplus``, what makes s = 1 at raw = 0.
        floor: smallest scale, in [0, 1); default 1e-3. Like ``offset`` for ``softplus`` and the sigmoids only.

    Reference: Dinh et al. (2017), Real NVP, arXiv:1605.08803, equation 7.
    """

    parameter_count = 2
    traits = Traits(jacobian="diagonal")

    def __init__(self, bound: float = 5.0, *, scale: Scale = "tanh", offset: float | None = None, floor: float | None = None) -> None:
        super().__init__()
        bound = positive_number(bound, "Affine", "bound")
        if scale not in SCALE_MAPS:
            raise ConfigError(f"Affine: expected scale to be one of {sorted(SCALE_MAPS)}; got {scale!r}.")
        if scale not in OFFSETS and (offset is not None or floor is not None):
            raise ConfigError(f"Affine: offset and floor go with softplus and the sigmoids; got scale={scale!r}. Drop them.")
        if floor is not None and not 0 <= floor < 1:
            raise ConfigError(f"Affine: expected 0 <= floor < 1; got {floor}.")
        self.bound, self.scale, self.offset, self.floor = bound, scale, offset, floor
        self._offset = OFFSETS.get(scale, 0.0) if offset is None else float(offset)
        self._floor = 1e-3 if floor is None else float(floor)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        return shift, SCALE_MAPS[self.scale](raw, self.bound, self._offset, self._floor)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform_event(z, params, 0)

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.untransform_event(x, params, 0)

    def transform_event(self, z: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        found = self.as_op(inverse=False)
        if found is not None:
            return found[0](z, params, *found[1], event_dims, base)  # type: ignore[no-any-return]
        shift, log_scale = self._split(params)
        return tally(z * torch.exp(log_scale) + shift, log_scale, event_dims, base)

    def untransform_event(self, x: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        found = self.as_op(inverse=True)
        if found is not None:
            return found[0](x, params, *found[1], event_dims, base)  # type: ignore[no-any-return]
        shift, log_scale = self._split(params)
        return tally((x - shift) * torch.exp(-log_scale), -log_scale, event_dims, base)

    def as_op(self, *, inverse: bool) -> tuple[Op, tuple[Any, ...]] | None:
        if self.scale == "tanh":
            return inverse_bounded_affine if inverse else bounded_affine, (self.bound,)
        if self.scale == "exp":
            return inverse_affine if inverse else affine, ()
        return None

    def carry_score(self, value: Tensor, params: Tensor, score: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.scale not in ("tanh", "exp"):
            return super().carry_score(value, params, score, inverse=inverse)
        out, log_slope = (self.untransform_event if inverse else self.transform_event)(value, params, 0)
        with torch.no_grad():
            slope = log_slope.to(score.dtype)
            carried = score * torch.exp(-slope)
            by_scale = -1 - carried * out if inverse else 1 + score * value
            if self.scale == "tanh":  # the log-scale a = +-slope, and da/draw = 1 - (a / bound)^2
                by_scale = torch.addcmul(by_scale, by_scale, slope.square(), value=-1 / self.bound**2)
            return out, log_slope, carried, torch.stack([-score if inverse else carried, by_scale], dim=-1)

    def saturated(self, params: Tensor) -> Tensor | None:
        raw = params[..., 1]
        if self.scale == "tanh":
            return raw.abs() > 2 * self.bound
        return (raw + self._offset).abs() > 4 if self.scale.startswith("sigmoid") else None

    def initial_parameters(self) -> Tensor:
        return torch.tensor([0.0, start_raw(self.scale, self._offset, self._floor)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Affine]]:
        yield "default", cls()
        yield "sigmoid", cls(scale="sigmoid")
        yield "softplus", cls(scale="softplus", floor=1e-2)
        yield "sigmoid_inverse", cls(scale="sigmoid_inverse", floor=0.0)
        yield "exp", cls(scale="exp")
