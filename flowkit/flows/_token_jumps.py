"""The jumps of discrete flow matching as a map: tokens of noise to tokens of data, and a bound of the likelihood back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.domain.integers import Integers
from flowkit.core.errors import ConfigError, DomainError, ShapeError
from flowkit.core.shapes import Context
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits
from flowkit.numerics import ctmc

Bound = Literal["monte_carlo", "quadrature"]
_ROOTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)
NODES = tuple(zip(((_ROOTS + 1) / 2).tolist(), (_WEIGHTS / 2).tolist(), strict=True))  # and weights of the quadrature over u in (0, 1)
MOST_STATES = 1024  # states x_t of the quadrature


@dataclass(frozen=True)
class Jumping:
    """How tokens jump and how the bound is taken; the meanings are those of ``DiscreteFlow``'s arguments."""

    source: ctmc.Source
    power: float
    steps: int
    corrector: float
    guidance: float
    bound: Bound
    draws: int


class TokenNoise(Distribution):
    """The law of x0: all tokens the mask K, or each uniform on 0 .. K - 1; log-probability 0, or -n log K."""

    reparametrized = False

    def __init__(self, tokens: int, levels: int, source: ctmc.Source) -> None:
        super().__init__()
        self.levels, self.source, self.event_shape = levels, source, (tokens,)
        self._support = Integers(levels + 1 if source == "mask" else levels, tokens)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        entropy = 0.0 if self.source == "mask" else x.shape[-1] * math.log(self.levels)
        log_prob = x.new_full(x.shape[:-1], -entropy)
        return torch.where((x == self.levels).all(-1), log_prob, -torch.inf) if self.source == "mask" else log_prob

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        if temperature != 1:
            raise ConfigError("DiscreteFlow: a temperature acts on the jumps and not on the noise. Call sample on the flow itself, with context=.")
        like = torch.empty((*shape, *self.event_shape), dtype=torch.int64, device=self.like.device)  # type: ignore[arg-type]
        return ctmc.noise_like(like, self.levels, self.source, generator).to(self.like.dtype)


