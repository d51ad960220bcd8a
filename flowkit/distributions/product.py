"""Independent parts side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.domain.product import Product as ProductDomain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, Shape, broadcast_batch, check_context, check_event, expand_context, show, unify


@DISTRIBUTIONS.register("product", "joint")
class Product(Distribution):
    """p(x) = p_1(x_1) p_2(x_2) ...: the first part takes the first entries of event axis 0, the next the following ones.

    What ``Concat`` is for maps. Conditional parts share one context; flows may be parts. ``cdf`` and ``icdf``, coordinatewise,
    exist where every part has them. A temperature goes to every part, and a part that has none refuses it. A uniform-Gaussian
    base, for angles beside lengths, is ``Product([UniformBox(-pi, pi, 2), StandardNormal((3,))])``. A part that is a lower bound or an
    estimate makes the whole one: ``density``. Cost: that of the parts.

    Args:
        parts: distributions with a known size of event axis 0 that agree in the other axes; one that is not positive on all
            of R^n must be a vector.

    Raises:
        ShapeError: shapes or contexts that do not fit.

    Example:
        >>> import torch
        >>> from flowkit.distributions import Product, StandardNormal, UniformBox
        >>> base = Product([UniformBox(0.0, 2.0, 1), StandardNormal((1,))])
        >>> round(base.log_prob(torch.tensor([0.5, 0.0])).item(), 4)      # log(1 / 2) - log(2 pi) / 2
        -1.6121
    """

    density: str = "exact"

    def __init__(self, parts: Sequence[Distribution]) -> None:
        super().__init__()
        parts = list(parts)
        if not parts or not all(isinstance(part, Distribution) for part in parts):
            raise ConfigError(f"{self.who}: expected one distribution or more; got {[type(part).__name__ for part in parts]}.")
        self.parts = nn.ModuleList(parts)
        self.sizes, self.event_shape = _joined([part.event_shape for part in parts])
        contexts = [part.context_shape for part in parts if part.context_shape is not None]
        if any(other != contexts[0] for other in contexts):
            raise ShapeError(f"{self.who}: its parts expect different contexts, {contexts}. Give all the same context_features.")
        self.context_shape = contexts[0] if contexts else None
        self.reparametrized = all(part.reparametrized for part in parts)
        self.can_sample = all(part.can_sample for part in parts)
        self.density = self._weakest([getattr(part, "density", "exact") for part in parts])
        if not all(part.domain.trivial for part in parts):
            if len(self.event_shape) != 1:
                raise ConfigError(f"{self.who}: parts with a bounded support must be vectors; got events {show(self.event_shape)}. Flatten them.")
            self._support = ProductDomain([part.domain for part in parts])

    def _weakest(self, kinds: list[str]) -> str:
        found = {kind for kind in kinds if kind != "exact"}
        if "manifold" in found or len(found) > 1:
            raise ConfigError(f"{self.who}: expected densities that multiply; got parts with {sorted(found)}.")
        return found.pop() if found else "exact"

    def _pieces(self, x: Tensor) -> list[tuple[Any, Tensor]]:
        return list(zip(self.parts, x.split(self.sizes, dim=-len(self.event_shape)), strict=True))

    def _join(self, pieces: list[Tensor]) -> Tensor:
        return torch.cat(pieces, dim=-len(self.event_shape))

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return torch.stack([part.log_prob(piece, _own(part, context)) for part, piece in self._pieces(x)]).sum(0)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        drawn = []
        for part in self.parts:
            own: Any = _own(part, context)
            drawn.append(part.rsample(shape if own is None else (), own, generator, temperature))  # type: ignore[operator]
        return self._join(drawn)

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        check_event(x, self.event_shape, f"{self.who}.score")
        check_context(context, self.context_shape, f"{self.who}.score")
        x = broadcast_batch(x, self.event_shape, context, self.context_shape, f"{self.who}.score")
        context = expand_context(context, self.context_shape, x.shape[: x.dim() - len(self.event_shape)])
        return self._join([part.score(piece, _own(part, context)) for part, piece in self._pieces(x)])

    @property
    def iterative_icdf(self) -> bool:
        """Whether a part finds its quantiles by root finding."""
        return any(getattr(part, "iterative_icdf", False) for part in self.parts)

    @property
    def cdf(self) -> Callable[..., Tensor]:
        """Distribution function of each coordinate, where every part has one: (*B, *event) -> (*B, *event)."""
        return self._coordinatewise("cdf")

    @property
    def icdf(self) -> Callable[..., Tensor]:
        """Quantile of each coordinate, where every part has one: probabilities (*B, *event) -> (*B, *event)."""
        return self._coordinatewise("icdf")

    def _coordinatewise(self, name: str) -> Callable[..., Tensor]:
        lacking = [type(part).__name__ for part in self.parts if not hasattr(part, name)]
        if lacking:
            raise AttributeError(f"{self.who}: {', '.join(lacking)} has no {name}.")

        def call(value: Tensor, context: Context = None) -> Tensor:
            check_context(context, self.context_shape, f"{self.who}.{name}")
            found = []
            for part, piece in self._pieces(value):
                own = () if part.context_shape is None else (context,)
                found.append(getattr(part, name)(piece, *own))
            return self._join(found)

        return call

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Product]]:
        normal: dict[str, Any] = {"name": "standard_normal", "shape": (1,)}
        box = {"name": "uniform_box", "low": -1.0, "high": 2.0, "dim": 1}
        yield "uniform_normal", cls([build(box, Distribution), build(normal, Distribution)])
        conditional = {"name": "diagonal_normal", "shape": (1,), "context_features": 2}
        yield "conditional", cls([build(conditional, Distribution), build(normal, Distribution)])
        mixture = {"name": "gaussian_mixture", "features": 2, "components": 2}
        yield "mixture_student_t", cls([build(mixture, Distribution), build({"name": "student_t", "shape": (1,)}, Distribution)])


def _own(part: Any, context: Any) -> Any:
    """The context for one part: None when it declares none."""
    return None if part.context_shape is None else context


def _joined(shapes: list[Shape]) -> tuple[list[int], Shape]:
    sizes, rest = [], shapes[0][1:]
    for shape in shapes:
        if not shape or shape[0] is None:
            raise ShapeError(f"Product: expected parts whose event axis 0 has a known size; got {show(shape)}.")
        met = unify(rest, shape[1:])
        if met is None:
            raise ShapeError(f"Product: parts disagree beyond event axis 0: {show(rest)} and {show(shape[1:])}.")
        sizes.append(shape[0])
        rest = met
    return sizes, (sum(sizes), *rest)
