"""Continuous-time Markov chains on tokens: paths from noise to data, their posteriors, jumps and likelihood bound.

Each of n tokens takes one of K levels. With x1 the data and x0 the noise, the token of time t is

    x_t = x1 with probability kappa_t, else x0;   x0 = K, a mask, or uniform on 0 .. K - 1;   kappa_0 = 0, kappa_1 = 1,

independently over tokens. ``noise`` stands for 1 - kappa_t below, because near the data it is what keeps its digits. Given
p(x1 | x_t) for every token, the chain with rates kappa'/(1 - kappa) p(x1 = y | x_t) from x_t to y has these marginals.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Source = Literal["mask", "uniform"]


def noise_at(t: float, power: float) -> float:
    """1 - kappa_t for kappa_t = t^power."""
    return 1.0 - t**power


def jump_probability(noise_now: float, noise_next: float) -> float:
    """Chance that a token jumps within a step: 1 - exp(-integral of kappa'/(1 - kappa)) = 1 - noise_next / noise_now.

    The integral of the rate, and not step times rate: so the time left is used up exactly, and the last step jumps surely.
    """
    return 1.0 - noise_next / noise_now


def corrupt(x1: Tensor, noise: Tensor, levels: int, source: Source, generator: torch.Generator | None) -> Tensor:
    """A draw of x_t given x1, both (*B, n) int64; noise (*B)."""
    hidden = torch.rand(x1.shape, generator=generator, dtype=noise.dtype, device=x1.device) < noise.unsqueeze(-1)
    return torch.where(hidden, noise_like(x1, levels, source, generator), x1)


def noise_like(tokens: Tensor, levels: int, source: Source, generator: torch.Generator | None) -> Tensor:
    """A draw of x0, of the shape of ``tokens``."""
    if source == "mask":
        return torch.full_like(tokens, levels)
    return torch.randint(levels, tokens.shape, generator=generator, device=tokens.device)


def log_posterior(logits: Tensor, tokens: Tensor, noise: Tensor, source: Source) -> Tensor:
    """log p(x1 | x_t) by Bayes' rule, the token's own likelihood put in exactly.

        p(x1 = k | x_t) ~ p(x1 = k | the other tokens) p(x_t | x1 = k),   p(x_t | x1 = k) = kappa 1{x_t = k} + (1 - kappa) p0(x_t)

    A token that is no mask is therefore known. For uniform noise the log-likelihood is log(1 + kappa K / (1 - kappa)) at k = x_t
    and 0 elsewhere; without it 1 - p(x1 = x_t) would not vanish towards the data, and the bound would be infinite.

    Args:
        logits: (*B, n, K), of the first factor up to a constant. tokens: (*B, n). noise: (*B).
    """
    levels = logits.shape[-1]
    if source == "mask":
        own = functional.one_hot(tokens.clamp(max=levels - 1), levels).to(torch.bool)
        known = torch.where(own, 0.0, -torch.inf).to(logits.dtype)
        return torch.where((tokens == levels).unsqueeze(-1), logits.log_softmax(-1), known)
    ratio = ((noise + (1 - noise) * levels) / noise).log()[..., None, None]
    return (logits + ratio * functional.one_hot(tokens, levels).to(logits.dtype)).log_softmax(-1)


def generalized_kl(log_posterior: Tensor, tokens: Tensor, x1: Tensor) -> Tensor:
    """Divergence of the true jump rates given x1 from the model's, per token and in units of kappa'/(1 - kappa): (*B, n).

        sum over y != x_t of  v_y - u_y + u_y log(u_y / v_y),   u_y = 1{y = x1},  v_y = p(x1 = y | x_t)
        = -p(x_t) + 1{x_t = x1} - (1 - 1{x_t = x1}) log p(x1)

    Its integral over t, times kappa'/(1 - kappa), bounds -log p(x1) from above.

    Args:
        log_posterior: (*B, n, K). tokens: x_t, (*B, n). x1: (*B, n).
    """
    levels = log_posterior.shape[-1]
    current = log_posterior.gather(-1, tokens.clamp(max=levels - 1).unsqueeze(-1)).squeeze(-1)
    stay = torch.where(tokens == levels, torch.zeros_like(current), current.exp())
    wanted = log_posterior.gather(-1, x1.unsqueeze(-1)).squeeze(-1)
    # 1 - p by expm1, because it is of the order of 1 - kappa there
    return torch.where(tokens == x1, -torch.expm1(current), -stay - wanted)


def draw_levels(log_posterior: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """A level for each token from p^(1/temperature), the likeliest at 0: (*B, n, K) -> (*B, n)."""
    waits = torch.empty_like(log_posterior).exponential_(generator=generator).clamp_min(torch.finfo(log_posterior.dtype).tiny)
    return (log_posterior.detach() - temperature * waits.log()).argmax(-1)


def chosen(tokens: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Which tokens something happens to that has this probability: (*B, n) bool."""
    return torch.rand(tokens.shape, generator=generator, device=tokens.device) < share
