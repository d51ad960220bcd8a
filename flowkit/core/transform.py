"""The contract of every map: ``Transform`` and its invertible kind, ``Bijector``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor, nn

from flowkit.core.build.describe import brief_arguments
from flowkit.core.checks import check_finite
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.real import Real
from flowkit.core.entry import admitted, separated
from flowkit.core.errors import ConfigError, NotInvertibleError
from flowkit.core.inference_mode import outside_inference
from flowkit.core.registry import BIJECTORS, INJECTIONS, SURJECTIONS, Registry
from flowkit.core.shapes import (
    Context,
    ContextShape,
    Shape,
    broadcast_batch,
    check_context,
    check_event,
    check_score,
    expand_context,
    needs_gradient,
)
from flowkit.core.tally import standard_log_normal
from flowkit.core.traits import Traits

if TYPE_CHECKING:
    from flowkit.core.algebra.chain import Chain


class Transform(nn.Module):
    """A map of events whose volume change is known.

    To add one, subclass ``Bijector`` (or ``Injection``, ``Surjection``) in a file of its own and

    1. decorate it with ``@BIJECTORS.register("name")``;
    2. store every constructor argument unchanged under its own name, then set ``in_shape`` and ``out_shape``
       (and ``context_shape`` if it is conditional, ``traits``, ``_domain``, ``_codomain`` if they differ from the defaults);
    3. write ``_forward(z, context, generator)`` and ``_inverse(x, context, generator)``, each returning ``(value, log_det)`` **of that
       call**, log_det of the batch shape, constants kept as buffers; and ``_carry``, where the score rule has a closed form;
    4. write the classmethod ``examples``, yielding ``(label, small instance)``.

    The property suite, the config key and the listing follow from that. Shapes: events end in ``in_shape``, any batch
    shape may lead, the empty one included.

    Attributes:
        in_shape, out_shape: event shapes, entries None for any size.
        context_shape: event shape of the context, a dict of them, or None for no context.
        traits: declared capabilities.
    """

    registries: ClassVar[tuple[Registry, ...]] = (BIJECTORS, INJECTIONS, SURJECTIONS)
    in_shape: Shape
    out_shape: Shape
    context_shape: ContextShape = None
    traits: Traits = Traits()

    def __init__(self) -> None:
        super().__init__()
        self._domain: Domain | None = None  # None stands for all of R^n: nothing to check
        self._codomain: Domain | None = None

    @property
    def domain(self) -> Domain:
        """Where ``forward`` is defined; a subclass sets ``self._domain`` if that is not all of R^n."""
        return Real(_declared(self, "in_shape")) if self._domain is None else self._domain

    @property
    def codomain(self) -> Domain:
        """Where ``forward`` ends; a subclass sets ``self._codomain`` if that is not all of R^n."""
        return Real(_declared(self, "out_shape")) if self._codomain is None else self._codomain

    @property
    def who(self) -> str:
        """The name this map goes by in messages."""
        return type(self).__name__

    def forward(self, z: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Generate: latent to data.

        Args:
            z: (*B, *in_shape).
            context: (*Bc, *context_shape) if the map is conditional; Bc is broadcast against B.
            generator: source of randomness for maps that draw.

        Returns:
            x (*B, *out_shape) and the log absolute Jacobian determinant of this call (*B).

        Raises:
            ShapeError: wrong shape or dtype, context missing or not wanted.
            DomainError: a value outside ``domain`` (eager on the CPU, or under ``flowkit.checks()``; else NaN).
        """
        return self._call(z, context, generator, inverse=False)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{self.who} defines no _forward.")

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        raise NotInvertibleError(f"{self.who}: has no inverse. Use a map whose traits.inverse is not 'none'.")

    def _call(self, value: Tensor, context: Context, generator: torch.Generator | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        value, context = self._prepare(value, context, inverse)
        value = admitted(self._codomain if inverse else self._domain, value, self._who_call(inverse))
        return self._formula(value, context, generator, inverse)

    def _formula(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        """The subclass's own formula, its result checked."""
        result = (self._inverse if inverse else self._forward)(value, context, generator)
        if not isinstance(result, tuple) or len(result) != 2:
            call = "_inverse" if inverse else "_forward"
            raise ConfigError(f"{self.who}.{call}: expected it to return (value, log_det); it returned a {type(result).__name__}.")
        check_finite(self._who_call(inverse), *result)
        return result

    def _prepare(self, value: Tensor, context: Context, inverse: bool) -> tuple[Tensor, Context]:
        """Check shapes and broadcast value and context to one batch."""
        shape, who = _declared(self, "out_shape" if inverse else "in_shape"), self._who_call(inverse)
        check_event(value, shape, who)
        if context is None and self.context_shape is None:
            return value, None
        check_context(context, self.context_shape, who)
        value = broadcast_batch(value, shape, context, self.context_shape, who)
        batch = value.shape[: value.dim() - len(shape)]
        return value, expand_context(context, self.context_shape, batch)

    def _who_call(self, inverse: bool) -> str:
        return f"{self.who}.{'inverse' if inverse else 'forward'}"

    def masked(
        self, value: Tensor, context: Context = None, *, inverse: bool, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Call without ever raising for values: events outside the domain are evaluated at a safe point and flagged.

        Returns:
            value, log_det and ``inside`` (*B) bool, or None when the domain is all of R^n.
        """
        value, context = self._prepare(value, context, inverse)
        return self._masked(value, context, generator, inverse)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        inside, value = separated(self._codomain if inverse else self._domain, value)
        out, log_det = self._formula(value, context, generator, inverse)
        return out, log_det, inside

    def masked_normal(self, value: Tensor, context: Context = None, *, inverse: bool, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """``masked`` for a standard normal base: log N(out; 0, I) + log_det (*B) and ``inside``. Overridden where an op adds the normal itself."""
        out, log_det, inside = self.masked(value, context, inverse=inverse, generator=generator)
        return standard_log_normal(out, len(self.in_shape if inverse else self.out_shape)) + log_det, inside

    def move(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """The value of a call without its log_det, where that costs extra; up to the map's tolerance that of the call."""
        call: Any = self.inverse if inverse else self  # type: ignore[attr-defined]
        return call(value, context, generator=generator)[0]  # type: ignore[no-any-return]

    def parts(self) -> list[Any]:
        """The maps that this one applies in turn, latent first; only itself where it is not made of others."""
        return [self]

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Set data-dependent state from a batch, and return the batch after this map; ``fit`` calls it once, before anything is compiled."""
        return self._call(value, context, generator, inverse=inverse)[0]

    # -- the algebra --------------------------------------------------------------------------------------------

    def __rshift__(self, other: Transform) -> Transform:
        """``f >> g``: first f, then g. Chains on either side are taken apart, so ``(f >> g >> h)[0]`` is f."""
        from flowkit.core.algebra.operators import follow

        return follow(self, other)

    def __and__(self, other: Transform) -> Transform:
        """``f & g``: f on the first part of event axis 0, g on the rest."""
        from flowkit.core.algebra.concat import Concat

        return Concat([self, other])  # type: ignore[list-item]

    def on(self, index: Any, shape: int | tuple[int | None, ...] | None = None) -> Transform:
        """This map applied to part of a larger event, the identity elsewhere.

        Args:
            index: boolean mask of the event, or a slice or list of ints along event axis 0.
            shape: shape of the larger event; a boolean mask brings its own.
        """
        from flowkit.core.algebra.indexed import Indexed

        return Indexed(self, index, shape)  # type: ignore[arg-type]

    def merge(self, following: Transform) -> Transform | None:
        """One map equal to ``self >> following``, or None. ``simplify`` asks neighbours this and knows no map itself.

        Merged maps hold a copy of the parameters they were made from.
        """
        return None

    def simplify(self) -> Transform:
        """An equal map with fewer parts: chains flat, inverses pushed inwards, neighbours merged."""
        from flowkit.core.algebra.simplify import simplify

        return simplify(self)

    def describe(self) -> dict[str, Any]:
        """``{name: <registered>, **arguments}``: what configs say and ``config.json`` stores."""
        from flowkit.core.build import describe

        return describe(self)

    def extra_repr(self) -> str:
        return brief_arguments(self)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Transform]]:
        """Small labelled instances: the class's specification by instance."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")


class Bijector(Transform):
    """An invertible transform: ``inverse`` returns minus ``forward``'s log_det at the matched point."""

    registries: ClassVar[tuple[Registry, ...]] = (BIJECTORS,)

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        formula = next(i for i, base in enumerate(cls.__mro__) if not {"_forward", "_inverse"}.isdisjoint(vars(base)))
        for shortcut in ("diagonal_steps", "masked_normal", "move", "_carry"):
            if not any(shortcut in vars(base) for base in cls.__mro__[: formula + 1]):  # what it inherits goes around another formula
                setattr(cls, shortcut, getattr(Bijector, shortcut))

    def inverse(self, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Normalise: data to latent.

        Args:
            x: (*B, *out_shape).
            context, generator: as in ``forward``.

        Returns:
            z (*B, *in_shape) and the log absolute Jacobian determinant of this call (*B).

        Raises:
            ShapeError, DomainError: as in ``forward``.
            NotInvertibleError: an iterative inverse found no solution.
        """
        return self._call(x, context, generator, inverse=True)

    @overload
    def __rshift__(self, other: Bijector) -> Chain: ...

    @overload
    def __rshift__(self, other: Transform) -> Transform: ...

    def __rshift__(self, other: Transform) -> Transform:
        return super().__rshift__(other)

    def __invert__(self) -> Bijector:
        """``~f``: the inverse as a map of its own."""
        from flowkit.core.algebra.inverse import Inverse

        return Inverse(self)

    def __pow__(self, n: int) -> Bijector:
        """``f ** n``: n applications with shared weights; ``f ** -1`` is ``~f``, ``f ** 0`` the identity."""
        from flowkit.core.algebra.operators import power

        return power(self, n)

    def diagonal_steps(self) -> Any:
        """This map, where it is fixed and elementwise, as ``kernels.diagonal_chain.Steps``: a chain runs neighbours that have them in one pass."""
        return None

    def inverted(self) -> Bijector | None:
        """The inverse as a map of the same family, holding a copy of the parameters, or None. Only ``simplify`` asks."""
        return None

    def push_score(self, z: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Carry a point and a score forward: s' = J^-T (s - grad_z log|det J|).

        Args:
            z: (*B, *in_shape); score: gradient of the log-density at z, same shape.

        Returns:
            x and log_det as ``forward`` gives them, in one graph with the parameters, and the score of the pushed density at x
            (*B, *out_shape), a constant. ``traits.score`` says how: "closed" and "solve" never call the inverse, "two_pass" does.

        Reference: Vaitl et al. (2024), Fast and unified path gradient estimators for normalizing flows, arXiv:2403.15881.
        """
        return outside_inference(f"{self.who}.push_score", self._carried, z, score, context, generator, inverse=False)  # type: ignore[no-any-return]

    def pull_score(self, x: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``push_score`` of the inverse, s = J^T s' + grad_z log|det J|: z, log_det of this call, and the score at z."""
        return outside_inference(f"{self.who}.pull_score", self._carried, x, score, context, generator, inverse=True)  # type: ignore[no-any-return]

    def _carried(self, value: Tensor, score: Tensor, context: Context, generator: torch.Generator | None, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        value, context = self._prepare(value, context, inverse)
        who = f"{self.who}.{'pull_score' if inverse else 'push_score'}"
        value = admitted(self._codomain if inverse else self._domain, value, who)
        out, log_det, carried = self._carry(value, check_score(score, value, who), context, generator, inverse)
        if out.requires_grad and not value.requires_grad and not any(p.requires_grad for p in self.parameters()) and not needs_gradient(context):
            return out.detach(), log_det.detach(), carried  # the rule's own leaves are nobody else's
        return out, log_det, carried

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One call and the score behind it; here by a second pass, back from the result. Override with a closed form."""
        out, log_det = self._formula(value, context, generator, inverse)
        with torch.enable_grad():
            point = out.detach().requires_grad_()
            back, back_log_det = self._formula(point, context, generator, not inverse)
            (carried,) = torch.autograd.grad((back * score).sum() + back_log_det.sum(), point)
        return out, log_det, carried


def _declared(transform: Transform, name: str) -> Shape:
    if (shape := transform.__dict__.get(name, getattr(type(transform), name, None))) is None:
        raise ConfigError(f"{transform.who}: sets no {name}. Set in_shape and out_shape in its __init__.")
    return shape