class TokenJumps(Surjection):
    """``forward`` simulates the chain; ``inverse`` gives a bound of log p(x), less the log-probability of the noise it returns.

    Args:
        net: (tokens, noise, labels) -> logits. tokens: n. levels: K. classes: number of labels, 0 for none. how: see ``Jumping``.
    """

    traits = Traits(log_det="bound", stochastic=True, smooth=False)

    def __init__(self, net: nn.Module, tokens: int, levels: int, classes: int, how: Jumping) -> None:
        super().__init__()
        self.net, self.levels, self.how = net, levels, how
        self.in_shape = self.out_shape = (tokens,)
        self.context_shape = () if classes else None
        self.noise = TokenNoise(tokens, levels, how.source)
        self._domain, self._codomain = self.noise.domain, Integers(levels, tokens)

    # -- the model ----------------------------------------------------------------------------------------------

    def logits(self, tokens: Tensor, noise: Tensor, labels: Context = None) -> Tensor:
        """What the net says, guided: (*B, n) int64, (*B), (*B) -> (*B, n, K)."""
        scale = self.how.guidance
        if scale == 1 or labels is None:
            return self.net(tokens, noise, labels)
        assert isinstance(labels, Tensor)
        null = self.net(tokens, noise, torch.full_like(labels, -1))
        if scale == 0:
            return null
        given, null = self.net(tokens, noise, labels).log_softmax(-1), null.log_softmax(-1)
        return null + scale * (given - null)

    def log_posterior(self, tokens: Tensor, noise: Tensor, labels: Context = None) -> Tensor:
        """log p(x1 | x_t) per token: (*B, n) int64, (*B), (*B) -> (*B, n, K)."""
        return ctmc.log_posterior(self.logits(tokens, noise, labels), tokens, noise, self.how.source)

    def corrupt(self, x1: Tensor, noise: Tensor, generator: torch.Generator | None) -> Tensor:
        """x_t given x1: (*B, n) int64, noise (*B) -> (*B, n) int64."""
        return ctmc.corrupt(x1, noise, self.levels, self.how.source, generator)

    # -- generating ---------------------------------------------------------------------------------------------

    def simulate(self, z: Tensor, labels: Context, generator: torch.Generator | None, temperature: float) -> tuple[Tensor, Tensor]:
        """The chain from noise z (*B, n) int64 to data (*B, n), and for mask noise without a corrector the log-likelihood of its path (*B).

        That is log p(path) - log q(path | x1): jump probabilities cancel, and what is left is log p of every level when it appears.
        In a step the net is called for the sequences in which a token jumps, and levels are drawn for those tokens alone.

        A corrector draws tokens afresh with the same posterior, x1 first and then x_t given x1. As a process of its own that leaves
        the law of x_t given x1 alone: its velocity is free of divergence, and moves no marginal.
        """
        how, batch = self.how, z.shape[:-1]
        x, labels = z.reshape(-1, z.shape[-1]), labels.reshape(-1) if isinstance(labels, Tensor) else None
        path = torch.zeros(x.shape, dtype=self.like_dtype, device=x.device)
        for k in range(how.steps):
            now, after = (ctmc.noise_at(i / how.steps, how.power) for i in (k, k + 1))
            jumps = ctmc.chosen(x, ctmc.jump_probability(now, after), generator)
            jumps = jumps & (x == self.levels) if how.source == "mask" else jumps
            again = ctmc.chosen(x, 1 - math.exp(-how.corrector / how.steps), generator) if how.corrector and k + 1 < how.steps else None
            changed = jumps if again is None else jumps | again
            rows = changed.any(-1).nonzero().squeeze(-1)
            if not len(rows):
                continue
            noise = torch.full((len(rows),), now, dtype=path.dtype, device=x.device)
            logits = self.logits(x[rows], noise, None if labels is None else labels[rows])[changed[rows]]
            log_p = ctmc.log_posterior(logits.unsqueeze(1), x[changed].unsqueeze(1), noise.new_full((len(logits),), now), how.source).squeeze(1)
            level = ctmc.draw_levels(log_p, temperature, generator)
            if again is None:
                path = path.masked_scatter(changed, log_p.gather(-1, level.unsqueeze(-1)))
                x = x.masked_scatter(changed, level)
                continue
            x = torch.where(jumps, x.masked_scatter(changed, level), x)
            fresh = x.masked_scatter(changed, ctmc.draw_levels(log_p, temperature, generator))
            x = torch.where(again, self.corrupt(fresh, path.new_full(x.shape[:-1], after), generator), x)
        return x.reshape(z.shape), path.sum(-1).reshape(batch)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, log_prob = self.generate(z, context, generator, 1.0)
        return x, self.noise.log_prob(z) - log_prob

    def generate(self, z: Tensor, context: Any, generator: torch.Generator | None, temperature: float) -> tuple[Tensor, Tensor]:
        """Data (*B, n) in the dtype of z, and their log-probability (*B): of the path where that is known, else a fresh bound."""
        weigh = self.how.source == "mask" and not self.how.corrector
        tokens, log_prob = self.simulate(z.long(), context, generator, temperature)
        return tokens.to(z.dtype), log_prob if weigh else self.lower_bound(tokens, context, generator)

    # -- the bound ----------------------------------------------------------------------------------------------

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = ctmc.noise_like(x.long(), self.levels, self.how.source, generator).to(x.dtype)
        bound = self.lower_bound(x.round().long(), context, generator)
        return z, bound - self.noise.log_prob(z) + 0.0 * x.sum(-1)  # constant in x: a gradient of zero and not none

    def lower_bound(self, x1: Tensor, labels: Context, generator: torch.Generator | None) -> Tensor:
        """- integral over t of kappa'/(1 - kappa) E sum over tokens of ``ctmc.generalized_kl``: (*B, n) int64 -> (*B).

        With 1 - kappa = u^2 it is - integral over u in (0, 1) of 2/u E[...], whose integrand is bounded, and of finite variance
        (uniform t would give 1/(1 - kappa) with probability 1 - kappa: an infinite one). Times are stratified.
        """
        if self.how.bound == "quadrature":
            return self._by_quadrature(x1, labels)
        draws, total = self.how.draws, torch.zeros(x1.shape[:-1], dtype=self.like_dtype, device=x1.device)
        first = torch.rand(total.shape, generator=generator, dtype=total.dtype, device=x1.device)
        for stratum in range(draws):  # in turn, or their states would lie side by side in memory
            u = ((stratum + first) / draws).clamp_min(torch.finfo(total.dtype).eps)
            x_t = self.corrupt(x1, u.square(), generator)
            total = total - 2 / u * ctmc.generalized_kl(self.log_posterior(x_t, u.square(), labels), x_t, x1).sum(-1)
        return total / draws

    def _by_quadrature(self, x1: Tensor, labels: Context) -> Tensor:
        """Gauss-Legendre in u, and every state x_t with its probability: nothing is drawn. All at once, (nodes, states, *B)."""
        batch, n, dtype, mask = x1.shape[:-1], x1.shape[-1], self.like_dtype, self.how.source == "mask"
        states = every_state(2 if mask else self.levels, n).to(x1.device).reshape(-1, *([1] * len(batch)), n)
        x_t = torch.where(states == 1, self.levels, x1) if mask else states.expand(len(states), *x1.shape)
        u, weight = (torch.tensor(part, dtype=dtype, device=x1.device).reshape(-1, 1, *([1] * len(batch))) for part in zip(*NODES, strict=True))
        x_t, x1 = (tokens.expand(len(u), *x_t.shape) for tokens in (x_t, x1))
        labels = labels.expand(x_t.shape[:-1]) if isinstance(labels, Tensor) else None
        noise = u.square().expand(x_t.shape[:-1])
        from_noise = (x_t == self.levels).to(dtype) if mask else 1 / self.levels
        chance = (x_t == x1).to(dtype) * (1 - noise).unsqueeze(-1) + from_noise * noise.unsqueeze(-1)
        rate = ctmc.generalized_kl(self.log_posterior(x_t, noise, labels), x_t, x1).sum(-1)
        return -(2 * weight / u * chance.prod(-1) * rate).sum((0, 1))

    @property
    def like_dtype(self) -> torch.dtype:
        """The dtype that probabilities are computed in."""
        return torch.promote_types(self.noise.like.dtype, torch.float32)

    # -- what comes in ------------------------------------------------------------------------------------------

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return value  # no state depends on data; the objective says which row is out of range


