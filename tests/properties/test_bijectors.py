"""Every registered bijector against the conformance suite, with fixed inputs and with inputs drawn by hypothesis."""

from __future__ import annotations

import pytest
from _generate import example, parameters, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import BIJECTORS
from flowkit.testing import Case
from flowkit.testing._suites import BIJECTOR
from flowkit.testing.bijectors import check_bijector  # noqa: F401  fills the suite

CASES = st.builds(
    Case,
    seed=st.integers(1, 10_000),
    batch=st.sampled_from([(1,), (3,), (2, 3), ()]),
    spread=st.sampled_from([0.1, 1.0, 2.0]),
)


@pytest.mark.parametrize(("cls", "label", "check"), parameters(BIJECTOR, BIJECTORS))
def test_bijector(cls: type, label: str, check: str) -> None:
    run(BIJECTOR, cls, label, check)


@pytest.mark.parametrize(("cls", "label", "check"), parameters(BIJECTOR, BIJECTORS, drawn=True))
def test_bijector_drawn(cls: type, label: str, check: str) -> None:
    if label is None:
        pytest.fail(check)
    instance = example(cls, label)

    @settings(max_examples=5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(CASES)
    def holds(case: Case) -> None:
        BIJECTOR.run(check, instance, case)

    holds()
