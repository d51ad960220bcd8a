"""Learned invertible C x C matrices for 1x1 convolutions, one class a parametrisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._matrices import cayley, lower_upper, random_rotation, reflections, triangular
from flowkit.core.errors import ConfigError
from flowkit.nets._learned import Learned


class SquareMatrix(nn.Module):
    """A matrix W acting on columns, with its inverse and log|det W|; every value of the parameters is invertible.

    All three work in float32 at least. Without a context the columns are (C, N), the whole batch in one product;
    with one the parameters have the batch shape and the columns are (*B, C, N).

    Args:
        channels: C.
        rotation: start from a random rotation; otherwise from the identity.
        context_features, hidden: as for ``Learned``.
    """

    def __init__(self, channels: int, *, rotation: bool, context_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels
        self.learned = Learned(self._start(channels, rotation), context_features, hidden)

    def _start(self, channels: int, rotation: bool) -> dict[str, Tensor]:
        raise NotImplementedError

    def values(self, context: Any, like: Tensor) -> dict[str, Tensor]:
        """The parameters for a context, in float32 at least."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return {name: value.to(dtype) for name, value in self.learned(context).items()}

    def multiply(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        """W columns."""
        raise NotImplementedError

    def solve(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        """W^-1 columns."""
        raise NotImplementedError

    def log_abs_det(self, values: Mapping[str, Tensor]) -> Tensor:
        """log|det W|, () without a context and (*B) with one."""
        raise NotImplementedError


class PLU(SquareMatrix):
    """W = P L U: P fixed, L unit lower triangular, U upper triangular with diagonal sign * exp(log_diagonal)."""

    gather: Tensor
    scatter: Tensor
    sign: Tensor

    def _start(self, channels: int, rotation: bool) -> dict[str, Tensor]:
        start = random_rotation(channels) if rotation else torch.eye(channels)
        permutation, lower, upper = torch.linalg.lu(start)
        gather = permutation.argmax(1)  # row i of W is row gather[i] of L U
        # P and the signs are drawn with the start, so they are saved with the parameters
        self.register_buffer("gather", gather)
        self.register_buffer("scatter", gather.argsort())
        self.register_buffer("sign", upper.diagonal().sign())
        values = {"log_diagonal": upper.diagonal().abs().log()}
        return values if channels == 1 else values | {"factors": lower.tril(-1) + upper.triu(1)}

    def _lower_upper(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return lower_upper(values.get("factors"), self.sign.to(values["log_diagonal"].dtype) * values["log_diagonal"].exp())

    def multiply(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        lower, upper = self._lower_upper(values)
        return ((lower @ upper) @ columns).index_select(-2, self.gather)

    def solve(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        lower, upper = self._lower_upper(values)
        columns = torch.linalg.solve_triangular(lower, columns.index_select(-2, self.scatter), upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, columns, upper=True)

    def log_abs_det(self, values: Mapping[str, Tensor]) -> Tensor:
        return values["log_diagonal"].sum(-1)


class QR(SquareMatrix):
    """W = Q R: Q a product of reflections, R upper triangular with diagonal exp(log_diagonal)."""

    def _start(self, channels: int, rotation: bool) -> dict[str, Tensor]:
        values = {"log_diagonal": torch.zeros(channels)}
        if channels == 1:
            return values
        count = channels - channels % 2  # an even number of reflections reaches every rotation
        pairs = torch.randn(channels, count // 2).repeat_interleave(2, dim=1)  # equal neighbours cancel
        return values | {"directions": torch.randn(channels, count) if rotation else pairs, "upper": torch.zeros(channels, channels)}

    def _factors(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        triangle = triangular(values.get("upper"), values["log_diagonal"].exp(), upper=True)
        if "directions" not in values:
            return torch.ones_like(triangle), triangle
        return reflections(values["directions"].mT).mT, triangle  # H_1 ... H_n along the columns

    def multiply(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        orthogonal, triangle = self._factors(values)
        return (orthogonal @ triangle) @ columns

    def solve(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        orthogonal, triangle = self._factors(values)
        return torch.linalg.solve_triangular(triangle, orthogonal.mT @ columns, upper=True)

    def log_abs_det(self, values: Mapping[str, Tensor]) -> Tensor:
        return values["log_diagonal"].sum(-1)


class Exponential(SquareMatrix):
    """W = exp(A), W^-1 = exp(-A), log|det W| = trace A."""

    def _start(self, channels: int, rotation: bool) -> dict[str, Tensor]:
        return {"log_matrix": _random_skew(channels) if rotation else torch.zeros(channels, channels)}

    def multiply(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(values["log_matrix"]) @ columns

    def solve(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(-values["log_matrix"]) @ columns

    def log_abs_det(self, values: Mapping[str, Tensor]) -> Tensor:
        return values["log_matrix"].diagonal(dim1=-2, dim2=-1).sum(-1)


class Cayley(SquareMatrix):
    """W = (I - S) (I + S)^-1 with S skew: a rotation, log|det W| = 0."""

    def _start(self, channels: int, rotation: bool) -> dict[str, Tensor]:
        if channels == 1:
            raise ConfigError("Conv1x1: form='cayley' of one channel has nothing to rotate. Use form='plu'.")
        return {"skew": _random_skew(channels) if rotation else torch.zeros(channels, channels)}

    def _matrix(self, values: Mapping[str, Tensor]) -> Tensor:
        lower = values["skew"].tril(-1)
        return cayley(lower - lower.mT)

    def multiply(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        return self._matrix(values) @ columns

    def solve(self, values: Mapping[str, Tensor], columns: Tensor) -> Tensor:
        return self._matrix(values).mT @ columns

    def log_abs_det(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros_like(values["skew"][..., 0, 0])


FORMS: dict[str, type[SquareMatrix]] = {"plu": PLU, "qr": QR, "exp": Exponential, "cayley": Cayley}


def _random_skew(channels: int) -> Tensor:
    noise = torch.randn(channels, channels) / channels**0.5
    return noise - noise.mT
