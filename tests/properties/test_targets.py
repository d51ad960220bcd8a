"""Every registered target against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import TARGETS
from flowkit.testing._suites import TARGET
from flowkit.testing.targets import check_target  # noqa: F401  fills the suite


@pytest.mark.parametrize(("cls", "label", "check"), parameters(TARGET, TARGETS))
def test_target(cls: type, label: str, check: str) -> None:
    run(TARGET, cls, label, check)
