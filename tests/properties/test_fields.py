"""Every registered velocity field against the conformance suite, and faulty ones that it must find."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from _generate import parameters, run
from torch import Tensor, nn

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import FIELDS
from flowkit.core.vector_field import VectorField
from flowkit.testing import ConformanceError, check_field
from flowkit.testing._suites import FIELD


@pytest.mark.parametrize(("cls", "label", "check"), parameters(FIELD, FIELDS))
def test_field(cls: type, label: str, check: str) -> None:
    run(FIELD, cls, label, check)


class Linear(VectorField):
    """v = A x + b t."""

    def __init__(self, features: int = 3) -> None:
        super().__init__()
        self.features, self.event_shape = features, (features,)
        self.matrix, self.rate = nn.Parameter(torch.randn(features, features)), nn.Parameter(torch.randn(features))

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        from flowkit.continuous._calls import check_call

        check_call(self, x, context)
        return x @ self.matrix.mT + self.rate * t.to(x.dtype).unsqueeze(-1)

    def divergence(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:  # type: ignore[override]
        return self.matrix.diagonal().sum().expand(x.shape[:-1])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Linear]]:
        yield "three", cls()


class HalfDivergence(Linear):
    def divergence(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:  # type: ignore[override]
        return 0.5 * super().divergence(t, x)


class MixesRows(Linear):
    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return super().velocity(t, x, context) + x.mean()


class OneTimeOnly(Linear):
    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return super().velocity(t.mean() if t.numel() else t.sum(), x, context)


class Unused(Linear):
    def __init__(self, features: int = 3) -> None:
        super().__init__(features)
        self.spare = nn.Parameter(torch.zeros(2))


class Detached(Linear):
    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return super().velocity(t, x.detach(), context) + super().velocity(t, x, context)


def test_sound_field_passes() -> None:
    assert "divergence_trace" in check_field(Linear()).passed


@pytest.mark.parametrize(
    ("fault", "found_by"),
    [
        (HalfDivergence, "divergence_trace"),
        (MixesRows, "rows_independent"),
        (OneTimeOnly, "rows_independent"),
        (Unused, "gradients_reach"),
        (Detached, "gradients"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_faults_are_found(fault: Any, found_by: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_field(fault())
    assert found_by in caught.value.failures
