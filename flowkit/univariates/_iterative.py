"""Univariate maps whose inverse is found by root finding."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.checks import may_raise
from flowkit.core.errors import NotInvertibleError, ShapeError
from flowkit.core.loops import may_branch
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.kernels.iterative import polished, solve


class IterativeUnivariate(Univariate):
    """A univariate that only writes one direction, increasing in z; the inverse solves it, without a range limit.

    A subclass writes ``_coefficients``, raw parameters -> constrained ones, computed once per call, and ``_evaluate``.
    The root is found without a graph; two Newton steps with one then give it exact first and second derivatives in x
    and in the parameters. ``low`` and ``high`` bracket the root of a map of an interval. The inverse costs about 5 to 20
    evaluations, by how far the map is from a straight line, and three more where a graph is wanted.
    """

    traits = Traits(jacobian="diagonal", inverse="iterative")

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        """Raw parameters (*S, parameter_count) -> what ``_evaluate`` reads, each (*S, ...)."""
        raise NotImplementedError

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """x (*S) and log dx/dz (*S) for z (*S), strictly increasing in z."""
        raise NotImplementedError

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._evaluate(z, *self._coefficients(self._checked(params)))

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        coefficients = self._coefficients(self._checked(params))
        z, solved = solve(self._evaluate, x, coefficients, self.low, self.high)
        self._judge(solved, params)
        return polished(self._evaluate, torch.where(solved, z, torch.nan), x, coefficients, self.low, self.high)

    def _judge(self, solved: Tensor, params: Tensor) -> None:
        """Raise where values can be looked at and there was no root (*S), though the parameters are finite."""
        if may_branch(solved) and may_raise(solved) and not bool(solved.all()):
            lost = ~solved & torch.isfinite(params).all(-1)
            if bool(lost.any()):
                raise NotInvertibleError(
                    f"{type(self).__name__}.untransform: expected a solution for every value; got none for {int(lost.sum())} of {lost.numel()}. "
                    f"Parameters or values may be too large for {str(params.dtype).removeprefix('torch.')}: use float64, or smaller ones."
                )

    def _checked(self, params: Tensor) -> Tensor:
        if params.shape[-1] != self.parameter_count:
            raise ShapeError(f"{type(self).__name__}: expected {self.parameter_count} parameters per coordinate; got {params.shape[-1]}.")
        return params
