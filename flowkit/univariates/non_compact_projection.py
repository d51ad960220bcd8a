"""Scalar maps of the circle by its projection on the line."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive
from flowkit.univariates._iterative import IterativeUnivariate

TURN = 2 * math.pi
SHARE = 0.45  # of the logarithm of the largest number: how far log-stretches go
START = 0.4  # spread of the log-stretches at the start: equal components would stay equal in training


@UNIVARIATES.register("non_compact_projection")
class NonCompactProjection(IterativeUnivariate):
    """An angle P = z - low in [0, 2 pi], stretched along the line that tan(P / 2) runs over; the mean of K such maps:

        x = low + 1/K sum_k 2 arctan(e^{s_k} tan(P / 2)),   dx/dz = 1/K sum_k 1 / (e^{-s_k} cos^2(P / 2) + e^{s_k} sin^2(P / 2))

    with arctan continued past P = pi. Smooth on the circle; P = 0 and P = pi stay where they are, so follow it by a shift of the
    angle. s_k < 0 draws values towards P = 0, s_k > 0 towards pi. Written by the sine and cosine of half the angle from pi: there is
    no pole anywhere. Parameters are s_1, ..., s_K, held within 0.45 times the log of the dtype's largest number (39.9 in float32, 319 in
    float64, 4.9 in float16), because squares of slopes, up to e^{2|s|}, come up in gradients; what is beyond gets none. e^{-|s|} is there
    far below the resolution of an angle. The inverse is iterative.

    Args:
        components: K.
        low: where the circle is cut, in radians; the interval is [low, low + 2 pi].

    Example:
        >>> import math, torch
        >>> from flowkit.univariates import NonCompactProjection
        >>> x, log_slope = NonCompactProjection(1).transform(torch.tensor([0.0, math.pi]), torch.full((2, 1), 0.7))
        >>> [round(number, 4) for number in (*x.tolist(), *log_slope.tolist())]
        [0.0, 3.1416, 0.7, -0.7]

    Reference: Rezende et al. (2020), Normalizing flows on tori and spheres, arXiv:2002.02428, section 2.1.3; Kanwar et al. (2020),
    Equivariant flow-based sampling for lattice gauge theory, arXiv:2003.06413.
    """

    def __init__(self, components: int = 6, *, low: float = 0.0) -> None:
        super().__init__()
        self.components = self.parameter_count = positive(components, "NonCompactProjection", "components")
        if isinstance(low, bool) or not isinstance(low, int | float) or not math.isfinite(low):
            raise ConfigError(f"NonCompactProjection: expected low to be a finite angle in radians; got {low!r}.")
        self.low, self.high = float(low), float(low) + TURN

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        most = _most(params.dtype)
        half = torch.exp(0.5 * params.clamp(-most, most))
        return half, 1 / half

    def _parts(self, z: Tensor, half: Tensor, inverse_half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a = e^{-s/2} sin h, b = e^{s/2} cos h and 1 / (a^2 + b^2), the slope, all (*S, K), with h half the angle from P = pi."""
        turned = 0.5 * (z - (self.low + math.pi))
        # the cosine from the nearer end, which angles next to it are exact from
        end = 0.5 * torch.where(turned < 0, z - self.low, self.high - z)
        a, b = turned.sin().unsqueeze(-1) * inverse_half, end.sin().unsqueeze(-1) * half
        return a, b, 1 / (a * a + b * b)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        a, b, slope = self._parts(z, *coefficients)
        return torch.atan2(a, b).mean(-1) * 2 + (self.low + math.pi), slope.mean(-1).log()

    def carry_score(self, value: Tensor, params: Tensor, score: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In closed form, with r = 1 / (a^2 + b^2) and u, l the map and its log-slope, at the point z of the circle.

        1. du/ds_k = -2 a b r / K and dl/ds_k = r^2 (a^2 - b^2) / sum r.
        2. dl/dz = -sum r^2 g / sum r, g = d(1/r)/dz = e^{-s} sin h cos h - e^{s} sin h cos h.
        3. Forward s' = (s - dl/dz) / u', and the gradient in the parameters is s' du/ds + dl/ds.
        4. Inverse s' = s u' + dl/dz; with dz/ds = -(du/ds) / u' the gradient of s' z - l(z) is -(s du/ds + dl/ds).
        """
        out, log_slope = (self.untransform if inverse else self.transform)(value, params)
        with torch.no_grad():
            half, inverse_half = self._coefficients(params)
            z = out if inverse else value
            a, b, r = self._parts(z, half, inverse_half)
            total = r.sum(-1, keepdim=True)
            by_stretch = a * b * r * (-2 / self.components)
            log_by_stretch = r * r * (a * a - b * b) / total
            # e^{-s} sin h cos h = a b e^{-s}
            bend = -(r * r * a * b * (inverse_half * inverse_half - half * half)).sum(-1) / total.squeeze(-1)
            if inverse:
                carried, given = score * torch.exp(-log_slope) + bend, -score
            else:
                carried = given = (score - bend) * torch.exp(-log_slope)
            by_params = given.unsqueeze(-1) * by_stretch + (-log_by_stretch if inverse else log_by_stretch)
            by_params = torch.where(params.abs() <= _most(params.dtype), by_params, 0.0)  # what is held passes nothing on
        return out, log_slope, carried, by_params

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return super().untransform(x.clamp(self.low, self.high), params)

    def initial_parameters(self) -> Tensor:
        return torch.linspace(-START, START, self.components) if self.components > 1 else torch.zeros(1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, NonCompactProjection]]:
        yield "mixture", cls(3)
        yield "single_centred", cls(1, low=-math.pi)


def _most(dtype: torch.dtype) -> float:
    """How far log-stretches go."""
    return SHARE * math.log(torch.finfo(dtype).max)
