"""To and from the transforms of torch.distributions (and Pyro's, which are the same class).

Distributions need no adapter here: ``flowkit.distributions.TorchDistribution`` takes one as a base, and ``flow(context)`` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform as TorchTransform
from torch.distributions import transforms

from flowkit.core.algebra.chain import Chain
from flowkit.core.algebra.inverse import Inverse
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, NotInvertibleError, ShapeError
from flowkit.core.shapes import Context, as_shape, show, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.interop._constraints import Constrained, bounds_of, constraint_of, is_real


def to_bijector(transform: TorchTransform, shape: int | Sequence[int] | None = None) -> Bijector:
    """Wrap a bijective torch transform; it goes the same way: ``forward`` is calling it.

    Parameters stay shared; those of a transform that is a module (Pyro's) are the bijector's too. A cache of the transform is passed by. The
    result cannot be saved by ``fk.save``.

    Args:
        transform: a bijective ``torch.distributions`` transform.
        shape: event shape of its input, with at least ``transform.domain.event_dim`` axes; log-determinants of the axes beyond are added.
            Default: that of a ``ReshapeTransform``, or a single number.

    Raises:
        ConfigError: not a bijective transform, or its input shape must be told.
        ShapeError: ``shape`` has too few axes.

    Example:
        >>> import torch
        >>> from flowkit.interop.torch_distributions import to_bijector
        >>> x, log_det = to_bijector(torch.distributions.ExpTransform(), 3)(torch.ones(3))
        >>> log_det.item()
        3.0
    """
    who = "torch_distributions.to_bijector"
    if not isinstance(transform, TorchTransform):
        raise ConfigError(f"{who}: expected a torch.distributions transform; got {type(transform).__name__}.")
    if not transform.bijective:
        raise ConfigError(f"{who}: expected a bijective transform; got {transform}, which is not. Use one with bijective=True.")
    if isinstance(transform, FlowkitTransform) and transform.context is None:
        return transform.bijector
    if shape is None:
        shape = getattr(transform, "in_shape", None)
        if shape is None and transform.domain.event_dim:
            raise ConfigError(f"{who}: {transform} takes events of {transform.domain.event_dim} axes and does not say their sizes. Pass shape=.")
    event = as_shape(() if shape is None else shape, who)
    sizes = tuple(int(size) for size in event if size is not None)
    if len(sizes) < transform.domain.event_dim or len(sizes) < len(event):
        raise ShapeError(f"{who}: {transform} takes events of at least {transform.domain.event_dim} axes of known sizes; got shape {show(event)}.")
    if transform.domain.event_dim == transform.codomain.event_dim == 0 and tuple(transform.forward_shape(torch.Size(sizes))) != sizes:
        whole = tuple(transform.forward_shape(torch.Size(sizes)))
        raise ShapeError(f"{who}: {transform} has parameters that make events of shape {show(whole)} out of {show(sizes)}. Pass shape={whole}.")
    return _taken_apart(transform, sizes)


def _taken_apart(transform: TorchTransform, sizes: tuple[int, ...]) -> Bijector:
    """Compositions as chains, whose parts each know their own domain: torch's know only their ends."""
    if type(transform) is transforms.ComposeTransform and transform.parts:
        parts = []
        for part in transform.parts:
            parts.append(to_bijector(part, sizes))
            sizes = tuple(int(size or 1) for size in parts[-1].out_shape)
        return Chain(parts)
    if type(transform) is transforms.IndependentTransform:
        return to_bijector(transform.base_transform, sizes)
    if type(transform) is transforms._InverseTransform:
        return ~to_bijector(transform.inv, tuple(transform.forward_shape(torch.Size(sizes))))
    return WrappedTransform(transform, sizes)


def to_transform(bijector: Bijector, context: Context = None, *, cache_size: int = 0) -> TorchTransform:
    """A bijector as a torch transform, for ``TransformedDistribution``; calling it is ``forward``.

    Its domain and codomain are the bijector's as torch constraints, ``event_dim`` the number of its event axes. Log-determinants are computed at
    the parameters of the moment, also with a cache (torch's, of the last value).

    Args:
        bijector: any; the transform holds it, not a copy.
        context: (*Bc, *context_shape), fixed, where the bijector is conditional.
        cache_size: 0 or 1, as torch has it.

    Raises:
        ConfigError: not a bijector.
        ShapeError: the context is missing or not wanted.
    """
    if not isinstance(bijector, Bijector):
        raise ConfigError(f"torch_distributions.to_transform: expected a flowkit Bijector; got {type(bijector).__name__}.")
    if isinstance(bijector, WrappedTransform):
        return bijector.transform
    return FlowkitTransform(bijector, context, cache_size=cache_size)


class WrappedTransform(Bijector):
    """A torch transform as a bijector. It is not registered: it trains, but cannot be saved.

    Args:
        transform: bijective.
        shape: of one input event.
    """

    def __init__(self, transform: TorchTransform, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.transform, self.shape = transform, shape
        self.in_shape = shape
        self.out_shape = tuple(transform.forward_shape(torch.Size(shape)))
        elementwise = transform.domain.event_dim == 0 and transform.codomain.event_dim == 0
        self.traits = Traits(jacobian="diagonal" if elementwise else "dense", compiles=False, vmaps=False, smooth=False)
        self._domain, self._codomain = self._domains()

    @property
    def who(self) -> str:
        return f"torch {type(self.transform).__name__}"

    def _domains(self) -> tuple[Domain | None, Domain | None]:
        t, ends = self.transform, []
        for constraint, shape in ((t.domain, self.in_shape), (t.codomain, self.out_shape)):
            sizes = tuple(int(size or 1) for size in shape)
            ends.append((constraint, bounds_of(constraint, sizes), sizes))
        with torch.no_grad():
            # any point inside will do for a set that is known only by its check: the image of one on the other side
            (inner, box, size), (outer, out_box, out_size) = ends
            z = torch.zeros(size) if box is None else box.safe_point(torch.zeros(size))
            x = torch.zeros(out_size) if out_box is None else out_box.safe_point(torch.zeros(out_size))
            first = None if is_real(inner) else box if box is not None else Constrained(inner, t.inv(x))
            last = None if is_real(outer) else out_box if out_box is not None else Constrained(outer, t(z))
        return first, last

    def _log_det(self, z: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        log_det = self.transform.log_abs_det_jacobian(z, x)
        rows = z.dim() - len(self.in_shape)
        batch = z.shape[: z.dim() - self.transform.domain.event_dim]
        if log_det.dim() <= len(batch):
            log_det = log_det.expand(batch)  # else it is one of those that leave summing to the caller (StackTransform)
        return sum_event(log_det.to(torch.promote_types(dtype, torch.float32)), log_det.dim() - rows)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = z.view_as(z)  # a new object: a cache of the transform does not know it
        x = self.transform(z)
        return x.to(z.dtype), self._log_det(z, x, z.dtype)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = x.view_as(x)
        try:
            z = self.transform.inv(x)
        except (KeyError, NotImplementedError):  # Pyro's one-way transforms look in their cache
            raise NotInvertibleError(f"{self.who}: has no inverse, only a cache of its last value, which is passed by.") from None
        return z.to(x.dtype), -self._log_det(z, x, x.dtype)


class FlowkitTransform(TorchTransform):
    """A bijector as a torch transform.

    Args:
        bijector: the map.
        context: fixed, where the bijector is conditional.
        cache_size: 0 or 1.
    """

    bijective = True

    def __init__(self, bijector: Bijector, context: Context = None, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if (context is None) != (bijector.context_shape is None):
            need = "needs a context" if context is None else "takes no context"
            raise ShapeError(f"torch_distributions.to_transform: {bijector.who} {need}. {'Pass' if context is None else 'Drop'} context=.")
        self.bijector, self.context = bijector, context
        self._by_inverse = _faster_back(bijector)

    @property
    def domain(self) -> Any:  # type: ignore[override]
        """Where it is defined."""
        return constraint_of(self.bijector.domain)

    @property
    def codomain(self) -> Any:  # type: ignore[override]
        """Where it ends."""
        return constraint_of(self.bijector.codomain)

    def _call(self, x: Tensor) -> Tensor:
        return self.bijector(x, self.context)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.bijector.inverse(y, self.context)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log|det dy/dx| (*B), in the direction that costs less."""
        if self._by_inverse:
            return -self.bijector.inverse(y, self.context)[1]
        return self.bijector(x, self.context)[1]

    def forward_shape(self, shape: Any) -> Any:
        return _exchange(shape, self.bijector.in_shape, self.bijector.out_shape)

    def inverse_shape(self, shape: Any) -> Any:
        return _exchange(shape, self.bijector.out_shape, self.bijector.in_shape)

    def with_cache(self, cache_size: int = 1) -> TorchTransform:
        return self if cache_size == self._cache_size else FlowkitTransform(self.bijector, self.context, cache_size=cache_size)

    def __repr__(self) -> str:
        return f"FlowkitTransform({self.bijector.who})"


def _faster_back(bijector: Bijector) -> bool:
    """Whether the inverse costs less than forward: some part is the inverse of a map whose own inverse is not closed."""
    if isinstance(bijector, Inverse):
        return bijector.bijector.traits.inverse != "closed" and not _faster_back(bijector.bijector)
    return any(_faster_back(part) for part in bijector.children() if isinstance(part, Bijector)) or any(
        _faster_back(part) for parts in bijector.children() if isinstance(parts, torch.nn.ModuleList) for part in parts if isinstance(part, Bijector)
    )


def _exchange(shape: Any, taken: Any, given: Any) -> torch.Size:
    """Replace the trailing event axes of a shape."""
    sizes = torch.Size(shape)
    if len(sizes) < len(taken):
        raise ValueError(f"expected at least {len(taken)} axes; got shape {tuple(sizes)}")
    event = sizes[len(sizes) - len(taken) :] if None in given else given  # sizes that are free are kept
    return torch.Size([*sizes[: len(sizes) - len(taken)], *event])
