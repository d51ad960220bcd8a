"""Different maps on the parts of an event along any of its axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.core.algebra.parallel import Parallel, event_axis
from flowkit.core.build import build
from flowkit.core.errors import ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Shape, positive_sizes, show, unify
from flowkit.core.transform import Bijector


@BIJECTORS.register("split")
class Split(Parallel):
    """The event is cut along an axis, every part goes through its own map, and the results are joined along that axis.

    Along axis 0, with parts that know their sizes, this is ``f & g`` (``Concat``, which ``simplify`` also merges); Split takes
    any axis, and parts that leave their size open, such as maps of images. log_dets add; the cost is the sum of the parts'.

    Args:
        transforms: bijectors whose event shapes agree beyond the axis; conditional ones share one context.
        axis: event axis, negative from its end.
        sizes: of the parts along the axis, where a part that keeps its shape leaves its own open.
    """

    def __init__(self, transforms: Sequence[Bijector], axis: int = 0, *, sizes: Sequence[int] | None = None) -> None:
        super().__init__(transforms)
        self.sizes = None if sizes is None else positive_sizes(sizes, "Split", "sizes")
        if sizes is not None and len(sizes) != len(self.transforms):
            raise ShapeError(f"Split: expected one size for each of {len(self.transforms)} parts; got {list(sizes)}.")
        self.in_shape, self._in_axis, self._in_sizes = _joined([step.in_shape for step in transforms], axis, self.sizes)
        self.axis = int(axis)
        kept = [None if step.in_shape != step.out_shape else size for step, size in zip(transforms, self._in_sizes, strict=True)]
        self.out_shape, self._out_axis, self._out_sizes = _joined([step.out_shape for step in transforms], axis, kept)

    def _place(self, inverse: bool) -> tuple[Shape, int, list[int] | None]:
        return (self.out_shape, self._out_axis, self._out_sizes) if inverse else (self.in_shape, self._in_axis, self._in_sizes)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Split]]:
        affine = build({"name": "affine", "shape": (2, 1)}, Bijector)
        spline = {"name": "elementwise", "shape": (2, 1), "univariate": {"name": "rational_quadratic_spline", "bins": 3}, "context_features": 2, "hidden": (8,)}
        yield "columns", cls([affine, build(spline, Bijector)], axis=1)
        images = [build({"name": "act_norm", "shape": (2, None, None)}, Bijector), build({"name": "identity", "shape": (2, None, None)}, Bijector)]
        yield "open_sizes", cls(images, axis=-2, sizes=(1, 2))
        bounded = {"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}
        inner = build({"name": "elementwise", "shape": (2, 1), "univariate": bounded}, Bijector)
        yield "bounded", cls([inner, affine], axis=1)


def _joined(shapes: list[Shape], axis: int, sizes: Sequence[int | None] | None) -> tuple[Shape, int, list[int]]:
    """Shape of the whole event, its axis counted from 0, and the parts' sizes along it."""
    first, found = shapes[0], []
    at = event_axis(axis, max(len(first), 1), "Split")
    rest: Shape | None = (*first[:at], *first[at + 1 :])
    for i, shape in enumerate(shapes):
        fits = len(shape) == len(first) and len(shape) > 0
        given = sizes[i] if sizes is not None else None
        own = unify((shape[at],), (given,)) if fits else None
        rest = unify(rest, (*shape[:at], *shape[at + 1 :])) if fits and rest is not None else None
        if rest is None:
            raise ShapeError(f"Split: parts must agree beyond event axis {axis}; got {', '.join(show(s) for s in shapes)}.")
        if own is None or own[0] is None:
            raise ShapeError(f"Split: expected a known size of part {i} along event axis {axis}; it has {show(shape)} and sizes= says {given}.")
        found.append(own[0])
    assert rest is not None
    return (*rest[:at], sum(found), *rest[at:]), at, found