def tokens_of(x: Any, levels: int, who: str, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Integers, or floats that hold them, as int64 tokens in range, and which of them were, both of the shape of x.

    Args:
        rows: numbers of the rows in the data, (B), for messages; default those of x.

    Raises:
        ShapeError: no tensor of numbers. DomainError: a value that is none of 0 .. levels - 1, where values can be looked at.
    """
    if not isinstance(x, Tensor) or x.dtype == torch.bool or x.is_complex():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"{who}: expected tokens as a tensor of integers, or of floats that hold them; got {got}. Convert with .long().")
    inside = (x == x.round() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)) & (x >= 0) & (x < levels)
    if may_raise(x) and not bool(inside.all()):
        raise DomainError(_out_of_range(x, inside, levels, who, rows))
    return torch.where(inside, x, torch.zeros_like(x)).long(), inside


def _out_of_range(x: Tensor, inside: Tensor, levels: int, who: str, rows: Tensor | None) -> str:
    """Where the first value out of range is, and what to do about it."""
    place = tuple(int(i) for i in (~inside).nonzero()[0])
    value = float(x[place])
    *batch, token = place
    if batch and rows is not None:
        batch[0] = int(rows[batch[0]])
    where = f"sample {', '.join(map(str, batch))}, token {token}" if batch else f"token {token}"
    if not math.isfinite(value) or value != round(value):
        remedy = "Quantise the data to whole levels"
    else:
        remedy = "Shift the data to start at 0" if value < 0 else f"Build the flow with levels={int(value) + 1}, or drop such rows"
    return f"{who}: expected tokens 0 .. {levels - 1}; got {value:g} at {where} ({int((~inside).sum())} of {x.numel()} are out of range). {remedy}."


def every_state(levels: int, tokens: int) -> Tensor:
    """All sequences of tokens: (levels^tokens, tokens) int64."""
    return torch.arange(levels**tokens).unsqueeze(-1) // levels ** torch.arange(tokens) % levels
