"""One structure with parameters of its own for every slice of an event, in one vectorised call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._layers import Layers
from flowkit.core.algebra.joint_domains import EachDomain
from flowkit.core.algebra.parallel import event_axis
from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, Shape
from flowkit.core.transform import Bijector


@BIJECTORS.register("vmap")
class Vmap(Bijector):
    """x[i] = f(z[i]; theta_i): n parameter sets of one map on the n slices along a new event axis; log_dets add.

    The parameters are stacked (n, ...) and the slices computed together by ``torch.func.vmap``. ``Stack`` takes maps of
    different structure, ``Over`` shares one parameter set. Values outside the domain of a part of the map become NaN and
    an iterative inverse without solution does so too, since nothing can be raised while vectorised.

    Args:
        bijector: the map of one slice, with ``traits.vmaps`` and drawing nothing. Slice 0 keeps its values; the other
            parameter sets are built anew from its description, with fresh random weights. A context is the same for all.
        size: n.
        axis: where the new axis stands in the event, negative from its end.
    """

    def __init__(self, bijector: Bijector, size: int, axis: int = 0) -> None:
        super().__init__()
        self.layers = Layers(bijector, size, "Vmap")
        self.size = size = self.layers.count
        if not bijector.traits.vmaps or bijector.traits.stochastic:
            raise ConfigError(f"Vmap: {bijector.who} cannot be vectorised (traits.vmaps is False, or it draws). Use Stack.")
        self._in_axis, self._out_axis = (event_axis(axis, len(shape) + 1, "Vmap") for shape in (bijector.in_shape, bijector.out_shape))
        self.axis = int(axis)
        self.in_shape = _with_axis(bijector.in_shape, size, self._in_axis)
        self.out_shape = _with_axis(bijector.out_shape, size, self._out_axis)
        self.context_shape = bijector.context_shape
        self.traits = bijector.traits.but(score="two_pass")  # score rules differentiate, which cannot be done while vectorised
        first, last = bijector.domain, bijector.codomain
        self._domain = None if first.trivial else EachDomain(first, size, self._in_axis)
        self._codomain = None if last.trivial else EachDomain(last, size, self._out_axis)

    @property
    def bijector(self) -> Bijector:
        """The map, its parameters those of all slices stacked."""
        return self.layers.bijector

    def _slices(self, value: Tensor, inverse: bool) -> Tensor:
        """(*B, *event) -> (n, *B, *slice)."""
        shape, axis = (self.out_shape, self._out_axis) if inverse else (self.in_shape, self._in_axis)
        return value.movedim(value.dim() - len(shape) + axis, 0)

    def _back(self, slices: Tensor, inverse: bool) -> Tensor:
        """(n, *B, *slice) after a call in this direction -> (*B, *event)."""
        shape, axis = (self.in_shape, self._in_axis) if inverse else (self.out_shape, self._out_axis)
        return slices.movedim(0, slices.dim() - len(shape) + axis)

    def _run(self, value: Tensor, context: Context, inverse: bool) -> tuple[Tensor, Tensor]:
        method = "inverse" if inverse else "__call__"

        def one(piece: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            return self.layers.run(tensors, method, piece, context)

        slices, log_det = torch.func.vmap(one)(self._slices(value, inverse), *self.layers.stacks())
        return self._back(slices, inverse), log_det.sum(0)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        def one(piece: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            out, log_det, inside = self.layers.run(tensors, "masked", piece, context, inverse=inverse)
            return out, log_det, torch.ones_like(log_det, dtype=torch.bool) if inside is None else inside

        slices, log_det, inside = torch.func.vmap(one)(self._slices(value, inverse), *self.layers.stacks())
        return self._back(slices, inverse), log_det.sum(0), inside.all(0)

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        done = []
        for i, piece in enumerate(self._slices(value, inverse).unbind(0)):  # one by one: state is written, which vmap refuses
            done.append(self.layers.run(self.layers.at(i), "initialize", piece, context, inverse=inverse, generator=generator))
        return self._back(torch.stack(done), inverse)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Vmap]]:
        coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "activation": "tanh", "context_features": 2}
        yield "rows", cls(build(coupling, Bijector), 2)
        bounded = {"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}
        yield "columns_bounded", cls(build({"name": "elementwise", "shape": (2,), "univariate": bounded}, Bijector), 2, axis=1)
        yield "act_norm", cls(build({"name": "act_norm", "shape": (2,)}, Bijector), 2)


def _with_axis(shape: Shape, size: int, axis: int) -> Shape:
    return (*shape[:axis], size, *shape[axis:])
