"""Different maps on the slices of an event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.core.algebra.parallel import Parallel, event_axis
from flowkit.core.build import build
from flowkit.core.errors import ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Shape, show, unify
from flowkit.core.transform import Bijector


@BIJECTORS.register("stack")
class Stack(Parallel):
    """x[i] = f_i(z[i]), slice by slice along a new event axis; log_dets add.

    ``Concat`` (``&``) and ``Split`` join along an axis the parts already have; ``Vmap`` runs slices of one structure in
    a single vectorised call. The cost is the sum of the parts', in both directions.

    Args:
        transforms: n bijectors of equal event shapes; conditional ones share one context.
        axis: where the new axis of size n stands in the event, negative from its end.
    """

    def __init__(self, transforms: Sequence[Bijector], axis: int = 0) -> None:
        super().__init__(transforms)
        self.in_shape, self._in_axis = _stacked([step.in_shape for step in transforms], axis)
        self.out_shape, self._out_axis = _stacked([step.out_shape for step in transforms], axis)
        self.axis = int(axis)

    def _place(self, inverse: bool) -> tuple[Shape, int, list[int] | None]:
        return (self.out_shape, self._out_axis, None) if inverse else (self.in_shape, self._in_axis, None)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Stack]]:
        affine = build({"name": "affine", "shape": (2,)}, Bijector)
        coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "activation": "tanh", "context_features": 2}
        yield "rows", cls([build(coupling, Bijector), affine])
        bounded = {"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}
        spline = build({"name": "elementwise", "shape": (2,), "univariate": bounded}, Bijector)
        yield "columns_bounded", cls([spline, build({"name": "to_box", "low": 0.0, "high": 2.0, "shape": (2,)}, Bijector)], axis=-1)


def _stacked(shapes: list[Shape], axis: int) -> tuple[Shape, int]:
    """The event shape with its new axis, and that axis counted from 0."""
    met: Shape | None = shapes[0]
    for shape in shapes[1:]:
        met = None if met is None else unify(met, shape)
    if met is None:
        raise ShapeError(f"Stack: expected parts of equal event shape; got {', '.join(show(shape) for shape in shapes)}. Use Concat or Split.")
    at = event_axis(axis, len(met) + 1, "Stack")
    return (*met[:at], len(shapes), *met[at:]), at
