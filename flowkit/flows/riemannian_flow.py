"""Continuous flows on manifolds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.continuous import GuidedField, TangentField
from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.domain import SO3, Manifold, Sphere, Torus
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, check_event, positive, positive_number, positive_sizes, whole_number
from flowkit.core.vector_field import VectorField
from flowkit.distributions import UniformOn
from flowkit.flows._conditioning import conditioning
from flowkit.flows._manifold_map import ManifoldMap
from flowkit.numerics.manifold_ode import check_scheme


@FLOWS.register("riemannian_flow")
class RiemannianFlow(Flow):
    """The law at time 1 of points that start uniform on a manifold and follow dx/dt = u(t, x), u tangent.

        log p(x_1) = log p_0(x_0) - int_0^1 div u(t, x_t) dt

    with the divergence of the manifold, exact. A density per volume of the manifold: the uniform law has -log volume (-log 4 pi on
    S^2, -d log 2 pi on a torus, -log 8 pi^2 for rotations). Samples lie on the manifold to rounding, for any number of steps; the
    error of ``log_prob`` falls as steps^-4 with "rk4". Minus infinity off the manifold, beyond the rounding of a few operations. Train it with
    ``RiemannianFlowMatching``, or with ``MaximumLikelihood`` through the solver. There is no ``Standardize``.

    Args:
        domain: a manifold: ``Sphere(dim)``, ``Torus(dim)``, ``SO3()``.
        hidden: widths of the field's hidden layers.
        context_features: size of a context vector; 0 for none.
        solver: a method of ``numerics.ode``: "rk4", "midpoint", "euler", "dopri5", ...
        steps: number of equal steps; None for steps by error control, of each point its own, with a method such as "dopri5".
        rtol, atol: tolerances of the error control.
        classes: K for labels 0 .. K - 1 as context, -1 for none; 0 for none.
        context_shape: event shape that ``embed`` reads.
        embed: net applied to the context, once per distinct one, with ``context_features`` numbers out.
        activation, octaves: of the default field, see ``TangentField``.
        field: a velocity field in place of the default ``TangentField``, made tangent by projection where it is not one; its context is what
            ``context_features``, ``classes`` or ``embed`` give.
        base: law at time 0, on the manifold; default uniform.

    Raises:
        ConfigError: the domain is no manifold, or the base is not on it. ShapeError: a field of another event shape.

    Reference: Chen and Lipman (2024), Flow matching on general geometries, arXiv:2302.03660; Mathieu and Nickel (2020), Riemannian
    continuous normalizing flows, arXiv:2006.10605.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Sphere
        >>> from flowkit.flows import RiemannianFlow
        >>> flow = RiemannianFlow(Sphere(2), hidden=(16, 16))
        >>> x = flow.sample((5,), generator=torch.Generator().manual_seed(0))
        >>> x.shape, bool((x.norm(dim=-1) - 1).abs().max() < 1e-6), flow.log_prob(x).shape
        (torch.Size([5, 3]), True, torch.Size([5]))
    """

    def __init__(
        self,
        domain: Manifold,
        hidden: Sequence[int] = (64, 64),
        context_features: int = 0,
        *,
        solver: str = "rk4",
        steps: int | None = 32,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        classes: int = 0,
        context_shape: Sequence[int | None] | None = None,
        embed: nn.Module | None = None,
        activation: str = "silu",
        octaves: int = 3,
        field: VectorField | None = None,
        base: Distribution | None = None,
    ) -> None:
        who = "RiemannianFlow"
        if not isinstance(domain, Manifold):
            raise ConfigError(f"{who}: expected a manifold such as Sphere(2), Torus(2) or SO3(); got {domain!r}. In R^n use ContinuousFlow.")
        seen = conditioning(who, context_features, classes, context_shape, embed)
        self.context_features, self.classes = seen.context_features, seen.classes
        self.hidden, self.activation, self.octaves = positive_sizes(hidden, who, "hidden"), activation, whole_number(octaves, who, "octaves", 0)
        self.steps = None if steps is None else positive(steps, who, "steps")
        self.solver, self.rtol, self.atol = check_scheme(solver, steps, who), positive_number(rtol, who, "rtol"), positive_number(atol, who, "atol")
        inner = self._tangent(who, domain, field, seen.features)
        law = UniformOn(domain) if base is None else base
        if repr(law.domain) != repr(domain):
            raise ConfigError(f"{who}: expected a base on {domain}; got {type(law).__name__} on {law.domain}. Leave it out for the uniform law.")
        net = seen.net()
        super().__init__(law, ManifoldMap(inner, domain, self.solver, self.steps, self.rtol, self.atol), domain, embed=net, context_shape=seen.raw)
        self.class_embedding = net if classes else None
        self.embed = embed

    def _tangent(self, who: str, domain: Manifold, field: VectorField | None, context: int) -> TangentField:
        """The field given, projected where it is not made for tangents, or the default one."""
        if field is None:
            return TangentField(domain, self.hidden, context_features=context, activation=self.activation, octaves=self.octaves)
        if context and field.context_shape != (context,):
            raise ConfigError(f"{who}: expected a field with a context of {context} numbers; got context_shape={field.context_shape}.")
        if isinstance(field, TangentField) and repr(field.domain) != repr(domain):
            raise ConfigError(f"{who}: expected a field on {domain}; got one on {field.domain}.")
        return field if isinstance(field, TangentField) else TangentField(domain, field=field)

    @property
    def embedding(self) -> nn.Module | None:
        return self.class_embedding if self.classes else self.embed

    @property
    def manifold(self) -> Manifold:
        """What the density is on."""
        return self._map.manifold

    @property
    def field(self) -> VectorField:
        """The tangent velocity."""
        return self._map.field

    @property
    def _map(self) -> ManifoldMap:
        assert isinstance(self.bijector, ManifoldMap)
        return self.bijector

    def endpoint(self, x: Tensor, context: Context = None) -> Tensor:
        """Data as paths of ``RiemannianFlowMatching`` end in them, which is as they are: (*B, *event).

        Raises:
            DomainError: some lie off the manifold (eager on the CPU).
        """
        check_event(x, self.event_shape, f"{self.who}.endpoint")
        if may_raise(x):
            self.manifold.check(x, f"{self.who}.endpoint")
        return x

    def path(self, z: Tensor, times: Tensor | Sequence[float], context: Context = None) -> Tensor:
        """Places along the way: z (*B, *event) at times[0] and the times (T,) -> (T, *B, *event)."""
        self._check_values(z, self.event_shape, "path")
        context, moments, places = self._context_for(self._map, self.embed_context(context)), [float(t) for t in times], [z]
        for start, end in itertools.pairwise(moments):
            places.append(self._map.carried(places[-1], context, start, end, log_det=False).x)
        return torch.stack(places)

    def with_solver(self, **options: Any) -> RiemannianFlow:
        """A flow that shares all weights and solves otherwise: ``with_solver(steps=100)``, ``with_solver(solver="dopri5", steps=None)``.

        Args:
            options: any of solver, steps, rtol, atol.
        """
        known = ("solver", "steps", "rtol", "atol")
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(f"{self.who}.with_solver: expected some of {', '.join(known)}; got {unknown[0]!r}.")
        wanted = {name: options.get(name, getattr(self, name)) for name in known}
        check_scheme(wanted["solver"], wanted["steps"], f"{self.who}.with_solver")
        changed = self._changed(self.field, wanted)
        for name, value in wanted.items():
            setattr(changed, name, value)
        return changed

    def guided(self, scale: float) -> RiemannianFlow:
        """A flow that shares the weights, its velocity u_null + scale (u_context - u_null): classifier-free guidance.

        Tangent vectors of one point are a linear space, so that this velocity is tangent too. With ``classes`` the vector of "no class"
        is taken as it is now: call this again after further training.

        Args:
            scale: 1 leaves the conditional field as it is, 0 forgets the context, above 1 follows it more closely than the data do.

        Reference: Ho and Salimans (2022), Classifier-free diffusion guidance, arXiv:2207.12598.
        """
        if self.context_shape is None:
            raise ConfigError(f"{self.who}.guided: expected a flow with a context; this one has none. Build it with classes= or context_features=.")
        null = None
        if self.class_embedding is not None:
            null = self.class_embedding(torch.tensor(-1, device=next(self.class_embedding.parameters()).device)).detach()
        return self._changed(GuidedField(self.field, scale, null=null), {name: getattr(self, name) for name in ("solver", "steps", "rtol", "atol")})

    def _changed(self, field: VectorField, options: dict[str, Any]) -> RiemannianFlow:
        changed = copy.copy(self)
        changed._modules = dict(self._modules)
        changed.bijector = ManifoldMap(field, self.manifold, **options)
        changed.bijector.training = self.training  # not .train(), which would reach the shared field
        return changed

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RiemannianFlow]]:
        yield "sphere", cls(Sphere(2), (8, 8), steps=24)
        yield "torus_conditional", cls(Torus(2), (8,), 3, steps=24)
        yield "rotations_classes", cls(SO3(), (8,), steps=64, classes=3)
        yield "error_control", cls(Sphere(2), (8,), 2, solver="dopri5", steps=None, rtol=1e-8, atol=1e-8)
