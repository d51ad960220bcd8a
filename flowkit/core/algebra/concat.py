"""Direct sums: maps side by side on the parts of one event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.core.algebra.chain import Chain
from flowkit.core.algebra.identity import Identity
from flowkit.core.algebra.parallel import Parallel
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.product import Product
from flowkit.core.domain.real import Real
from flowkit.core.errors import ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Shape, show, unify
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("concat")
class Concat(Parallel):
    """f & g: the first part of event axis 0 goes through f, the rest through g; log_dets add.

    Other axes must agree; the parts share one context.

    Args:
        transforms: bijectors whose event axis 0 has a known size.
    """

    def __init__(self, transforms: Sequence[Bijector]) -> None:
        super().__init__(transforms)
        self.in_sizes, self.in_shape = _joined([step.in_shape for step in self.transforms])  # type: ignore[misc]
        self.out_sizes, self.out_shape = _joined([step.out_shape for step in self.transforms])  # type: ignore[misc]

    @property
    def domain(self) -> Domain:
        return _product([step.domain for step in self.transforms], self.in_shape)  # type: ignore[misc]

    @property
    def codomain(self) -> Domain:
        return _product([step.codomain for step in self.transforms], self.out_shape)  # type: ignore[misc]

    def _place(self, inverse: bool) -> tuple[Shape, int, list[int] | None]:
        return (self.out_shape, 0, self.out_sizes) if inverse else (self.in_shape, 0, self.in_sizes)

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Concat) or self.out_sizes != following.in_sizes:
            return None
        pairs = [(first >> second).simplify() for first, second in zip(self.transforms, following.transforms, strict=True)]  # type: ignore[operator]
        if all(isinstance(pair, Identity) for pair in pairs):
            return Identity(self.in_shape)
        return None if any(isinstance(pair, Chain) for pair in pairs) else Concat(pairs)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Concat]]:
        from flowkit.core.build import build

        affine = {"name": "affine", "shape": (2,)}
        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 2}
        yield "affine_coupling", cls([build(affine, Bijector), build(coupling, Bijector)])


def _joined(shapes: list[Shape]) -> tuple[list[int], Shape]:
    sizes, rest = [], shapes[0][1:]
    for shape in shapes:
        if not shape or shape[0] is None:
            raise ShapeError(f"Concat: expected parts whose event axis 0 has a known size; got {show(shape)}.")
        met = unify(rest, shape[1:])
        if met is None:
            raise ShapeError(f"Concat: parts disagree beyond event axis 0: {show(rest)} and {show(shape[1:])}.")
        sizes.append(shape[0])
        rest = met
    return sizes, (sum(sizes), *rest)


def _product(parts: list[Domain], shape: Shape) -> Domain:
    if len(shape) != 1 or all(domain.trivial for domain in parts):
        return Real(shape)
    return Product(parts)
