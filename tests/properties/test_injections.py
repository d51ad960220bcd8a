"""Every registered injection against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import INJECTIONS
from flowkit.testing._suites import INJECTION
from flowkit.testing.injections import check_injection  # noqa: F401  fills the suite


@pytest.mark.parametrize(("cls", "label", "check"), parameters(INJECTION, INJECTIONS))
def test_injection(cls: type, label: str, check: str) -> None:
    run(INJECTION, cls, label, check)
