"""Calling a target: its log-density and score at samples, with what can be wrong with either said in one line."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.checks import checks_finite
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.shapes import batch_shape, mask_event, show, unify
from flowkit.core.target import Target

NO_GRADIENT = (
    "Compute it with torch operations (no .detach(), .item(), .numpy() or torch.no_grad()), give the target its own method score(x), "
    "or choose an estimator that needs no gradient of the energy, such as ReverseKL(gradient='score')."
)


class Evaluated(NamedTuple):
    """A target at samples, without a graph: log_density (*B), and score (*B, *event) or None where it was not asked for."""

    log_density: Tensor
    score: Tensor | None


def frozen(target: Any, who: str) -> Any:
    """The target as an objective keeps it: where it has parameters a copy of it, frozen and in evaluation mode; else itself."""
    if not isinstance(target, Target | Distribution):
        got = f"the class {target.__name__}" if isinstance(target, type) else type(target).__name__
        raise ConfigError(f"{who}: expected a target or a distribution; got {got}. Pass e.g. flowkit.targets.ManyWell(dim=2).")
    if next(target.parameters(), None) is None:
        return target
    return copy.deepcopy(target).requires_grad_(False).eval()


def check_events(target: Any, model: Any, who: str) -> None:
    """Raise ShapeError unless target and flow are densities of events of one shape."""
    of, event = type(target).__name__, getattr(target, "event_shape", None)
    if not isinstance(event, tuple):
        raise ConfigError(f"{who}: expected {of}.event_shape to be a tuple of sizes; got {event!r}. Set event_shape = (features,) in {of}.")
    if unify(event, model.event_shape) is None:
        raise ShapeError(f"{who}: {of} has event shape {show(event)}, the flow {show(model.event_shape)}. Build the flow for the target's events.")


def evaluate(target: Any, x: Tensor, context: Any = None, *, who: str, score: bool, zeros: bool = False) -> Evaluated:
    """log_density and, if asked for, score of a target at samples, from one evaluation of the energy.

    A target whose log-density carries no gradient but that has a ``score`` of its own is asked for that. Values that are not
    finite are passed on, so that the training loop can stop or skip; under ``flowkit.checks(finite=True)``, with which the loop
    looks for the cause, they raise.

    Args:
        x: (*B, *event), taken as constants. context: of a conditional target.
        score: whether the gradient is wanted.
        zeros: whether a log-density of minus infinity is in order, as where it gives a weight of zero; the score there is set to 0.

    Raises:
        ConfigError: no gradient where one is wanted, or no tensor; ShapeError: one value for every sample is expected.
        NonFiniteError: under ``flowkit.checks(finite=True)``.
    """
    name, arguments = f"{who}: {type(target).__name__}", () if context is None else (context,)
    x = x.detach()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):  # energies are of large, nearly equal numbers
        point = x.requires_grad_() if score else x.clone()  # an energy that writes into its argument would move the samples
        value = target.log_density(point, *arguments)
        _check_value(value, x, target, name)
        gradient = _score(target, value, point, arguments, name) if score else None
    value = value.detach()
    if zeros and gradient is not None:
        inside = mask_event(value > -torch.inf, x.dim() - value.dim())
        gradient = torch.where(inside, gradient, torch.zeros_like(gradient))
    if checks_finite():
        _check_finite(value, gradient, name, zeros)
    return Evaluated(value, gradient)


def _score(target: Any, value: Tensor, point: Tensor, arguments: tuple[Any, ...], name: str) -> Tensor:
    own = getattr(type(target), "score", None) not in (Target.score, Distribution.score)
    gradient: Tensor | None = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
    elif own:
        gradient = target.score(point.detach(), *arguments)
    if gradient is None:
        raise ConfigError(f"{name}.log_density carries no gradient: it does not depend on x through autograd. {NO_GRADIENT}")
    if gradient.shape != point.shape:
        raise ShapeError(f"{name}.score: expected shape {tuple(point.shape)}, that of x; got {tuple(gradient.shape)}.")
    return gradient.detach().to(point.dtype)


def _check_value(value: Any, x: Tensor, target: Any, name: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(f"{name}.log_density: expected a floating tensor; got {got}. Return torch's own, one value for every sample.")
    batch = batch_shape(x, target.event_shape)
    if value.shape != batch:
        remedy = "Sum over the event's axes only, and keep the batch's."
        raise ShapeError(f"{name}.log_density: expected one value for every sample, shape {tuple(batch)}; got {tuple(value.shape)}. {remedy}")


def _check_finite(value: Tensor, gradient: Tensor | None, name: str, zeros: bool) -> None:
    """Say what is not finite, at how many samples, and where first."""
    flat = value.flatten()
    _raise_at(flat.isnan(), f"{name}.log_density is NaN", "Mend or regularise the energy there.")
    _raise_at(flat == torch.inf, f"{name}.log_density is +inf", "Mend the energy: a density is finite.")
    below = flat == -torch.inf
    if not zeros or bool(below.all()):
        _raise_at(below, f"{name}.log_density is -inf", "Keep the flow on the target's support (support=), or regularise the energy.")
    if gradient is not None:
        rows = gradient.reshape(flat.numel(), -1)
        _raise_at(~rows.isfinite().all(1), f"{name}'s score is NaN or infinite", "Regularise the energy there.")


def _raise_at(bad: Tensor, what: str, remedy: str) -> None:
    if bool(bad.any()):
        raise NonFiniteError(f"{what} at {int(bad.sum())} of {bad.numel()} samples, the first of them sample {int(bad.nonzero()[0, 0])}. {remedy}")
