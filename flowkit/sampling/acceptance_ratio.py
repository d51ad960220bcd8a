"""Bennett's acceptance ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from flowkit.sampling.free_energy import FreeEnergy, work_values


def bar(forward: Tensor, reverse: Tensor) -> FreeEnergy:
    """Bennett's acceptance ratio: the estimate of least variance from work done both ways.

        sum_F 1 / (1 + exp(c + w_F - dF)) = sum_R 1 / (1 + exp(-c + w_R + dF)),   c = log(n_F / n_R)

    The root is unique and found by Newton steps kept in a bracket. The error is the asymptotic one, sqrt(1 / sum P_0 P_1 - 1 / n_F - 1 / n_R).

    Args:
        forward: (n_F), u_1(x) - u_0(x) of samples of state 0, in kT. reverse: (n_R), u_0(x) - u_1(x) of samples of state 1. Independent values.

    Returns:
        F_1 - F_0, with the overlap of the two densities, sum P_0 P_1 (1 / n_F + 1 / n_R), P_i the probability that a sample came from state i,
        over all samples of both.

    Raises:
        ShapeError, NonFiniteError: values that are no work.

    Reference: Bennett (1976), Efficient estimation of free energy differences from Monte Carlo data, J. Comput. Phys. 22; Shirts et al. (2003),
        Equilibrium free energies from nonequilibrium measurements using maximum-likelihood methods, Phys. Rev. Lett. 91.

    Example:
        >>> import torch
        >>> from flowkit.sampling import bar
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = (torch.randn(50_000, generator=generator, dtype=torch.float64) * width for width in (1.0, 0.5))
        >>> result = bar(1.5 * x.square(), -1.5 * y.square())  # spring constants 1 and 4: F_1 - F_0 = log(4) / 2
        >>> abs(result.delta_f - 0.6931) < 4 * result.error
        True
    """
    forward, reverse = work_values(forward, "bar", "forward work"), work_values(reverse, "bar", "reverse work")
    reverse = reverse.to(forward.device)
    shift = math.log(len(forward) / len(reverse))
    ahead, back = shift + forward, shift - reverse  # where the terms of either side are one half
    delta_f = _root(ahead, back)
    both = (torch.cat([ahead, back]) - delta_f).abs()
    shared = float((-both - 2 * torch.log1p(torch.exp(-both))).exp().sum())  # sum P_0 P_1
    counts = 1 / len(forward) + 1 / len(reverse)
    error = math.sqrt(max(1 / shared - counts, 0.0)) if shared > 0 else math.inf
    return FreeEnergy(delta_f, error, min(shared * counts, 1.0))


def _root(ahead: Tensor, back: Tensor) -> float:
    """The d at which sum sigmoid(d - ahead) = sum sigmoid(back - d): the difference of their logs rises, with a slope of at most 2."""
    ahead, back = ahead[torch.isfinite(ahead)], back[torch.isfinite(back)]
    both = torch.cat([ahead, back])
    ratio = abs(math.log(len(ahead) / len(back)))
    low, high = float(both.min()) - ratio - 1, float(both.max()) + ratio + 1
    d = 0.5 * (float(ahead.median()) + float(back.median()))
    for _ in range(200):
        taken, returned = logsigmoid(d - ahead), logsigmoid(back - d)
        value = float(taken.logsumexp(0) - returned.logsumexp(0))
        slope = float((torch.softmax(taken, 0) * -torch.expm1(taken)).sum() + (torch.softmax(returned, 0) * -torch.expm1(returned)).sum())
        low, high = (d, high) if value < 0 else (low, d)
        step = value / slope if slope > 0 else math.inf
        new = d - step if low < d - step < high else 0.5 * (low + high)
        if abs(new - d) <= 1e-13 * max(1.0, abs(d)):
            return new
        d = new
    return d
