"""Flows over sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, check_temperature, positive, positive_number, positive_sizes, whole_number
from flowkit.flows._token_jumps import MOST_STATES, Bound, Jumping, TokenJumps, tokens_of
from flowkit.nets import TokenMLP
from flowkit.numerics.ctmc import Source


@FLOWS.register("discrete_flow")
class DiscreteFlow(Flow):
    """Sequences of n tokens of K levels, from noise by a continuous-time Markov chain that jumps to predicted data.

        x_t = x1 with probability kappa_t = t^power, else x0, for each token;
        rate of a jump from x_t to y: kappa'/(1 - kappa) p(x1 = y | x_t),   p from a net

    Train it with ``DiscreteFlowMatching``. Events are integers 0 .. K - 1 held as floats of the flow's dtype, as in ``Integers`` and
    every other model of integer data here, so ``fit``, files, reports and checks read them as they read any event;
    ``sample_tokens`` gives int64. A mask is never sampled, and with mask noise a token that has appeared stays.

    ``log_prob`` is a lower bound of the log-probability, by the generalised KL divergence between the jump rates. At the true posterior
    it is tight for mask noise, and loose for uniform noise, whose jumps tell which tokens were noise. It is that of the chain in
    continuous time; ``sample`` takes ``steps`` steps of it, within each of which tokens jump independently. For mask noise
    without a corrector ``sample_and_log_prob`` gives the log-likelihood of the path drawn in these steps, unbiased in importance
    weights; otherwise the bound, drawn afresh, which is not.

    Args:
        features: n. levels: K.
        hidden: equal widths of the blocks of a ``TokenMLP``; ignored with ``net``.
        source: of the noise, "mask" or "uniform".
        power: of the schedule kappa; 1 for text, 3 for images.
        steps: of the sampler, one call of the net each.
        corrector: rate at which tokens are drawn afresh while sampling, per unit of time; 0 for never.
        guidance: s in log p = log p_null + s (log p_class - log p_null), normalised; 1 is none, 0 ignores the class.
        classes: number of labels as context, -1 for none; 0 for no context.
        bound: "monte_carlo", over ``draws`` stratified times and one state at each; "quadrature", over time with all states
            enumerated, which draws nothing and needs 2^n (mask) or K^n (uniform) of at most 1,024, for each of 32 times.
        draws: of the bound by Monte Carlo.
        net: (tokens (*B, n) int64 with K for a mask, noise 1 - kappa (*B), labels (*B) or None) -> logits (*B, n, K), e.g. ``TokenTransformer``.

    Reference: Campbell et al. (2024), Generative flows on discrete state-spaces, arXiv:2402.04997; Gat et al. (2024), Discrete
    flow matching, arXiv:2407.15595; Shi et al. (2024), Simplified and generalized masked diffusion, arXiv:2406.04329, for the bound.

    Example:
        >>> import torch, flowkit as fk
        >>> flow = fk.flows.DiscreteFlow(2, 3, hidden=(8,), bound="quadrature")
        >>> flow.sample_tokens(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 2])
        >>> bool(flow.log_prob(torch.tensor([[0.0, 2.0]])) < 0)
        True
    """

    reparametrized = False
    bijector: TokenJumps

    def __init__(
        self,
        features: int,
        levels: int,
        hidden: Sequence[int] = (256, 256),
        *,
        source: Source = "mask",
        power: float = 1.0,
        steps: int = 64,
        corrector: float = 0.0,
        guidance: float = 1.0,
        classes: int = 0,
        bound: Bound = "monte_carlo",
        draws: int = 16,
        net: nn.Module | None = None,
    ) -> None:
        who = "DiscreteFlow"
        n, levels, classes = positive(features, who, "features"), whole_number(levels, who, "levels", 2), whole_number(classes, who, "classes", 0)
        if source not in ("mask", "uniform") or bound not in ("monte_carlo", "quadrature"):
            raise ConfigError(f"{who}: expected source 'mask' or 'uniform' and bound 'monte_carlo' or 'quadrature'; got {source!r} and {bound!r}.")
        states = (2 if source == "mask" else levels) ** n
        if bound == "quadrature" and states > MOST_STATES:
            raise ConfigError(f"{who}: bound='quadrature' enumerates at most {MOST_STATES} states; got {states:.3g}. Use bound='monte_carlo'.")
        if not isinstance(guidance, int | float) or not -1e6 < guidance < 1e6 or (guidance != 1 and not classes):
            raise ConfigError(f"{who}: expected guidance to be a finite number, and 1 without classes; got {guidance!r} with classes={classes}.")
        if not isinstance(corrector, int | float) or not 0 <= corrector < float("inf"):
            raise ConfigError(f"{who}: expected corrector to be a finite number >= 0; got {corrector!r}.")
        steps, draws = positive(steps, who, "steps"), positive(draws, who, "draws")
        how = Jumping(source, positive_number(power, who, "power"), steps, corrector, guidance, bound, draws)
        hidden = positive_sizes(hidden, who, "hidden")
        body = TokenMLP(n, levels, hidden, classes=classes) if net is None else net
        jumps = TokenJumps(body, n, levels, classes, how)
        super().__init__(jumps.noise, jumps)
        self.features, self.levels, self.hidden, self.classes = n, levels, hidden, classes
        self.source, self.power, self.steps, self.corrector = source, power, steps, corrector
        self.guidance, self.bound, self.draws = guidance, bound, draws
        self._given_net = net is not None

    @property
    def net(self) -> nn.Module | None:
        """The net given, or None for the one made from ``hidden``."""
        return self.bijector.net if self._given_net else None

    @property
    def known_failures(self) -> dict[str, str]:
        """What a bound that is drawn cannot promise."""
        if self.bound == "quadrature":
            return {}
        reason = "the bound is drawn, and these calls give no generator; bound='quadrature' passes"
        return {"outside_support": reason}

    # -- what the objective trains ------------------------------------------------------------------------------

    def tokens(self, x: Tensor, who: str = "DiscreteFlow.tokens", rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data as int64 tokens, and which events are in range: (*B, n) -> (*B, n), (*B).

        Raises:
            DomainError: a value out of range, with its place, in eager mode on the CPU; elsewhere 0 stands in for it. ``rows`` (B) are the
                numbers that the message gives the events.
        """
        tokens, inside = tokens_of(x, self.levels, who, rows)
        if x.shape[-1:] != (self.features,):
            raise ShapeError(f"{who}: expected trailing shape ({self.features},); got {tuple(x.shape)}. Flatten the events, or build the flow for that length.")
        return tokens, inside.all(-1)

    def corrupt(self, x1: Tensor, noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x_t given x1: tokens (*B, n), noise 1 - kappa_t (*B) -> tokens (*B, n), K for a mask."""
        return self.bijector.corrupt(x1, noise, generator)

    def log_posterior(self, tokens: Tensor, noise: Tensor, context: Context = None) -> Tensor:
        """log p(x1 = k | x_t) for every token: tokens (*B, n), noise 1 - kappa_t (*B), labels (*B) -> (*B, n, K)."""
        return self.bijector.log_posterior(tokens, noise, self.embed_context(context))

    # -- samples ------------------------------------------------------------------------------------------------

    def sample_tokens(
        self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Samples as integers, (*shape, *Bc, n) int64. A temperature takes p(x1 | x_t)^(1 / temperature), normalised."""
        check_temperature(temperature, f"{self.who}.sample")
        z, labels = self._draw_latent(shape, context, generator, 1.0)
        with torch.no_grad():
            return self.bijector.simulate(z.long(), labels, generator, float(temperature))[0]

    def rsample(self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Samples (*shape, *Bc, n); integers have no gradient."""
        return self.sample_tokens(shape, context, generator, temperature).to(self.like.dtype)

    def sample_and_log_prob(
        self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Samples (*shape, *Bc, n), and the log-likelihood of the path drawn or a bound (*shape, *Bc), at temperature 1; see the class."""
        check_temperature(temperature, f"{self.who}.sample")
        z, labels = self._draw_latent(shape, context, generator, 1.0)
        return self.bijector.generate(z, labels, generator, float(temperature))

    # -- flows that share the weights ---------------------------------------------------------------------------

    def with_sampler(self, *, steps: int | None = None, corrector: float | None = None, power: float | None = None) -> DiscreteFlow:
        """This flow with another sampler, its weights shared; what is None stays. The net sees kappa, so any schedule serves."""
        changes = {"steps": steps, "corrector": corrector, "power": power}
        return self._sharing(**{key: value for key, value in changes.items() if value is not None})

    def with_bound(self, bound: Bound, *, draws: int | None = None) -> DiscreteFlow:
        """This flow with another bound as ``log_prob``, its weights shared."""
        return self._sharing(bound=bound, draws=self.draws if draws is None else draws)

    def guided(self, scale: float) -> DiscreteFlow:
        """This flow with guidance of that scale, its weights shared."""
        return self._sharing(guidance=scale)

    def _sharing(self, **changes: Any) -> DiscreteFlow:
        own = ("source", "power", "steps", "corrector", "guidance", "classes", "bound", "draws")
        arguments: dict[str, Any] = {key: getattr(self, key) for key in own} | changes
        made = DiscreteFlow(self.features, self.levels, self.hidden, **arguments, net=self.bijector.net)
        return made.to(self.like).train(self.training)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiscreteFlow]]:
        yield "mask", cls(2, 6, (8,), steps=4, bound="quadrature", classes=2)
        yield "uniform", cls(2, 4, (8,), source="uniform", steps=4, bound="quadrature", power=2.0)
