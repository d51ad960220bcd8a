"""An inverse by root finding for maps that only know their forward formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError, NotInvertibleError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context
from flowkit.core.transform import Bijector, Transform
from flowkit.numerics.root_finding import implicit_step, solve_increasing


@BIJECTORS.register("numerical_inverse")
class NumericalInverse(Bijector):
    """The same forward as the given elementwise increasing map, with the inverse found numerically.

    The bracket grows until it holds the root, so there is no range limit; gradients come from the implicit function
    theorem, in the input, the context and the parameters (first order).

    Args:
        transform: a map with diagonal Jacobian, increasing in every coordinate; its own inverse is not used.

    Raises:
        NotInvertibleError: no root was found (eager mode on the CPU).
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if transform.traits.jacobian != "diagonal" or transform.in_shape != transform.out_shape:
            raise ConfigError(f"NumericalInverse: expected a map with a diagonal Jacobian; got {transform.who} with {transform.traits.jacobian}.")
        self.transform = transform
        self.in_shape, self.out_shape, self.context_shape = transform.in_shape, transform.out_shape, transform.context_shape
        self._domain, self._codomain = transform._domain, transform._codomain
        self.traits = transform.traits.but(inverse="iterative", compiles=False, vmaps=False, score="two_pass")

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.transform(z, context)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        box = self.transform.domain
        low, high = (box.low_buffer.to(x), box.high_buffer.to(x)) if isinstance(box, Box) else (x.new_tensor(-torch.inf), x.new_tensor(torch.inf))
        root = solve_increasing(lambda z: self._at(z, context)[0], x, low=low, high=high)
        slope = self._slope(root, context)
        value, _ = self._at(root, context)
        # no root can be better than what rounding z does to the value
        rounding = 16 * torch.finfo(x.dtype).eps * slope.abs() * root.abs()
        found = (value - x).abs() <= 1e-3 * (1 + x.abs()) + rounding
        if not bool((found | ~torch.isfinite(x)).all()):
            raise NotInvertibleError(f"NumericalInverse: no root found for {self.transform.who}. Is it increasing in every coordinate?")
        z = implicit_step(root, value - x, slope)
        z = z + (torch.minimum(torch.maximum(z, low), high) - z).detach()  # the step must not leave the domain
        _, log_det = self._at(z, context)
        return z, -log_det

    def _slope(self, root: Tensor, context: Any) -> Tensor:
        # copies, since tensors made in inference mode cannot be recorded
        with torch.inference_mode(False), torch.enable_grad():
            point = root.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self._at(point, _recordable(context))[0].sum(), point)
        return slope

    def _at(self, z: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        return self.transform(z, context)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, NumericalInverse]]:
        spline = {"name": "rational_quadratic_spline", "bins": 4}
        yield "spline", cls(build({"name": "elementwise", "shape": (2,), "univariate": spline, "context_features": 2, "hidden": (8,)}, Bijector))


def _recordable(context: Context) -> Context:
    if isinstance(context, Mapping):
        return {key: part.detach().clone() for key, part in context.items()}
    return None if context is None else context.detach().clone()
