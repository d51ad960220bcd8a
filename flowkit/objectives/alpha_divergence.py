"""Alpha-divergences to an energy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.target import Target
from flowkit.objectives._draws import Draws, carried, check_gradient, draw, sample_plan, weight_terms
from flowkit.objectives._energy_objective import EnergyObjective, normal, one_of, small_flow

KINDS = ("path", "path_two_pass", "total", "score")


@OBJECTIVES.register("alpha_divergence")
class AlphaDivergence(EnergyObjective):
    """D_alpha = log(int p^alpha q^(1 - alpha) dx) / (alpha (alpha - 1)), p normalised, from the flow's own samples and their weights.

    alpha -> 1 is KL(p || q), which covers the target's mass; alpha -> 0 is KL(q || p) (``ReverseKL``); alpha = 2 is minus half the
    logarithm of the effective share of the samples, log(1 + chi^2(p || q)) / 2; alpha < 0 seeks modes harder than ``ReverseKL``. It is the
    Renyi form over alpha, a growing function of Amari's (int p^alpha q^(1 - alpha) dx - 1) / (alpha (alpha - 1)), and blind to the target's
    normaliser. With w = p/q, v_i proportional to w_i^alpha and of sum 1, and P_i = (dx_i/dtheta)^T (s_p - s_q), the gradient is, by ``gradient``,

        path           -sum_i v_i P_i; zero for every sample at q = p
        path_two_pass  the same, s_q by differentiating the density pass
        total          the derivative of log(mean w^alpha) / (alpha (alpha - 1)) along x(theta)
        score          -sum_i (v_i - 1/N) d/dtheta log q(x_i) / alpha, x fixed; needs no gradient of the energy; zero too at q = p

    Loss and gradients are consistent in N = batch.size and biased for few samples: the loss is too low where few weights carry the sum, as
    where the flow has missed a mode, of which its samples know nothing. A log-density of minus infinity is a weight of zero for
    alpha > 0. ``terms`` as for ``ReverseKL``.

    Args:
        target: the density; one with parameters is copied, and never trained.
        alpha: a number other than 0 and 1.
        gradient: the estimator.

    Raises:
        ConfigError: alpha is 0 or 1; the flow is conditional, or it or the target cannot give that gradient.

    Reference: Amari (1985), Differential-geometrical methods in statistics; Li and Turner (2016), Renyi divergence variational inference,
    arXiv:1602.02311; Midgley et al. (2023), Flow annealed importance sampling bootstrap, arXiv:2208.01893 (alpha = 2).

    Example:
        >>> import torch, flowkit as fk
        >>> flow, batch = fk.flows.RealNVP(2, layers=2, hidden=(8,)), fk.core.objective.Batch(size=64)
        >>> loss = fk.objectives.AlphaDivergence(fk.targets.ManyWell(2), alpha=2.0).loss(flow, batch)
        >>> torch.allclose(loss.value, -loss.terms["ess"].log() / 2, atol=1e-5)
        True
    """

    def __init__(self, target: Target | Distribution, alpha: float = 2.0, *, gradient: Literal["path", "path_two_pass", "total", "score"] = "path") -> None:
        super().__init__()
        self._keep(target)
        self.alpha, self.gradient = alpha, gradient
        one_of(gradient, KINDS, "AlphaDivergence", "gradient")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha in (0, 1):
            limits = "alpha -> 0 is ReverseKL(target), alpha -> 1 is ForwardKL(target, gradient='dreg')"
            raise ConfigError(f"AlphaDivergence: expected alpha to be a finite number other than 0 and 1; got {alpha!r}. The limit {limits}.")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow, shape, context = sample_plan(model, batch, self.who)
        if context is not None:
            raise ConfigError("AlphaDivergence: a conditional flow has a normaliser for every context. Use ImportanceWeighted, or flow.condition(context).")
        check_gradient(flow, self.gradient, self.who, gradient=self.gradient, exact=True)
        draws = draw(flow, self.target, shape, None, generator, by=self.gradient, who=self.who, zeros=self.alpha > 0)
        log_w = draws.log_w.flatten()
        relative = log_w - log_w.max()  # blind to the normaliser, which may be large
        value = (log_mean(self.alpha * relative) - self.alpha * log_mean(relative)) / (self.alpha * (self.alpha - 1))
        return carried(value, self._surrogate(draws), weight_terms(log_w, self.target))

    def _surrogate(self, draws: Draws) -> Tensor:
        v, carrier = (self.alpha * draws.log_w.flatten()).softmax(0), draws.carrier.flatten()
        if self.gradient == "total":
            return (v * carrier).sum() / (self.alpha - 1)
        if self.gradient == "score":
            return ((1 / v.numel() - v) * carrier).sum() / self.alpha
        return -(v * carrier).sum()

    @classmethod
    def examples(cls) -> Iterator[tuple[str, AlphaDivergence, nn.Module, Batch]]:
        yield "chi_square", cls(normal()), small_flow(), Batch(size=256)
        yield "half_by_score", cls(normal(), 0.5, gradient="score"), small_flow(), Batch(size=256)
        yield "total", cls(normal(), 1.5, gradient="total"), small_flow(), Batch(size=256)


def log_mean(values: Tensor) -> Tensor:
    """log of the mean of exp: (N) -> ()."""
    return values.logsumexp(0) - math.log(values.numel())
