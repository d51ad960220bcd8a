"""The reverse Kullback-Leibler divergence to an energy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.target import Target
from flowkit.objectives._draws import Draws, Gradient, carried, check_gradient, draw, sample_plan, weight_terms
from flowkit.objectives._energy_objective import EnergyObjective, normal, one_of, small_flow

KINDS = ("path", "path_two_pass", "total", "score", "vargrad")


@OBJECTIVES.register("reverse_kl")
class ReverseKL(EnergyObjective):
    """KL(q || p) up to log Z, from the flow's own samples x = g(z): mean[log q(x) - log p(x)], p unnormalised; plus log Z, the divergence.

    With s_p, s_q the scores of target and flow at x, the gradient in the parameters is, by ``gradient``,

        path           mean (dx/dtheta)^T (s_q - s_p), s_q carried along the sampling pass ("sticking the landing"): zero for
                       every sample at q = p, where "total" has the covariance Fisher information / N
        path_two_pass  the same, s_q by differentiating the density pass at x: the price of not carrying it
        total          the derivative of the loss itself along x(theta)
        score          mean (l_i - mean of the other l) d/dtheta log q(x_i), l = log q - log p, x fixed: REINFORCE; needs no gradient of
                       the energy and no differentiable samples
        vargrad        the derivative of the variance of l over fixed samples, over 2; the same number as "score", by another road

    All but for their noise agree, and the loss at the same latents is the same number. Away from q = p "path" need not be the quieter one.
    ``terms``: elbo = mean log w, log w = log p - log q, a lower bound of log Z; its standard deviation; ess, the effective share of the
    samples in (0, 1]; kl where the target knows log Z. With a conditional flow, one sample for each row of the source's contexts; the
    source's x sets the flow's ``Standardize`` map, if it has one, and is not used otherwise.

    An unbiased estimate of log q (``flow.density == "estimate"``) keeps "path", "path_two_pass", "total" and "score" unbiased, as the score
    enters them linearly; "path" then keeps the estimate's noise at q = p. A lower bound (layers that draw) has "total" only, which
    then bounds the divergence from above.

    Cost of a step, beside one evaluation of the energy and its gradient: "total" a pass and its backward; "path" 1.4 to 2 times that;
    "path_two_pass" 1.6 to 2 and, where the inverse iterates, much more; "score" and "vargrad" a pass without a graph and a density pass.

    Args:
        target: the density; one with parameters is copied, and never trained.
        gradient: the estimator.

    Raises:
        ConfigError: the flow or the target cannot give that gradient. ShapeError: they are over other events.

    Reference: Roeder, Wu and Duvenaud (2017), Sticking the landing, arXiv:1703.09194; Vaitl et al. (2024), Fast and unified path gradient
    estimators for normalizing flows, arXiv:2403.15881; Richter et al. (2020), VarGrad, arXiv:2010.10436.

    Example:
        >>> import torch, flowkit as fk
        >>> _ = torch.manual_seed(0)
        >>> flow, target = fk.flows.RealNVP(2, layers=4, hidden=(16,)), fk.targets.ManyWell(2)
        >>> result = fk.fit(flow, None, fk.objectives.ReverseKL(target), max_steps=150, lr=1e-2, seed=0, progress=False)
        >>> result.history["kl"][-1] < 1
        True
    """

    def __init__(self, target: Target | Distribution, *, gradient: Literal["path", "path_two_pass", "total", "score", "vargrad"] = "path") -> None:
        super().__init__()
        self._keep(target)
        self.gradient = gradient
        one_of(gradient, KINDS, "ReverseKL", "gradient")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow, shape, context = sample_plan(model, batch, self.who)
        by: Gradient = "score" if self.gradient == "vargrad" else self.gradient
        check_gradient(flow, by, self.who, gradient=self.gradient, exact=self.gradient == "vargrad")
        draws = draw(flow, self.target, shape, context, generator, by=by, who=self.who)
        return carried(-draws.log_w.mean(), self._surrogate(draws), weight_terms(draws.log_w, self.target))

    def _surrogate(self, draws: Draws) -> Tensor:
        if self.gradient not in ("score", "vargrad"):
            return -draws.carrier.mean()
        n = draws.log_w.numel()
        if n < 2:
            raise ConfigError(f"ReverseKL: gradient={self.gradient!r} compares samples with each other and needs 2 or more; got {n}. Raise batch_size.")
        if self.gradient == "vargrad":
            return (draws.log_w + draws.log_q - draws.carrier).var() / 2
        excess = draws.log_w.mean() - draws.log_w  # n / (n - 1) of it is l_i less the mean of the others
        return (excess * draws.carrier).sum() / (n - 1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ReverseKL, nn.Module, Batch]]:
        yield "path", cls(normal()), small_flow(), Batch(size=64)
        context = torch.linspace(-1, 1, 64)[:, None]
        yield "two_pass_conditional", cls(normal(), gradient="path_two_pass"), small_flow(context=1), Batch(torch.zeros(64, 2), context)
        yield "score", cls(normal(), gradient="score"), small_flow(), Batch(size=256)
        yield "total", cls(normal(), gradient="total"), small_flow(), Batch(size=64)
        yield "vargrad", cls(normal(), gradient="vargrad"), small_flow(), Batch(size=256)
