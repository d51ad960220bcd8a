"""The normal law's counterpart on spheres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.domain.sphere import Sphere
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_event
from flowkit.distributions._starts import start
from flowkit.distributions._von_mises_fisher import draw_cosine, log_mass


@DISTRIBUTIONS.register("von_mises_fisher", "vmf")
class VonMisesFisher(Distribution):
    """p(x) = exp(k m . x) / Z(k) on S^dim, the direction m and log k learned; a density per volume of the sphere.

    Evaluated as -k |x - m|^2 / 2 - log int exp(-k |y - m|^2 / 2) dy, which no concentration overflows; on S^2 the integral is
    2 pi (1 - exp(-2 k)) / k, elsewhere a quadrature of relative error below 1e-10. Draws reject from Wood's envelope for m . x and
    carry no gradient. A temperature T divides k by T^2: the tempered law p^(1 / T^2).

    Args:
        dim: dimension of the sphere; events have dim + 1 coordinates.
        mean: where the direction starts, (dim + 1,), of any length but 0; default the last axis.
        concentration: where k starts, > 0.

    Reference:
        Fisher 1953, Dispersion on a sphere, Proc. R. Soc. A 217; Wood 1994, Simulation of the von Mises Fisher distribution,
        Commun. Stat. Simul. Comput. 23.

    Example:
        >>> import torch
        >>> from flowkit.distributions import VonMisesFisher
        >>> round(VonMisesFisher(2, concentration=1e6).log_prob(torch.tensor([0.0, 0.0, 1.0])).item(), 3)      # log(k / 2 pi)
        11.978
    """

    reparametrized = False
    _support: Sphere

    def __init__(self, dim: int = 2, *, mean: Tensor | None = None, concentration: float = 10.0) -> None:
        super().__init__()
        self._support = Sphere(dim)
        self.dim, self.mean, self.concentration = self._support.dim, mean, concentration
        self.event_shape = self._support.event_shape
        first = torch.eye(self.dim + 1)[-1] if mean is None else start(mean, (self.dim + 1,), self.who, "mean")
        if not bool(first.norm() > 0):
            raise ConfigError(f"{self.who}: expected a mean of {self.dim + 1} numbers that are not all 0; got {mean}.")
        self.direction = nn.Parameter(first / first.norm())
        self.log_concentration = nn.Parameter(start(concentration, (), self.who, "concentration", positive=True).log())

    @property
    def centre(self) -> Tensor:
        """m, of length 1: (dim + 1,)."""
        return self._support.project(self.direction)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        k = self.log_concentration.exp()
        return -0.5 * k * (x - self.centre).square().sum(-1) - log_mass(k, self.dim)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        with torch.no_grad():
            m = self.centre
            if temperature == 0:
                return m.expand(*shape, self.dim + 1).clone()
            k = (self.log_concentration.exp() / temperature**2).expand(shape)
            along, across = draw_cosine(k, self.dim, generator)
            around = torch.randn((*shape, self.dim), generator=generator, dtype=m.dtype, device=m.device)
            around = around / torch.linalg.vector_norm(around, dim=-1, keepdim=True)
            drawn = along.unsqueeze(-1) * m + across.unsqueeze(-1) * (around @ self._support.tangent_basis(m).mT)
            return self._support.project(drawn)

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        """Derivative of the log-density as it is written, with parts along and across the sphere: (*B, dim + 1)."""
        if context is not None:
            return super().score(x, context)
        check_event(x, self.event_shape, f"{self.who}.score")
        return self.log_concentration.exp() * (self.centre - x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, VonMisesFisher]]:
        yield "sphere", cls(2, concentration=4.0)
        yield "circle", cls(1, mean=torch.tensor([1.0, 2.0]), concentration=1.5)
        yield "in_five", cls(4, concentration=20.0)
