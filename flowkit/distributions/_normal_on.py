"""Normal laws conditioned on one convex set: the mass inside and exact draws, one class for each kind of set."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flowkit.core.domain import Ball, Box, HalfSpace, Simplex
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.numerics.log_normal_cdf import log_interval, log_ndtr, log_ndtri

FAR = 1e9  # standard units that stand for an infinite end
NODES = 48  # Chebyshev and Gauss nodes of the simplex's integrals
HALVINGS = 64  # of the bisection for a ball's radius
LEAST_MASS = 1e-250
ROUNDS = 10_000  # of rejection


class PartBox:
    """Independent coordinates between two ends."""

    def __init__(self, domain: Box, loc: Tensor, scale: Tensor) -> None:
        self.domain, self.loc, self.scale = domain, loc, scale
        low, high = (domain.low_buffer.double() - loc) / scale, (domain.high_buffer.double() - loc) / scale
        self.low, self.high = low.clamp(-FAR, FAR), high.clamp(-FAR, FAR)
        top, log_mass = log_interval(self.low, self.high)
        self.log_mass = float((log_mass - 0.5 * top.square()).sum())

    def draw(self, n: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        """The inverse distribution function, from the end of the normal that is nearer."""
        a, b = self.low.to(like), self.high.to(like)
        p = torch.rand((n, *a.shape), generator=generator, dtype=like.dtype, device=like.device)
        log_p, log_q = p.clamp(min=torch.finfo(p.dtype).tiny).log(), torch.log1p(-p)
        below, above = torch.logaddexp(log_ndtr(a) + log_q, log_ndtr(b) + log_p), torch.logaddexp(log_ndtr(-a) + log_q, log_ndtr(-b) + log_p)
        left = below < above
        t = log_ndtri(torch.where(left, below, above))
        return self.domain.project(self.loc.to(like) + self.scale.to(like) * torch.where(left, t, -t))


class PartHalfSpace:
    """Normal in the wall's directions, a tail cut off across it."""

    def __init__(self, domain: HalfSpace, loc: Tensor, scale: Tensor) -> None:
        if scale.dim():
            raise ConfigError("TruncatedNormalOn: expected one scale for all coordinates of a half-space; got one each.")
        self.domain, self.loc, self.scale = domain, loc, scale
        normal = domain.normal_buffer.double()
        self.normal = normal / normal.norm()
        self.end = ((domain.offset - (loc * normal).sum()) / (normal.norm() * scale)).clamp(-FAR, FAR)
        self.log_mass = float(log_ndtr(self.end))

    def draw(self, n: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        """A normal whose coordinate across the wall is drawn again, below its end."""
        normal, end = self.normal.to(like), self.end.to(like)
        z = torch.randn((n, len(normal)), generator=generator, dtype=like.dtype, device=like.device)
        p = torch.rand((n, 1), generator=generator, dtype=like.dtype, device=like.device).clamp(min=torch.finfo(like.dtype).tiny)
        below, above = log_ndtr(end) + p.log(), torch.log1p(-p * torch.exp(log_ndtr(end)))
        left = below < above
        t = log_ndtri(torch.where(left, below, above))
        across = torch.where(left, t, -t)
        z = z + (across - (z * normal).sum(-1, keepdim=True)) * normal
        return self.domain.project(self.loc.to(like) + self.scale.to(like) * z)


class PartBall:
    """A centred normal: uniform direction, |x|^2 a truncated chi-square."""

    def __init__(self, domain: Ball, loc: Tensor, scale: Tensor) -> None:
        if scale.dim() or bool((loc != 0).any()):
            raise ConfigError(f"TruncatedNormalOn: expected loc 0 and one scale on a ball; got loc={loc.tolist()}, scale={scale.tolist()}.")
        self.domain, self.scale, self.half = domain, float(scale), torch.tensor(0.5 * domain.dim, dtype=torch.float64)
        self.mass = self._below(torch.tensor(float(domain.radius), dtype=torch.float64))
        self.log_mass = float(self.mass.clamp(min=1e-320).log())

    def _below(self, radius: Tensor) -> Tensor:
        return torch.special.gammainc(self.half, 0.5 * (radius / self.scale) ** 2)

    def draw(self, n: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        """The radius by bisection of its distribution function, in float64."""
        direction = torch.randn((n, self.domain.dim), generator=generator, dtype=like.dtype, device=like.device)
        p = torch.rand((n, 1), generator=generator, dtype=like.dtype, device=like.device).double().cpu() * self.mass
        low, high = torch.zeros_like(p), torch.full_like(p, float(self.domain.radius))
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            below = self._below(middle) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return self.domain.project(direction * (high.to(like) / direction.norm(dim=-1, keepdim=True)))


class PartSimplex:
    """A normal on the solid simplex: the mass by repeated convolution, draws by rejection from the better of two laws.

    f_k(s), the density at s of the sum of k coordinates >= 0, is s^(k - 1) h_k(s) with
    h_k(s) = int_0^1 w^(k - 2) h_(k-1)(s w) h_1(s (1 - w)) dw, smooth on [0, 1]; the mass is int_0^1 f_d(s) ds.
    """

    def __init__(self, domain: Simplex, loc: Tensor, scale: Tensor) -> None:
        if scale.dim() or bool((loc != loc.flatten()[0]).any()):
            raise ConfigError("TruncatedNormalOn: expected one loc and one scale for all coordinates of a simplex; got one each.")
        self.domain, self.loc, self.scale, dim = domain, float(loc.flatten()[0]), float(scale), domain.dim
        self.log_mass = _simplex_log_mass(dim, self.loc, self.scale)
        # exp(-|x - loc|^2 / 2 scale^2) is largest at the point nearest to loc
        near = domain.project(torch.full((dim,), self.loc, dtype=torch.float64)) - self.loc
        self.least = 0.5 * float(near.square().sum()) / self.scale**2
        by_uniform = self.log_mass + dim * (HALF_LOG_2PI + math.log(self.scale)) - domain.log_volume + self.least
        self.uniform, self.accepted = by_uniform > self.log_mass, math.exp(max(by_uniform, self.log_mass))

    def draw(self, n: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        """Uniform draws thinned to the normal, or normal draws that fall inside."""
        kept: list[Tensor] = []
        count = 0
        for _ in range(ROUNDS):
            size = int(1.1 * (n - count) / max(self.accepted, 1e-4)) + 16
            proposed = self._proposed(size, generator, like)
            kept.append(proposed)
            count += len(proposed)
            if count >= n:
                return torch.cat(kept)[:n]
        raise ConfigError(f"TruncatedNormalOn: too little of N({self.loc}, {self.scale}^2) lies in {self.domain}. Move loc inside, or raise scale.")

    def _proposed(self, size: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        if not self.uniform:
            x = self.loc + self.scale * torch.randn((size, self.domain.dim), generator=generator, dtype=like.dtype, device=like.device)
            return x[self.domain.contains(x)]
        unit = torch.rand((size, self.domain.dim + 1), generator=generator, dtype=like.dtype, device=like.device)
        spacing = -torch.log1p(-unit)
        x = self.domain.project((spacing / spacing.sum(-1, keepdim=True))[..., :-1])
        keep = torch.rand(size, generator=generator, dtype=like.dtype, device=like.device)
        return x[keep < torch.exp(self.least - 0.5 * (x - self.loc).square().sum(-1) / self.scale**2)]


Part = PartBox | PartHalfSpace | PartBall | PartSimplex


def part_of(domain: Domain, loc: Tensor, scale: Tensor) -> Part:
    """The law on one set.

    Raises:
        ConfigError: its mass is not known in closed form, or too small.
    """
    kinds = ((Box, PartBox), (HalfSpace, PartHalfSpace), (Ball, PartBall), (Simplex, PartSimplex))
    for kind, part in kinds:
        if isinstance(domain, kind):
            made: Part = part(domain, loc, scale)  # type: ignore[arg-type]
            if not made.log_mass > math.log(LEAST_MASS):
                raise ConfigError(f"TruncatedNormalOn: hardly any of N({loc.tolist()}, {scale.tolist()}^2) lies in {domain}. Move loc inside, or raise scale.")
            return made
    raise ConfigError(f"TruncatedNormalOn: the mass of a normal law in {domain} has no known form. Use UniformOn(domain).")


def _simplex_log_mass(dim: int, loc: float, scale: float) -> float:
    """log P(x >= 0, sum x <= 1) for x ~ N(loc, scale^2 I), by Gauss's rule on Chebyshev interpolants."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    w, weights = 0.5 * (nodes + 1), 0.5 * weights
    chebyshev = np.polynomial.chebyshev
    ends = 0.5 * (1 + np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES))

    def first(u: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((u - loc) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))

    pieces = max(1, math.ceil(1 / (8 * scale)))  # Gauss cells, no wider than 8 scales
    w = ((w[None, :] + np.arange(pieces)[:, None]) / pieces).ravel()
    weights = np.tile(weights / pieces, pieces)
    size = max(NODES, 12 * pieces * 4)
    ends = 0.5 * (1 + np.cos(np.pi * (np.arange(size) + 0.5) / size))
    h, log_shift = first(ends), 0.0
    for k in range(2, dim + 1):
        fit = chebyshev.chebfit(2 * ends - 1, h, size - 1)
        inner = chebyshev.chebval(2 * np.outer(ends, w) - 1, fit) * first(np.outer(ends, 1 - w))
        h = inner @ (weights * w ** (k - 2))
        top = np.abs(h).max()
        h, log_shift = h / top, log_shift + math.log(top)
    fit = chebyshev.chebfit(2 * ends - 1, h, size - 1)
    total = float((weights * w ** (dim - 1)) @ chebyshev.chebval(2 * w - 1, fit))
    return math.log(max(total, 1e-320)) + log_shift
