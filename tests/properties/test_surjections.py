"""Every registered surjection against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import SURJECTIONS
from flowkit.testing._suites import SURJECTION
from flowkit.testing.surjections import check_surjection  # noqa: F401  fills the suite


@pytest.mark.parametrize(("cls", "label", "check"), parameters(SURJECTION, SURJECTIONS))
def test_surjection(cls: type, label: str, check: str) -> None:
    run(SURJECTION, cls, label, check)
