"""Samples of a flow weighed against a target, and carriers of the gradients that estimators are made of.

With x = g_theta(z) and log w = log p(x) - log q_theta(x), s_p and s_q the scores at x, three gradients per sample suffice:

    path    P = (dx/dtheta)^T (s_p - s_q)
    score   S = d/dtheta log q_theta(x) at a fixed x, of mean zero over q
    total   P - S = d/dtheta log w along x(theta)

A carrier is a number per sample whose derivative is one of them; an estimator is a weighted sum of carriers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from flowkit.core._scores import carry_all
from flowkit.core.checks import checks_finite
from flowkit.core.conditioned import Conditioned
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.shapes import positive, sum_event, zeros_log_det
from flowkit.objectives._energies import check_events, evaluate

Gradient = Literal["path", "path_two_pass", "total", "score"]


class Draws(NamedTuple):
    """Samples of a flow.

    Args:
        log_w, log_q: log-weight and log-density of each sample, without a graph.
        carrier: a number per sample whose derivative is the gradient asked for; zero where no gradients are recorded.
    """

    log_w: Tensor
    log_q: Tensor
    carrier: Tensor


def draw(
    model: Flow, target: Any, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, *, by: Gradient, who: str, zeros: bool = False
) -> Draws:
    """Draw samples and weigh them.

    Args:
        shape: sample shape; samples are (*shape, *Bc, *event).
        by: "path" carries the score along the sampling pass, "path_two_pass" differentiates the density pass at the samples;
            "score" needs no gradient of the target.
        zeros: whether weights of zero are in order.
    """
    check_events(target, model, who)
    recorded = torch.is_grad_enabled()
    conditions = context if getattr(target, "context_shape", None) is not None else None
    score_q: Tensor | None = None
    if recorded and by != "total" and _ends_fixed(model, by):
        return _onto_support(model, target, shape, context, conditions, generator, who, zeros, by=by)
    if by == "path" and recorded:
        x, log_q, score_q = model.sample_and_score(shape, context, generator)
    else:
        with torch.set_grad_enabled(recorded and by != "score"):
            x, log_q = model.sample_and_log_prob(shape, context, generator)
    found = evaluate(target, x, conditions, who=who, score=by != "score" and (recorded or checks_finite()), zeros=zeros)
    log_w = found.log_density.to(log_q.dtype) - log_q.detach()
    if not recorded:
        return Draws(log_w, log_q, torch.zeros_like(log_w))
    if by == "score":
        return Draws(log_w, log_q, model.log_prob(x.detach(), context, generator=generator))
    assert found.score is not None
    if by == "total":
        return Draws(log_w, log_q.detach(), along(model, x, found.score) - log_q)
    score_q = density_score(model, x, context, generator) if score_q is None else score_q
    return Draws(log_w, log_q.detach(), along(model, x, found.score - score_q))


def _ends_fixed(model: Flow, by: Gradient) -> bool:
    """Whether a fixed map onto the support comes last, in a flow whose calls are those of ``Flow``."""
    kind = type(model)
    usual = kind.sample_and_score is Flow.sample_and_score
    if by != "path":
        usual = usual and kind.log_prob is Flow.log_prob and kind.sample_and_log_prob in (Flow.sample_and_log_prob, Conditioned.sample_and_log_prob)
    return usual and fixed_end(model) is not None


def fixed_end(model: Flow) -> Any:
    """The map onto the support, where it comes last and has neither parameters nor a context; else None."""
    last = getattr(model, "support_map", None)
    fixed = last is not None and model.maps[-1] is last and last.context_shape is None and next(last.parameters(), None) is None
    return last if fixed else None


def _onto_support(
    model: Flow, target: Any, shape: tuple[int, ...], context: Any, conditions: Any, generator: torch.Generator | None, who: str, zeros: bool, *, by: Gradient
) -> Draws:
    """``draw`` for x = g(u), g the fixed map onto the support and s_u the flow's score at u; all is done in front of g.

    P = (du/dtheta)^T (d/du [log p(g(u)) + log|det dg/du|] - s_u), equal to (dx/dtheta)^T (s_p - s_q); but that is zero
    times infinity at the boundary, where the slope of g vanishes. S = d/dtheta log q_u(u) at a fixed u: from x on the boundary
    that u is not found again.
    """
    last = model.support_map
    assert last is not None
    with torch.set_grad_enabled(by != "score"):
        z, inner = model._draw_latent(shape, context, generator, 1.0)
        own = model._context_for(model.base, inner)
        if by == "path":
            start = model.base.score(z.detach(), own)
            u, log_det, score_u = carry_all(model.maps[:-1], z, model.base.event_shape, start, lambda m: model._context_for(m, inner), generator, inverse=False)
        else:
            u, log_det = z, zeros_log_det(z, model.base.event_shape)
            for step in model.maps[:-1]:
                u, more = step(u, model._context_for(step, inner), generator=generator)
                log_det = log_det + more
    point = u.detach().requires_grad_(by != "score")
    density = _density_before_support(model, point, inner, generator) if by != "path" else None
    x, log_volume = last(point)
    found = evaluate(target, x, conditions, who=who, score=by != "score" or checks_finite(), zeros=zeros)
    log_q = (model.base.log_prob(z, own) - log_det - log_volume).detach()
    log_w = found.log_density.to(log_q.dtype) - log_q
    if by == "score":
        assert density is not None
        return Draws(log_w, log_q, density)
    if density is not None:
        (score_u,) = torch.autograd.grad(density.sum(), point)
    assert found.score is not None
    (direction,) = torch.autograd.grad((x * found.score).sum() + log_volume.sum(), point)
    return Draws(log_w, log_q, sum_event(u * (direction - score_u).detach(), len(last.in_shape)))


def _density_before_support(model: Flow, u: Tensor, inner: Any, generator: torch.Generator | None) -> Tensor:
    """The flow's log-density of u, which the map onto the support has not seen; ``inner`` is the context as the maps see it."""
    total = zeros_log_det(u, model.maps[-1].in_shape)
    for step in reversed(model.maps[1:-1]):
        u, log_det, _ = step.masked(u, model._context_for(step, inner), inverse=True, generator=generator)
        total = total + log_det
    return model.base.log_prob_under(model.bijector, u, inner, generator)[0] + total


