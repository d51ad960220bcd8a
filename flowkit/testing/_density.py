"""Agreement of densities with volume one and with samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.shapes import Shape
from flowkit.testing._compare import close, expect
from flowkit.testing._mass import Mass, density_mass, onto

LogDensity = Callable[[Tensor], Tensor]


def integrable(domain: Domain, event: Shape) -> bool:
    """Whether the density can be integrated on a grid here: one or two dimensions, and a map onto the domain."""
    return len(event) == 1 and event[0] in (1, 2) and onto(domain, event) is not None


def unfold(log_density: LogDensity, domain: Domain, event: Shape) -> tuple[LogDensity, Any]:
    """The density of u, x = g(u) with g from R^n onto the domain, and g itself."""
    g = onto(domain, event)
    assert g is not None
    g = g.double()

    def unfolded(u: Tensor) -> Tensor:
        x, log_det = g(u)
        return log_density(x) + log_det

    return unfolded, g


def measured_mass(log_density: LogDensity, domain: Domain, event: Shape, near: Tensor) -> float:
    """Integral of a density on a one- or two-dimensional domain; ``near`` are points where most of it lies."""
    return bounded_mass(log_density, domain, event, near).value


def bounded_mass(log_density: LogDensity, domain: Domain, event: Shape, near: Tensor) -> Mass:
    """``measured_mass`` with its error."""
    unfolded, g = unfold(log_density, domain, event)
    with torch.no_grad():
        u = g.inverse(near)[0]
        u = u[torch.isfinite(u).all(-1)]
        quantiles = torch.quantile(u, torch.tensor([0.1, 0.5, 0.9], dtype=u.dtype), dim=0)
        return density_mass(unfolded, u.shape[-1], quantiles[1], (quantiles[2] - quantiles[0]).clamp(min=1e-3) / 2)


def stein(score: LogDensity, log_density: LogDensity, samples: Tensor, domain: Domain, event: Shape) -> None:
    """E[phi s + phi'] = 0 for phi = tanh((u_i - m_i) / w_i), within five standard errors, in coordinates u of R^n."""
    g = onto(domain, event)
    if g is None:
        return
    if domain.trivial:
        u, slope = samples, score(samples).detach()
    else:
        unfolded, g = unfold(log_density, domain, event)
        with torch.no_grad():
            u = g.inverse(samples)[0]
        u = u[torch.isfinite(u.flatten(1)).all(-1)].requires_grad_()
        (slope,) = torch.autograd.grad(unfolded(u).sum(), u)
        u = u.detach()
    u, slope = u.flatten(1), slope.flatten(1)
    width = (u.quantile(0.9, dim=0) - u.quantile(0.1, dim=0)).clamp(min=1e-3)
    phi = torch.tanh((u - u.median(0).values) / width)
    slope_of_phi = (1 - phi.square()) / width
    pairs = {"1": (torch.ones_like(phi), torch.zeros_like(phi)), "tanh": (phi, slope_of_phi), "tanh^2": (phi.square(), 2 * phi * slope_of_phi)}
    for name, (function, change) in pairs.items():
        terms = function * slope + change
        error = terms.std(0) / len(terms) ** 0.5
        close(terms.mean(0), torch.zeros_like(error), 5 * error + 1e-6, f"samples against score: mean of (phi s + phi') for phi = {name}")


def distribution_function(log_density: LogDensity, samples: Tensor, domain: Domain, event: Shape) -> None:
    """In one dimension: Kolmogorov distance of samples to the integral of the density stays below 2.2 / sqrt(n)."""
    unfolded, g = unfold(log_density, domain, event)
    with torch.no_grad():
        u = g.inverse(samples)[0].flatten().sort().values
        span = float(u[-1] - u[0])
        grid = torch.linspace(float(u[0]) - 3 * span, float(u[-1]) + 3 * span, 40001, dtype=u.dtype)
        density = unfolded(grid.unsqueeze(-1)).exp().nan_to_num(0.0)
    below = torch.cumulative_trapezoid(density, grid)
    at = below[(torch.searchsorted(grid, u) - 1).clamp(0, len(below) - 1)]
    empirical = (torch.arange(len(u), dtype=u.dtype) + 0.5) / len(u)
    distance = float((at - empirical).abs().max())
    expect(distance <= 2.2 / len(u) ** 0.5, f"samples against density: Kolmogorov distance {distance:.4f} for {len(u)} samples")
