"""Lattice phi^4 theory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event, positive_number, sample_shape
from flowkit.core.target import Target
from flowkit.targets._lattice import axes, backward_neighbour, changed_scalar, forward_neighbour, lattice_names, lattice_sizes, squared_momenta
from flowkit.targets._scalars import at_least_zero, finite_number


@TARGETS.register("phi4")
class Phi4(Target):
    """A scalar field on a periodic lattice: log p = -S, S = sum_x [ sum_mu (phi(x + mu) - phi(x))^2 + m2 phi^2 + lam phi^4 ].

    This action, that of Albergo et al., is the one of all methods here. Two others are in use and are converted by constructors;
    their fields differ by a factor c, phi = c phi', and so log Z = log Z' + V log c on V sites:

        ``Phi4.hopping(size, kappa, lam)``      S = sum_x [ -2 kappa sum_mu phi' phi'(x + mu) + (1 - 2 lam) phi'^2 + lam phi'^4 ],  c = sqrt(kappa)
        ``Phi4.normflow(size, kappa, m2, lam)`` S = sum_x [ kappa / 2 sum_mu (phi'(x + mu) - phi'(x))^2 + m2 / 2 phi'^2 + lam phi'^4 ],  c = sqrt(kappa / 2)

    The free field (lam = 0, m2 > 0) is normal: log_normalizer = 1/2 sum_k log(pi / (m2 + sum_mu 4 sin^2(k_mu / 2))), and ``sample`` is
    exact. Otherwise log_normalizer is None. On an axis of one site the neighbour is the site itself, on one of two both links count.

    Symmetries: ``sign`` and, where they change a field, ``lattice_translation``, ``lattice_reflection``, ``lattice_rotation``.

    Args:
        size: sites along each axis, one number for all or ``dims`` numbers.
        m2: squared mass, any sign; > 0 where lam = 0.
        lam: coupling, >= 0.
        dims: number of axes.

    Example:
        >>> from flowkit.targets import Phi4
        >>> target = Phi4.hopping((16, 8), kappa=0.3, lam=0.022)
        >>> round(target.m2, 4), round(target.lam, 4)
        (-0.8133, 0.2444)

    Reference: Albergo, Kanwar, Shanahan (2019), Flow-based generative models for MCMC in lattice field theory, arXiv:1904.12072;
    the hopping form: Nicoli et al. (2021), Estimation of thermodynamic observables in lattice field theories with deep generative
    models, arXiv:2007.07115; ``normflow``: Komijani, Marinkovic (2023), Generative models for scalar field theories, arXiv:2301.01504.
    """

    like: Tensor

    def __init__(self, size: int | Sequence[int], m2: float, lam: float, dims: int = 2) -> None:
        super().__init__()
        sizes = lattice_sizes(size, dims, "Phi4")
        m2, lam = finite_number(m2, "Phi4", "m2"), at_least_zero(lam, "Phi4", "lam")
        if lam == 0 and m2 <= 0:
            raise ConfigError(f"Phi4: expected m2 > 0 where lam = 0; got m2={m2}, whose density has no finite integral. Set lam > 0.")
        self.size, self.m2, self.lam, self.dims = sizes if isinstance(size, list | tuple) else sizes[0], m2, lam, len(sizes)
        self.event_shape: tuple[int, ...] = sizes
        self.invariances = lattice_names(sizes) | {"sign"}
        self.can_sample = lam == 0
        self.log_normalizer = 0.5 * math.fsum(np.log(np.pi / (m2 + squared_momenta(sizes))).ravel().tolist()) if self.can_sample else None
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @classmethod
    def hopping(cls, size: int | Sequence[int], kappa: float, lam: float, dims: int = 2) -> Phi4:
        """The theory of the hopping form: m2 = (1 - 2 lam) / kappa - 2 dims, coupling lam / kappa^2, field phi = sqrt(kappa) phi'.

        Args:
            size, dims: as for Phi4.
            kappa: hopping parameter, > 0.
            lam: coupling of that form, >= 0.
        """
        positive_number(kappa, "Phi4.hopping", "kappa"), at_least_zero(lam, "Phi4.hopping", "lam")
        return cls(size, (1 - 2 * lam) / kappa - 2 * len(lattice_sizes(size, dims, "Phi4.hopping")), lam / kappa**2, dims)

    @classmethod
    def normflow(cls, size: int | Sequence[int], kappa: float, m2: float, lam: float, dims: int = 2) -> Phi4:
        """The theory with halved kinetic and mass terms: m2 / kappa, coupling 4 lam / kappa^2, field phi = sqrt(kappa / 2) phi'.

        Args:
            size, dims: as for Phi4.
            kappa: factor of the kinetic term, > 0.
            m2, lam: squared mass and coupling of that form.
        """
        positive_number(kappa, "Phi4.normflow", "kappa"), finite_number(m2, "Phi4.normflow", "m2"), at_least_zero(lam, "Phi4.normflow", "lam")
        return cls(size, m2 / kappa, 4 * lam / kappa**2, dims)

    def hopping_parameters(self) -> tuple[float, float]:
        """(kappa, lam) of the same theory in the hopping form; the field there is phi / sqrt(kappa)."""
        slope = self.m2 + 2 * self.dims
        root = math.sqrt(slope**2 + 8 * self.lam)
        kappa = 2 / (slope + root) if slope > 0 else (root - slope) / (4 * self.lam)  # without a difference of nearly equal numbers
        return kappa, self.lam * kappa**2

    def log_density(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "Phi4.log_density")
        square = x.square()
        links = sum((forward_neighbour(x, axis) - x).square() for axis in axes(self.event_shape))
        return -(links + (self.m2 + self.lam * square) * square).sum(tuple(axes(self.event_shape)))

    def score(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "Phi4.score")
        x = x.detach()
        curvature = sum(2 * x - forward_neighbour(x, axis) - backward_neighbour(x, axis) for axis in axes(self.event_shape))
        return -2 * (curvature + (self.m2 + 2 * self.lam * x.square()) * x)

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor | None:
        """Exact draws of the free field, white noise times the root of the propagator in momentum space; None for lam > 0."""
        shape = sample_shape(n, "Phi4.sample")
        if not self.can_sample:
            return None
        dtype = torch.promote_types(self.like.dtype, torch.float32)
        noise = torch.randn((*shape, *self.event_shape), generator=generator, dtype=dtype, device=self.like.device)
        return _through_momenta(noise, self.event_shape, lambda waves: self.free_propagator().to(dtype).sqrt() * waves).to(self.like.dtype)

    def free_propagator(self) -> Tensor:
        """1 / (2 (m2 + sum_mu 4 sin^2(k_mu / 2))): the variance of each momentum where lam = 0, in the order of ``torch.fft.fftn``: (*size).

        Raises:
            ConfigError: m2 <= 0, where there is none.
        """
        if self.m2 <= 0:
            raise ConfigError(f"Phi4.free_propagator: expected m2 > 0; got m2={self.m2}. There is no free theory of that mass.")
        return torch.as_tensor(0.5 / (self.m2 + squared_momenta(self.event_shape)), dtype=self.like.dtype, device=self.like.device)

    def two_point(self, x: Tensor) -> Tensor:
        """The mean over y of phi(y) phi(y + r), of each event: (*B, *size) -> (*B, *size). Its entry at r = 0 is that of phi^2.

        Averaged over samples it is <phi phi>(r), whose Fourier transform is ``free_propagator()`` where lam = 0.
        """
        check_event(x, self.event_shape, "Phi4.two_point")
        return _through_momenta(x, self.event_shape, lambda waves: waves.abs().square()) / math.prod(self.event_shape)

    def symmetry(self, name: str, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        return changed_scalar(name, x, self.event_shape, generator)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Phi4]]:
        yield "broken", cls(4, -4.0, 6.975)
        yield "free", cls((3, 2), 0.5, 0.0)
        yield "line", cls.hopping(5, 0.3, 0.022, dims=1)


def _through_momenta(x: Tensor, sizes: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Tensor:
    """Fields (*B, *sizes) changed in momentum space, in single precision at least; no transform takes an empty batch."""
    if x.numel() == 0:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.fft.ifftn(change(torch.fft.fftn(wide, dim=axes(sizes))), dim=axes(sizes)).real.to(x.dtype)
