"""Learned power spectra of lattice fields."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, constant_log_det, positive_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.precision import full_precision

TIES = ("lattice", "parity")


@BIJECTORS.register("fourier_psd")
class FourierPSD(Bijector):
    """Each mode of a periodic field scaled by the root of a learned power spectrum:

        x = F^-1( sqrt(P_k) F z ),   log_det = sum over k of log(P_k) / 2

    with F the discrete Fourier transform over the whole event. White noise becomes a Gaussian field of covariance F^-1 P F: the free
    field exactly where P_k is its propagator, with which training starts, P_k = 1 / (2 (m2 + sum_mu 4 sin^2(k_mu / 2))) for the action
    sum_x [ sum_mu (phi(x + mu) - phi(x))^2 + m2 phi^2 ]. Commutes with translations, and with the symmetries that the modes are tied by.
    Both directions cost a Fourier transform and one back; the score goes through as the field does, s' = F^-1( P_k^-1/2 F s ).

    Args:
        shape: sites along each axis, any number of axes.
        m2: squared mass of the propagator that training starts from, > 0.
        tied: modes that share a power: "lattice", all that reflections of an axis and exchanges of axes of equal length take into each
            other; or "parity", k and -k only, which a real field asks for.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import FourierPSD
        >>> f = FourierPSD((4, 4))
        >>> sum(p.numel() for p in f.parameters()), round(f(torch.ones(4, 4))[0][0, 0].item(), 4)
        (6, 0.7071)

    Reference: Komijani, Marinkovic (2023), Generative models for scalar field theories: how to deal with poor scaling?, arXiv:2301.01504.
    """

    traits = Traits(jacobian="constant", score="closed")
    orbit: Tensor
    count: Tensor

    def __init__(self, shape: int | Sequence[int], *, m2: float = 1.0, tied: Literal["lattice", "parity"] = "lattice") -> None:
        super().__init__()
        self.shape, self.m2, self.tied = shape, positive_number(m2, self.who, "m2"), tied
        self.in_shape = self.out_shape = as_shape(shape, self.who)
        if not self.in_shape or None in self.in_shape:
            raise ConfigError(f"{self.who}: expected the number of sites along every axis; got {shape!r}. Pass e.g. (8, 8).")
        if tied not in TIES:
            raise ConfigError(f"{self.who}: expected tied to be one of {', '.join(TIES)}; got {tied!r}.")
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        orbit = _orbits(sizes, tied)
        # a real field is given by half of its modes along the last axis
        self.register_buffer("orbit", orbit[..., : sizes[-1] // 2 + 1].contiguous(), persistent=False)
        self.register_buffer("count", torch.bincount(orbit.flatten()), persistent=False)
        _, first = _first_of_each(orbit)
        propagator = 0.5 / (m2 + _squared_momenta(sizes).flatten()[first])
        self.log_power = nn.Parameter(propagator.log().to(torch.get_default_dtype()))

    def spectrum(self) -> Tensor:
        """P_k: (*shape[:-1], shape[-1] // 2 + 1), as ``torch.fft.rfftn`` orders the modes."""
        return self.log_power.exp()[self.orbit]

    def _log_det(self, like: Tensor) -> Tensor:
        dtype = torch.promote_types(like.dtype, torch.float32)
        return constant_log_det(0.5 * (self.log_power.to(dtype) * self.count).sum(), like, self.in_shape)

    def _scaled(self, field: Tensor, power: float) -> Tensor:
        """F^-1( P_k^power F field ), in float32 at least: there is no transform of less."""
        if field.numel() == 0:  # the transform refuses an empty batch
            return field.clone()
        wide = field.to(torch.promote_types(field.dtype, torch.float32))
        axes = tuple(range(-len(self.in_shape), 0))
        with full_precision(field):
            gain = torch.exp(power * self.log_power.to(wide.dtype))[self.orbit]
            modes = torch.fft.rfftn(wide, dim=axes) * gain
            return torch.fft.irfftn(modes, s=field.shape[-len(axes) :], dim=axes).to(field.dtype)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._scaled(z, 0.5), self._log_det(z)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._scaled(x, -0.5), -self._log_det(x)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        out, log_det = self._formula(value, context, generator, inverse)
        with torch.no_grad():  # the map is symmetric: its transposed inverse is its inverse
            return out, log_det, self._scaled(score, 0.5 if inverse else -0.5)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, FourierPSD]]:
        yield "square", cls((4, 4))
        yield "line", cls(5, m2=0.5)
        yield "rectangle_parity", cls((3, 4), tied="parity")


def _squared_momenta(sizes: tuple[int, ...]) -> Tensor:
    """sum_mu 4 sin^2(k_mu / 2), k_mu = 2 pi n_mu / L_mu: (*sizes), float64."""
    steps = [4 * torch.sin(torch.arange(size, dtype=torch.float64) * (math.pi / size)).square() for size in sizes]
    return sum(torch.meshgrid(*steps, indexing="ij"), torch.zeros((), dtype=torch.float64))


def _orbits(sizes: tuple[int, ...], tied: str) -> Tensor:
    """The number of the orbit of each mode, counted from 0: (*sizes) int64."""
    modes = torch.stack(torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij"), -1).flatten(0, -2)
    lengths = torch.tensor(sizes)
    mirrored = (-modes) % lengths
    if tied == "parity":
        images = [modes, mirrored]
    else:
        folded = torch.minimum(modes, mirrored)  # one of each pair under the reflection of an axis
        exchanges = (order for order in itertools.permutations(range(len(sizes))) if all(sizes[i] == size for i, size in zip(order, sizes, strict=True)))
        images = [folded[:, list(order)] for order in exchanges]
    strides = torch.tensor([math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))])
    smallest = torch.stack([(image * strides).sum(-1) for image in images]).amin(0)
    return torch.unique(smallest, return_inverse=True)[1].reshape(sizes)


def _first_of_each(orbit: Tensor) -> tuple[int, Tensor]:
    """Number of orbits, and for each the place of one of its modes in the flattened lattice."""
    flat = orbit.flatten()
    count = int(flat.max()) + 1
    place = torch.empty(count, dtype=torch.int64)
    place[flat] = torch.arange(len(flat))
    return count, place
