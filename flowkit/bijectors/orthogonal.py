"""Orthogonal maps from skew-symmetric matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import cayley, identity_like, times
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive
from flowkit.core.traits import Traits
from flowkit.core.transform import Transform
from flowkit.numerics.value_cache import ValueCache


@BIJECTORS.register("orthogonal")
class Orthogonal(LinearMap):
    """x = Q z with Q = exp(A) or Q = (I + A)^-1 (I - A), A skew-symmetric; a rotation, log_det = 0.

    The exponential reaches every rotation; the Cayley transform all but those with an eigenvalue -1, at the price of one solve.
    Starts as the identity. Q costs O(D^3) a call, and is kept until A changes where no gradient flows into it; then one product
    either way. Q^T Q = I to rounding times the condition of I + A (Cayley), or to some roundings (exponential).

    Args:
        features: D.
        form: "cayley" or "exp".
        context_features: size of the context's last axis, 0 for none; A then depends on it, one Q per event.
        hidden: widths of the hidden layers of the context's net.

    Reference: Helfrich, Willmott and Ye (2018), arXiv:1707.09520, equation 5 (Cayley); Lezcano-Casado and Martinez-Rubio (2019),
    arXiv:1901.08428 (exponential).
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    places: Tensor

    def __init__(self, features: int, *, form: Literal["cayley", "exp"] = "cayley", context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size = positive(features, "Orthogonal", "features")
        if form not in ("cayley", "exp"):
            raise ConfigError(f"Orthogonal: expected form to be 'cayley' or 'exp'; got {form!r}.")
        count = size * (size - 1) // 2
        super().__init__(size, {"skew": torch.zeros(count)}, bias=False, context_features=context_features, hidden=hidden)
        self.features, self.form = size, form
        row, column = torch.tril_indices(size, size, -1).unbind(0)
        places = torch.full((size, size), 2 * count)  # where in (entries, -entries, 0) each entry of A is found
        places[row, column], places[column, row] = torch.arange(count), count + torch.arange(count)
        self.register_buffer("places", places.flatten(), persistent=False)
        self._cache = ValueCache()

    def _orthogonal(self, skew: Tensor) -> tuple[Tensor]:
        """Q (*B, D, D) from the entries of A below its diagonal (*B, D (D - 1) / 2)."""
        numbers = torch.cat([skew, -skew, skew.new_zeros((*skew.shape[:-1], 1))], dim=-1)
        matrix = numbers.index_select(-1, self.places).unflatten(-1, (self.features, self.features))
        return (cayley(matrix) if self.form == "cayley" else torch.linalg.matrix_exp(matrix),)

    def _both(self, parts: Parts, value: Tensor, *, turned: bool) -> tuple[Tensor, Tensor]:
        skew = parts["skew"]
        (matrix,) = self._orthogonal(skew) if self.context_features else self._cache.get(self._orthogonal, skew)
        return times(matrix.mT if turned else matrix, value), torch.zeros_like(value[..., 0])

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._both(parts, value, turned=False)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._both(parts, value, turned=True)

    def _times_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        return self._solve(parts, value)[0]

    def _solve_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        return self._times(parts, value)[0]

    @torch.no_grad()
    def merge(self, following: Transform) -> Transform | None:
        """The product of two rotations in Cayley's form, unless it is too near to a rotation that the form cannot reach."""
        outer = self._mergeable(following)
        if outer is None:
            return None
        product = outer.matrix() @ self.matrix()
        eye = identity_like(product, self.features)
        if product.dtype not in (torch.float32, torch.float64) or not bool(torch.linalg.svdvals(eye + product)[-1] > 1e-2):
            return None
        skew = cayley(product)  # Cayley's transform is its own inverse
        row, column = torch.tril_indices(self.features, self.features, -1, device=skew.device).unbind(0)
        return Orthogonal(self.features)._filled(skew=(0.5 * (skew - skew.mT))[row, column])

    def inverted(self) -> Orthogonal | None:
        return None if self.context_features else Orthogonal(self.features, form=self.form)._filled(skew=-self.learned.values["skew"])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Orthogonal]]:
        yield "cayley", cls(3)
        yield "exp", cls(4, form="exp")
        yield "conditional", cls(3, form="exp", context_features=2)
        yield "conditional_cayley", cls(2, context_features=2, hidden=(4,))
