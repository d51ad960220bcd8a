"""The forward Kullback-Leibler divergence, from data or from weighted samples of the flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.checks import checks_finite
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, DataError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive
from flowkit.core.target import Target
from flowkit.objectives._draws import carried, check_gradient, draw, sample_plan, weight_terms
from flowkit.objectives._energies import check_events, evaluate
from flowkit.objectives._energy_objective import EnergyObjective, normal, one_of, small_flow
from flowkit.objectives._likelihood import negative_log_likelihood, weighted_mean
from flowkit.objectives._pulled_back import dropped_in, pulled_back

KINDS = ("ml", "path", "path_two_pass", "dreg")


@OBJECTIVES.register("forward_kl")
class ForwardKL(EnergyObjective):
    """KL(p || q) up to the entropy of p: -mean log q(x), x from data, from the target's own sampler, or weighted samples of the flow.

    With s_p, s_q the scores of target and flow, q_0 the base, z = f(x) the latents, the gradient in the parameters is, by ``gradient``,

        ml             -mean d/dtheta log q(x): maximum likelihood; needs no target. ``MaximumLikelihood`` is this by its usual name
        path           mean (dz/dtheta)^T (s_0 - grad log q_0)(z), s_0 the target's score carried to the latents in the same pass: zero for
                       every sample at q = p, where "ml" has the covariance Fisher information / N. Needs the energy's gradient at the data,
                       which regularises; the target need not be normalised, but the data must be its
        path_two_pass  the same number from the data's side, -mean (dx/dtheta)^T (s_p - s_q): a density pass and a sampling pass
        dreg           -sum_i (w_i - w_i^2) (dx_i/dtheta)^T (s_p - s_q), x_i from the flow, w_i = p/q normalised to sum 1: no data. Biased
                       for few samples, and blind to modes the flow has missed; ``FAB`` finds them

    All with data are unbiased for the same gradient, and their loss on the same rows is the same number. A learned base gets its likelihood
    gradient beside "path". Weights of rows, ``extra["weight"]``, count as in ``MaximumLikelihood``. ``fit(flow, None, ...)`` draws
    batch.size exact samples where the target can; data in hand go in as the source. Where the flow's density is an unbiased estimate, "path" is too.

    ``terms``: nll; with "path" and "path_two_pass" also eubo = mean[log p - log q], an upper bound of log Z, ess = 1 / (mean w mean 1/w) from samples of p,
    and kl where log Z is known; for "dreg" those of ``ReverseKL``.

    Args:
        target: needed by all but "ml"; one with parameters is copied, and never trained.
        gradient: the estimator.

    Raises:
        ConfigError: no target where one is needed, or the flow or the target cannot give that gradient. DataError: neither data nor exact samples.

    Reference: Vaitl et al. (2024), Fast and unified path gradient estimators for normalizing flows, arXiv:2403.15881; Tucker et al. (2018),
    Doubly reparameterized gradient estimators, arXiv:1810.04152 (dreg).

    Example:
        >>> import torch, flowkit as fk
        >>> _ = torch.manual_seed(0)
        >>> flow, target = fk.flows.RealNVP(2, layers=4, hidden=(16,)), fk.targets.ManyWell(2)
        >>> result = fk.fit(flow, None, fk.objectives.ForwardKL(target, gradient="path"), max_steps=150, lr=1e-2, seed=0, progress=False)
        >>> result.history["kl"][-1] < 1
        True
    """

    def __init__(self, target: Target | Distribution | None = None, *, gradient: Literal["ml", "path", "path_two_pass", "dreg"] = "ml") -> None:
        super().__init__()
        self.target = None
        if target is not None:
            self._keep(target)
        self.gradient = gradient
        one_of(gradient, KINDS, "ForwardKL", "gradient")
        if target is None and gradient != "ml":
            raise ConfigError(f"ForwardKL: gradient={gradient!r} needs the target's score; got no target. Pass target=, or gradient='ml'.")
        draws = gradient == "dreg" or bool(getattr(target, "can_sample", False))
        self.requires = frozenset(({"target"} if gradient != "ml" else set()) | (set() if draws else {"data"}))

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        if self.gradient == "dreg":
            return self._from_weights(model, batch, generator)
        batch = self._with_data(model, batch, generator)
        if self.gradient == "ml":
            return negative_log_likelihood(model, batch, generator)
        return self._from_data(model, batch, generator)

    def _from_data(self, model: Any, batch: Batch, generator: torch.Generator | None) -> Loss:
        if not isinstance(model, Flow):
            raise ConfigError(f"ForwardKL: gradient={self.gradient!r} expects a flow; got {type(model).__name__}. Use gradient='ml'.")
        assert batch.x is not None
        x, by = batch.x.detach(), "path" if self.gradient == "path" else "path_two_pass"
        check_gradient(model, by, self.who, gradient=self.gradient, remedy="ml", draws=False)
        check_events(self.target, model, self.who)
        recorded = torch.is_grad_enabled()
        conditions = batch.context if getattr(self.target, "context_shape", None) is not None else None
        found = evaluate(self.target, x, conditions, who=self.who, score=recorded or checks_finite())
        if recorded:
            assert found.score is not None
            log_q, carrier = (pulled_back if by == "path" else dropped_in)(model, x, found.score, batch.context, generator)
        else:
            log_q = model.log_prob(x, batch.context, generator=generator)
            carrier = torch.zeros_like(log_q)
        value = -weighted_mean(log_q, batch)
        log_w = found.log_density.to(log_q.dtype) - log_q
        known = found.log_density.isfinite() | (batch.extra.get("weight", 1.0) == 0)
        carrier = torch.where(known, carrier, torch.nan)  # no energy is in the value, where one that is not finite would show
        return carried(value, weighted_mean(carrier, batch), {"nll": value, **self._terms(log_w, batch)})

    def _terms(self, log_w: Tensor, batch: Batch) -> dict[str, Tensor]:
        terms = {"eubo": weighted_mean(log_w, batch)}
        if getattr(self.target, "context_shape", None) is None and "weight" not in batch.extra:
            n, relative = log_w.numel(), log_w - log_w.max()
            terms["ess"] = n * n * (-relative.logsumexp(0) - (-relative).logsumexp(0)).exp()
        if self.target.log_normalizer is not None:
            terms["kl"] = terms["eubo"] - self.target.log_normalizer
        return terms

    def _from_weights(self, model: nn.Module, batch: Batch, generator: torch.Generator | None) -> Loss:
        flow, shape, context = sample_plan(model, batch, self.who)
        if context is not None:
            raise ConfigError("ForwardKL: gradient='dreg' of a conditional flow has a normaliser for every context. Use flow.condition(context).")
        check_gradient(flow, "path", self.who, gradient="dreg", remedy="ml", exact=True)
        draws = draw(flow, self.target, shape, None, generator, by="path", who=self.who, zeros=True)
        weight = draws.log_w.flatten().softmax(0)
        value = -(weight * draws.log_q.flatten()).sum()
        surrogate = -((weight - weight.square()) * draws.carrier.flatten()).sum()
        return carried(value, surrogate, {"nll": value, **weight_terms(draws.log_w, self.target)})

    def _with_data(self, model: Any, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch, with exact samples of the target where it has no rows."""
        if batch.x is not None:
            return batch
        drawn = None
        if self.target is not None and self.target.can_sample:
            drawn = self.target.sample(positive(batch.size, "ForwardKL", "the batch's size"), generator=generator)
        if drawn is None:
            raise DataError("ForwardKL: expected data, or a target that draws exactly; got neither. Pass a source to fit, or gradient='dreg'.")
        like = next((p for p in model.parameters() if p.is_floating_point()), drawn)
        return dataclasses.replace(batch, x=drawn.to(like))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ForwardKL, nn.Module, Batch]]:
        yield "path", cls(normal(), gradient="path"), small_flow(), Batch(size=64)
        generator = torch.Generator().manual_seed(0)
        x, weight = 1.0 + 0.5 * torch.randn(64, 2, generator=generator), torch.rand(64, generator=generator)
        yield "weighted_conditional", cls(normal(), gradient="path"), small_flow(context=1), Batch(x, x[:, :1] - 1.0, extra={"weight": weight})
        yield "two_pass", cls(normal(), gradient="path_two_pass"), small_flow(), Batch(x)
        learned = {"name": "flow", "base": {"name": "diagonal_normal", "shape": (2,)}, "bijector": {"name": "affine", "shape": (2,)}}
        yield "learned_base", cls(normal(), gradient="path"), build(learned, Flow), Batch(x)
        yield "dreg", cls(normal(), gradient="dreg"), small_flow(), Batch(size=256)
        yield "maximum_likelihood", cls(), small_flow(), Batch(x)