def along(model: Flow, x: Tensor, direction: Tensor) -> Tensor:
    """<x, direction> per sample, the direction constant: its derivative is (dx/dtheta)^T direction."""
    return sum_event(x * direction.detach(), len(model.event_shape))


def density_score(model: Flow, x: Tensor, context: Any, generator: torch.Generator | None) -> Tensor:
    """Score of the flow at x by differentiating the density pass: what ``sample_and_score`` saves."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(model.log_prob(point, context, generator=generator).sum(), point)
    return score


def carried(value: Tensor, surrogate: Tensor, terms: dict[str, Tensor]) -> Loss:
    """A loss of a given value whose gradient is the surrogate's."""
    return Loss(value.detach() + (surrogate - surrogate.detach()), {name: term.detach() for name, term in terms.items()})


def effective_share(log_w: Tensor) -> Tensor:
    """Kish's effective sample size over the number of samples, in (0, 1]: (*B) -> ()."""
    flat = log_w.flatten()
    flat = flat - flat.max()  # else large log-weights lose the digits of the sums, and shares exceed 1
    return (2 * flat.logsumexp(0) - (2 * flat).logsumexp(0)).exp() / flat.numel()


def weight_terms(log_w: Tensor, target: Any) -> dict[str, Tensor]:
    """What is worth watching of log-weights of the flow's own samples: elbo, log_w_std, ess, and kl where log Z is known."""
    terms = {"elbo": log_w.mean(), "log_w_std": log_w.std(correction=0)}
    if getattr(target, "context_shape", None) is None:  # weights of different conditions have different constants
        terms["ess"] = effective_share(log_w)
    if target.log_normalizer is not None:
        terms["kl"] = target.log_normalizer - log_w.mean()
    return terms


def sample_plan(model: nn.Module, batch: Batch, who: str) -> tuple[Flow, tuple[int, ...], Any]:
    """The flow, the sample shape and the context of a step: one sample for each row of the context, or ``batch.size`` samples.

    Raises:
        ConfigError: the model is no flow, the flow is conditional and there is no context, or the batch carries weights.
    """
    if not isinstance(model, Flow):
        raise ConfigError(f"{who}: expected a flow; got {type(model).__name__}.")
    if "weight" in batch.extra:
        raise ConfigError(f"{who}: draws its own samples, which have no weights. Drop sample_weight=.")
    if model.context_shape is not None:
        if batch.context is None:
            raise ConfigError(f"{who}: the flow is conditional and the batch has no context. Pass a source of (x, context) to fit; x is not used.")
        return model, (), batch.context
    n = batch.size if batch.x is None else len(batch.x)
    return model, (positive(n, who, "the batch's size"),), None


def check_gradient(model: Flow, by: str, who: str, *, gradient: str, exact: bool = False, remedy: str = "total", draws: bool = True) -> None:
    """Raise ConfigError where a flow cannot give a gradient.

    Args:
        by: of what kind it is, see ``draw``. gradient: what the caller called it.
        remedy: the gradient that always goes. draws: whether the samples are the flow's own.
        exact: whether an unbiased estimate of log q does not do, as where it enters through its exp or its square.
    """
    asked, kind = f"{who}: gradient={gradient!r}", type(model).__name__
    if model.density == "manifold":
        raise ConfigError(f"{asked} needs a density on all of the space; {kind} has one on a manifold.")
    fixed = not any(p.requires_grad for p in model.base.parameters())
    if draws and by != "score" and not (model.reparametrized and (fixed or model.base.reparametrized)):
        part = type(model.base).__name__ if model.reparametrized else kind
        other = "Train it from data" if model.density == "lower_bound" else "Use ReverseKL(gradient='score'), or freeze it"
        raise ConfigError(f"{asked} needs samples differentiable in the parameters; those of {part} are not. {other}.")
    if model.density == "lower_bound" and by != "total":
        raise ConfigError(f"{asked} needs the flow's density; {kind} has a lower bound of it, as a layer of it draws. Use gradient='{remedy}'.")
    if model.density == "estimate" and exact:
        raise ConfigError(f"{asked} needs the flow's exact density; {kind} estimates it. Build its maps with an exact log_det, or use ReverseKL.")
    scores = [step.traits.score if hasattr(step, "push_score") else "none" for step in model.maps]
    if by == "path" and "none" in scores:
        raise ConfigError(f"{asked} needs maps that carry a score; {kind} has one of traits.score 'none'. Use gradient='{remedy}'.")
    if by in ("path_two_pass", "score") and any(step.traits.inverse == "none" for step in model.maps):
        raise ConfigError(f"{asked} needs the inverse; {kind} has none. Use gradient='{remedy}'.")
