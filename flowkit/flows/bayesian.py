"""Flows whose weights are random."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowkit.core._places import parameter_places
from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, positive_number, whole_number
from flowkit.core.wrapped_flow import WrappedFlow


@FLOWS.register("bayesian")
class Bayesian(WrappedFlow):
    """A flow with an independent normal over each of its trainable weights, w ~ N(m, s^2): m the flow's own parameters, s learned.

    By itself it is the flow at the mean weights: every call of ``Flow`` answers for those, deterministic and exact. Randomness is asked for:
    ``draw`` gives a plain flow with weights of one draw, ``log_prob(x, weight_draws=S)`` the posterior predictive
    log (1/S) sum_s p(x | w_s), differentiable in m and log s through the draws (a lower bound of the predictive on average, tight as S
    grows). ``kl`` is the divergence to the prior N(0, prior_scale^2) of every weight. ``EvidenceLowerBound`` trains both; maximum
    likelihood leaves s where it is. Cost of a draw: that of the flow, and twice the parameters in memory.

    Args:
        flow: the flow; its parameters are the means and are shared, not copied.
        scale: standard deviation of every weight at the start, > 0.
        prior_scale: standard deviation of the prior, > 0.

    Reference: Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.

    Example:
        >>> import torch, flowkit as fk
        >>> model = fk.flows.Bayesian(fk.flows.RealNVP(2, layers=2, hidden=(8,)))
        >>> spread = torch.stack([model.draw().log_prob(torch.zeros(2)) for _ in range(5)]).std()
        >>> bool(spread > 0)
        True
    """

    known_failures = {"parameter_gradients": "the standard deviations of the weights act in draws only, and the default is the mean"}

    def __init__(self, flow: Flow, *, scale: float = 1e-2, prior_scale: float = 1.0) -> None:
        Distribution.__init__(self)
        if not isinstance(flow, Flow):
            raise ConfigError(f"{self.who}: expected a flow; got {type(flow).__name__}.")
        self.flow, self.scale, self.prior_scale = flow, positive_number(scale, self.who, "scale"), positive_number(prior_scale, self.who, "prior_scale")
        self.event_shape, self.context_shape, self.density = flow.event_shape, flow.context_shape, flow.density
        self.standardize, self._inner_context = flow.standardize, flow._inner_context
        self._support, self._whole = flow._support, flow._whole
        self._names = tuple(name for name, parameter in flow.named_parameters() if parameter.requires_grad)
        if not self._names:
            raise ConfigError(f"{self.who}: expected a flow with trainable parameters; got {flow.who} with none.")
        self._log_prob_module = (_LogProb(flow),)  # in a tuple, or its parameters would count twice
        self.log_scales = nn.ParameterList(torch.full_like(mean, math.log(scale)) for mean in self._means())

    def embed_context(self, context: Context) -> Context:
        return self.flow.embed_context(context)

    def _means(self) -> list[Tensor]:
        own = dict(self.flow.named_parameters())
        return [own[name] for name in self._names]

    def draw_weights(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """One draw of the flow's trainable parameters by name, differentiable in their means and standard deviations."""
        drawn = {}
        for name, mean, log_scale in zip(self._names, self._means(), self.log_scales, strict=True):
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            drawn[name] = mean + log_scale.exp() * noise
        return drawn

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None = None) -> Flow:
        """A copy of the flow with weights of one draw, fixed: use it as any flow."""
        drawn = copy.deepcopy(self.flow).requires_grad_(False)
        own = dict(drawn.named_parameters())
        for name, value in self.draw_weights(generator).items():
            own[name].copy_(value)
        return drawn

    def log_prob(
        self,
        x: Tensor,
        context: Context = None,
        *,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        weight_draws: int = 0,
    ) -> Tensor:
        """Log-density in nats: at the mean weights, or averaged over draws of the weights.

        Args:
            x, context, batch_size: as for ``Flow``.
            generator: for the weights, and for maps that draw.
            weight_draws: number S of draws; 0 takes the mean weights.

        Returns:
            (*B): log (1/S) sum_s p(x | w_s).
        """
        weight_draws = whole_number(weight_draws, f"{self.who}.log_prob", "weight_draws", 0)
        if weight_draws == 0:
            return self.flow.log_prob(x, context, generator=generator, batch_size=batch_size)
        named, each = {id(mean): name for name, mean in zip(self._names, self._means(), strict=True)}, []
        places = [(place, named[id(mean)]) for place, mean in parameter_places(self.flow, "flow") if id(mean) in named]
        for _ in range(weight_draws):
            drawn = self.draw_weights(generator)
            lent = {place: drawn[name] for place, name in places}
            each.append(functional_call(self._log_prob_module[0], lent, (x, context, generator, batch_size), tie_weights=False))
        return torch.stack(each).logsumexp(0) - math.log(weight_draws)

    def kl(self) -> Tensor:
        """KL(N(m, s^2) || N(0, prior_scale^2)) summed over the weights, in nats: ()."""
        total = self.like.new_zeros(())
        for mean, log_scale in zip(self._means(), self.log_scales, strict=True):
            log_ratio = log_scale - math.log(self.prior_scale)
            total = total + 0.5 * ((2 * log_ratio).exp() + (mean / self.prior_scale).square() - 1 - 2 * log_ratio).sum()
        return total

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Bayesian]]:
        nvp: dict[str, Any] = {"name": "real_nvp", "features": 2, "layers": 2, "hidden": (8,)}
        yield "plane", cls(build(nvp, Flow))
        yield "conditional", cls(build(nvp | {"context_features": 2}, Flow), scale=0.1)


class _LogProb(nn.Module):
    """``flow.log_prob`` as the forward of a module, which is what ``functional_call`` calls."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Any, generator: torch.Generator | None, batch_size: int | None) -> Tensor:
        return self.flow.log_prob(x, context, generator=generator, batch_size=batch_size)
