"""Continuous normalizing flows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.bijectors import Continuous
from flowkit.continuous import GuidedField, MLPField
from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, positive, positive_sizes
from flowkit.core.vector_field import VectorField
from flowkit.distributions import StandardNormal
from flowkit.flows._conditioning import conditioning

CHANGEABLE = ("solver", "steps", "rtol", "atol", "divergence", "adjoint", "per_sample", "probes", "max_steps")  # by ``with_solver``


@FLOWS.register("continuous_flow", "cnf")
class ContinuousFlow(Flow):
    """Samples of the base carried by a velocity field from t = 0 to the data at t = 1; one model for likelihood and for flow matching.

    Train it by maximum likelihood (``MaximumLikelihood``, ``ContinuousLikelihood``) or by regression of the field
    (``FlowMatching`` and its kin): either way ``log_prob``, ``sample`` and the rest are those of every flow. Costs are counted in
    evaluations of the field: a solve takes 10 to 200. Sampling alone integrates no divergence.

    Contexts: as for every recipe, ``context_features=``, ``classes=`` (labels 0 .. K - 1, -1 for none) or ``embed=``.

    Args:
        features: D; None with ``field`` for events of another shape.
        context_features: size of a context vector; 0 for none.
        hidden: widths of the default field, an ``MLPField``.
        divergence, solver, rtol, atol, adjoint, per_sample, steps, probes, max_steps: see ``bijectors.Continuous``.
        field: velocity field in place of the default one; its context is what ``context_features``, ``classes`` or ``embed`` give.
        base: law at t = 0, default standard normal.
        duration: time that the field is followed for; it ends at t = 1.
        support: domain that samples stay in; default all of R^D.
        standardize: end with a ``Standardize`` map, set by ``fit``; None for yes unless events are images.
        classes, context_shape, embed: as in ``Recipe``.
        activation: of the default field.

    Reference: Chen et al. (2018), arXiv:1806.07366; Grathwohl et al. (2019), arXiv:1810.01367; Lipman et al. (2023), Flow matching
    for generative modeling, arXiv:2210.02747.

    Example:
        >>> import torch, flowkit as fk
        >>> flow = fk.flows.ContinuousFlow(features=2, hidden=(16, 16))
        >>> flow.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int | None = None,
        context_features: int = 0,
        hidden: Sequence[int] = (64, 64),
        divergence: str = "auto",
        solver: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        adjoint: Literal["discrete", "backprop", "continuous", "reversible"] = "discrete",
        per_sample: bool = True,
        *,
        field: VectorField | None = None,
        steps: int | None = None,
        probes: int = 1,
        max_steps: int = 10_000,
        base: Distribution | None = None,
        duration: float = 1.0,
        support: Domain | None = None,
        standardize: bool | None = None,
        classes: int = 0,
        context_shape: Sequence[int | None] | None = None,
        embed: nn.Module | None = None,
        activation: str = "tanh",
    ) -> None:
        who = type(self).__name__
        if features is None and field is None:
            raise ConfigError(f"{who}: expected features=, the number of coordinates, or field=, a velocity field; got neither.")
        features = None if features is None else positive(features, who, "features")
        seen = conditioning(who, context_features, classes, context_shape, embed)
        self.hidden, self.activation = positive_sizes(hidden, who, "hidden"), activation
        if field is None:
            assert features is not None
            field = MLPField(features, self.hidden, activation=activation, context_features=seen.features)
        event = _event(who, field, features)
        if seen.features and field.context_shape != (seen.features,):
            raise ConfigError(
                f"{who}: expected a field with a context of {seen.features} numbers; {type(field).__name__} has context_shape={field.context_shape}. "
                f"Build it with context_features={seen.features}."
            )
        base = StandardNormal(event) if base is None else base
        image = len(event) > 1
        net = seen.net()
        super().__init__(
            base,
            Continuous(
                field, divergence=divergence, solver=solver, rtol=rtol, atol=atol, adjoint=adjoint, per_sample=per_sample,
                steps=steps, probes=probes, max_steps=max_steps, duration=duration,
            ),
            support,
            standardize=not image if standardize is None else standardize,
            embed=net,
            context_shape=seen.raw,
        )  # fmt: skip
        self.features, self.context_features, self.classes = features, seen.context_features, seen.classes
        self.divergence, self.solver, self.rtol, self.atol, self.adjoint = divergence, solver, rtol, atol, adjoint
        own: Any = self.bijector
        self.per_sample, self.steps, self.probes, self.max_steps, self.duration = own.per_sample, own.steps, own.probes, own.max_steps, own.duration
        self.class_embedding = net if classes else None
        self.embed = embed

    @property
    def field(self) -> VectorField:
        """The velocity field, which objectives train: v(t, x, embedded context) on the events between base and ``endpoint``."""
        found: VectorField = self.bijector.field  # type: ignore[assignment]
        return found

    @property
    def embedding(self) -> nn.Module | None:
        return self.class_embedding if self.classes else self.embed

    def endpoint(self, x: Tensor, context: Context = None) -> Tensor:
        """Data pulled back through the support map and ``Standardize``, to where the field ends at t = 1: (*B, *event)."""
        self._check_values(x, self.event_shape, "endpoint")
        for step in reversed(self.maps[1:]):
            x, _ = step.inverse(x)
        return x

    def path(self, z: Tensor, times: Tensor | Sequence[float], context: Context = None) -> Tensor:
        """Places in data space along the way: z (*B, *event) at times[0] and the times (T,) -> (T, *B, *event).

        z is in the field's own space: the base's at time 0; at time 1 it is ``endpoint(x)``.
        """
        self._check_values(z, self.base.event_shape, "path")
        continuous: Any = self.bijector
        places: Tensor = continuous.transport(z, self.embed_context(context), log_det=False, times=times).value
        return self._placed(places)

    def _placed(self, x: Tensor) -> Tensor:
        """From where the field ends to data space: the opposite of ``endpoint``."""
        for step in self.maps[1:]:
            x = step(x)[0]
        return x

    def with_solver(self, **options: Any) -> ContinuousFlow:
        """A flow that shares all weights and solves otherwise: ``with_solver(solver="euler", steps=4)``, ``with_solver(rtol=1e-7)``.

        Args:
            options: any of solver, steps, rtol, atol, divergence, adjoint, per_sample, probes, max_steps.
        """
        unknown = sorted(set(options) - set(CHANGEABLE))
        if unknown:
            raise ConfigError(f"{self.who}.with_solver: expected some of {', '.join(CHANGEABLE)}; got {unknown[0]!r}.")
        return self._changed(self.field, options)

    def guided(self, scale: float) -> ContinuousFlow:
        """A flow that shares the weights, its velocity v_null + scale (v_context - v_null): classifier-free guidance.

        With ``classes`` the vector of "no class" is taken as it is now: call this again after further training.

        Args:
            scale: 1 leaves the conditional field as it is, 0 forgets the context, above 1 follows it more closely than the data do.

        Reference: Ho and Salimans (2022), Classifier-free diffusion guidance, arXiv:2207.12598.
        """
        if self.context_shape is None:
            raise ConfigError(f"{self.who}.guided: expected a flow with a context; this one has none. Build it with classes= or context_features=.")
        null = None
        if self.class_embedding is not None:
            null = self.class_embedding(torch.tensor(-1, device=next(self.class_embedding.parameters()).device)).detach()
        return self._changed(GuidedField(self.field, scale, null=null), {})

    def _changed(self, field: VectorField, options: dict[str, Any]) -> ContinuousFlow:
        old: Any = self.bijector
        kept = {
            name: getattr(old, name) for name in ("divergence", "solver", "steps", "rtol", "atol", "adjoint", "per_sample", "probes", "max_steps", "duration")
        }
        changed = copy.copy(self)
        changed._modules = dict(self._modules)
        bijector = Continuous(field, **{**kept, **options})
        bijector.time_span = old.time_span
        bijector.training = self.training  # not .train(), which would reach the shared field
        changed.bijector = bijector
        for name, value in options.items():
            setattr(changed, name, value)
        return changed

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ContinuousFlow]]:
        tight: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
        yield "plane", cls(2, hidden=(8, 8), **tight)
        yield "conditional", cls(2, 3, hidden=(8, 8), **tight)
        yield "classes", cls(2, hidden=(8, 8), classes=3, solver="dopri8", steps=8, per_sample=False)
        field = build({"name": "concat_squash_field", "features": 2, "hidden": (8, 8)}, VectorField)
        yield "field_in_a_box", cls(field=field, support=build({"name": "box", "low": -3.0, "high": 3.0, "dim": 2}, Domain), **tight)


def _event(who: str, field: VectorField, features: int | None) -> tuple[int, ...]:
    """The event shape of a field, of known sizes and in agreement with ``features``."""
    if not isinstance(field, VectorField):
        raise ConfigError(f"{who}: expected field to be a velocity field; got {type(field).__name__}. Subclass VectorField, or leave it out.")
    event = tuple(field.event_shape)
    if any(size is None for size in event):
        raise ConfigError(f"{who}: expected a field on events of known shape; got {event}.")
    if features is not None and event != (features,):
        raise ConfigError(f"{who}: features={features}, but the field is on events of shape {event}. Leave features out.")
    return event  # type: ignore[return-value]
