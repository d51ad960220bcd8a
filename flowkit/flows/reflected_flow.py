"""Continuous flows on a bounded convex domain, reflected at its boundary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from flowkit.bijectors import Continuous
from flowkit.bijectors._augmented import Transport
from flowkit.continuous import MLPField
from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.domain._reflection import Projected, check_inside, require_reflection
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, mask_event, positive_sizes, unify
from flowkit.core.vector_field import VectorField
from flowkit.distributions import TruncatedNormalOn, UniformOn
from flowkit.flows._conditioning import conditioning
from flowkit.flows._mirrored import Mirrored, Passing, ReflectedInfo, Watched, information
from flowkit.flows.continuous_flow import ContinuousFlow

PRIORS = {"uniform": UniformOn, "truncated_normal": TruncatedNormalOn}
EXITS = ("-inf", "nan", "reflect")
RULES = ("reflect", "project")


@FLOWS.register("reflected_flow")
class ReflectedFlow(ContinuousFlow):
    """A flow on a bounded convex domain: draws of a prior on it, carried by a velocity field and mirrored at the boundary.

        dx = v(t, x) dt + dL,   L pushes inward along the normal, at the boundary only

    Samples never lie outside, by ``domain.contains(x, tol=0)``. Every stage of the solver is folded back inside and its velocity
    carried to the unfolded line, then the end of the step. Under error control (``steps=None``) a sample that meets a wall is solved
    anew in 10 equal steps of "heun3", whatever solver and tolerances, as the end of a mirrored step is off by O(h) in any method; with
    ``steps`` all samples take those. Train it with ``ReflectedFlowMatching``; no standardisation. Inside,
    ``log p(x) = log p_0(x_0) - int div v dt`` along the way back to x_0. That way leaves the domain only where v pushed samples into the
    wall, and x then lies outside the flow's exact image, up to the solver's tolerance: ``on_exit`` says what ``log_prob`` is there,
    and ``log_prob_with_info`` how often it happened. Under guidance or a poor fit that share is not small; look at it.

    Args:
        domain: Box, HalfSpace, Ball, Simplex, Polytope, or a Product of them.
        hidden: widths of the default field, an ``MLPField``.
        context_features: size of a context vector; 0 for none.
        prior: "uniform" (bounded domains), "truncated_normal" (the domain's centre and half-width), or a distribution on the domain.
        divergence, solver, rtol, atol, adjoint, steps, probes, field, classes, context_shape, embed, activation: as in ``ContinuousFlow``.
        on_exit: "-inf", the honest value; "nan"; or "reflect", the value after mirroring the way back, which is no density.
        boundary: "reflect"; or "project", for comparison, which piles atoms on the boundary and has no ``log_prob``.

    Raises:
        DomainError: the domain is not convex or has no mirrors. ConfigError: options that do not fit.

    Reference: Xie et al. (2024), Reflected flow matching, arXiv:2405.16577.

    Example:
        >>> import torch, flowkit as fk
        >>> from flowkit.core.domain import Simplex
        >>> flow = fk.flows.ReflectedFlow(Simplex(3), (16, 16))
        >>> bool(flow.domain.contains(flow.sample(100)).all())
        True
    """

    def __init__(
        self,
        domain: Domain,
        hidden: Sequence[int] = (64, 64),
        context_features: int = 0,
        *,
        prior: str | Distribution = "uniform",
        solver: str = "dopri5",
        steps: int | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        divergence: str = "auto",
        adjoint: Literal["discrete", "backprop"] = "discrete",
        probes: int = 1,
        on_exit: str = "-inf",
        boundary: str = "reflect",
        field: VectorField | None = None,
        classes: int = 0,
        context_shape: Sequence[int | None] | None = None,
        embed: nn.Module | None = None,
        activation: str = "silu",
    ) -> None:
        who = type(self).__name__
        require_reflection(domain, who)
        _one_of(who, "on_exit", on_exit, EXITS)
        _one_of(who, "boundary", boundary, RULES)
        if field is None:
            field = _default_field(
                who, domain, positive_sizes(hidden, who, "hidden"), activation, conditioning(who, context_features, classes, context_shape, embed).features
            )
        if unify(field.event_shape, domain.event_shape) is None:
            raise ShapeError(f"{who}: the domain has events {tuple(domain.event_shape)}, the field {tuple(field.event_shape)}. Give both the same shape.")
        options: dict[str, Any] = {"divergence": divergence, "solver": solver, "rtol": rtol, "atol": atol, "adjoint": adjoint, "steps": steps, "probes": probes}
        super().__init__(
            None, context_features, hidden, field=field, base=_prior(who, prior, domain), standardize=False,
            classes=classes, context_shape=context_shape, embed=embed, activation=activation, **options,
        )  # fmt: skip
        self.prior, self.on_exit, self.boundary = prior, on_exit, boundary
        self._support, self._whole = domain, domain
        self.bijector = Mirrored(field, domain, domain if boundary == "reflect" else Projected(domain), **options)

    def endpoint(self, x: Tensor, context: Context = None) -> Tensor:
        """Data as they are, once they are seen to lie in the domain (eager on the CPU): (*B, *event)."""
        self._check_values(x, self.event_shape, "endpoint")
        if may_raise(x):
            check_inside(self.domain, x, self.who)
        return x

    def _changed(self, field: VectorField, options: dict[str, Any]) -> ReflectedFlow:
        if options.get("per_sample", True) is not True:
            raise ConfigError(f"{self.who}.with_solver: expected steps of each sample's own; got per_sample={options['per_sample']!r}. Leave it out.")
        changed, walls = super()._changed(field, options), cast("Mirrored", self.bijector)
        changed.bijector = walls.like(cast("Continuous", changed.bijector))
        return cast("ReflectedFlow", changed)

    # -- density ------------------------------------------------------------------------------------------------

    def _density(self, x: Tensor, context: Context, generator: torch.Generator | None) -> Tensor:
        return self._back(x, context, generator, False)[0]

    def _back(self, x: Tensor, context: Context, generator: torch.Generator | None, watch: bool) -> tuple[Tensor, ReflectedInfo]:
        """Log-density, and what the way back met."""
        if self.boundary == "project":
            raise ConfigError(f"{self.who}.log_prob: projected samples have atoms on the boundary, so no density. Use boundary='reflect'.")
        inside, x = self._whole.split(x)
        walls: Any = self.bijector
        # what the solver's error alone can carry over the wall is no exit
        tolerance = 10 * max(self.rtol, self.atol) * self.domain.scale if self.steps is None else 0.0
        rule = walls.rule if self.on_exit == "reflect" else Passing(self.domain, tolerance)
        watched = Watched(rule, self.domain) if watch else None
        moved: Transport = walls.transport(x, context, inverse=True, generator=generator, boundary=watched or rule)
        met = moved.stats.hits.reshape(moved.log_det.shape) > 0
        exited = inside & met
        start = moved.value
        if rule is not walls.rule:
            start = torch.where(mask_event(met, len(self.event_shape)), self.domain.safe_point(x), start)
        start = self.domain.project(start)  # type: ignore[operator]
        log_prob = self.base.log_prob(start, self._context_for(self.base, context)) + moved.log_det
        if self.on_exit != "reflect":
            log_prob = torch.where(exited, torch.full_like(log_prob, float(self.on_exit)), log_prob)
        return torch.where(inside, log_prob, torch.full_like(log_prob, -torch.inf)), information(moved, exited, watched)

    @torch.no_grad()
    def log_prob_with_info(self, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, ReflectedInfo]:
        """``log_prob`` and what the way back met; without gradients."""
        self._check_values(x, self.event_shape, "log_prob")
        return self._back(x, self.embed_context(context), generator, True)

    # -- samples ------------------------------------------------------------------------------------------------

    def sample_and_log_prob(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Samples and their log-density: from the one pass where no wall was met, else from the way back, as ``log_prob`` has it."""
        z, context = self._draw_latent(shape, context, generator, temperature)
        walls: Any = self.bijector
        moved: Transport = walls.transport(z, context, generator=generator)
        if self.boundary == "project" or bool((moved.stats.hits > 0).any()):
            return moved.value, self._density(moved.value, context, generator)
        return moved.value, self.base.log_prob(z, self._context_for(self.base, context)) - moved.log_det

    def sample_and_score(
        self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``sample_and_log_prob``, and the gradient of ``log_prob`` at the samples, by a second pass."""
        x, log_prob = self.sample_and_log_prob(shape, context, generator)
        return x, log_prob, self.score(x.detach(), context)

    @torch.no_grad()
    def sample_with_info(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, ReflectedInfo]:
        """``sample`` and what the solution met."""
        z, context = self._draw_latent(shape, context, generator, temperature)
        walls: Any = self.bijector
        watched = Watched(walls.rule, self.domain)
        moved: Transport = walls.transport(z, context, log_det=False, boundary=watched)
        return moved.value, information(moved, moved.stats.hits.reshape(moved.log_det.shape) > 0, watched)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ReflectedFlow]]:
        tight: dict[str, Any] = {"solver": "dopri8", "steps": 6}

        def flow(domain: dict[str, Any], **options: Any) -> ReflectedFlow:
            # the prior is narrow beside the domain, so that a field of any weights takes no sample to the wall
            prior = build({"name": "truncated_normal_on", "domain": domain, "loc": 0.0, "scale": 1.0}, Distribution)
            return cls(prior.domain, (8, 8), prior=prior, on_exit="reflect", activation="tanh", **tight, **options)

        yield "box", flow({"name": "box", "low": -40.0, "high": 60.0, "dim": 2})
        yield "ball_classes", flow({"name": "ball", "radius": 30.0, "dim": 2}, classes=3)


def _one_of(who: str, name: str, value: Any, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ConfigError(f"{who}: expected {name} to be one of {', '.join(map(repr, options))}; got {value!r}.")


def _default_field(who: str, domain: Domain, hidden: Sequence[int], activation: str, context_features: int) -> VectorField:
    if len(domain.event_shape) != 1 or domain.event_shape[0] is None:
        raise ConfigError(f"{who}: a domain of events {tuple(domain.event_shape)} needs field=, a velocity field of that shape; the default is for vectors.")
    return MLPField(domain.event_shape[0], hidden, activation=activation, context_features=context_features)


def _prior(who: str, prior: Any, domain: Domain) -> Distribution:
    """The law at t = 0, seen to lie in the domain."""
    if isinstance(prior, str):
        _one_of(who, "prior", prior, tuple(PRIORS))
        made: Distribution = PRIORS[prior](domain)
        return made
    if not isinstance(prior, Distribution):
        raise ConfigError(f"{who}: expected prior to be 'uniform', 'truncated_normal' or a distribution on {domain}; got {type(prior).__name__}.")
    if unify(prior.event_shape, domain.event_shape) is None:
        raise ShapeError(f"{who}: the prior has events {tuple(prior.event_shape)}, the domain {tuple(domain.event_shape)}.")
    if prior.context_shape is None:
        check_inside(domain, prior.sample(256, generator=torch.Generator().manual_seed(0)), f"{who}, draws of the prior")
    return prior
