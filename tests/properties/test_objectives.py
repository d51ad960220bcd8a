"""Every registered objective against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import OBJECTIVES
from flowkit.testing._suites import OBJECTIVE
from flowkit.testing.objectives import check_objective  # noqa: F401  fills the suite


@pytest.mark.parametrize(("cls", "label", "check"), parameters(OBJECTIVE, OBJECTIVES))
def test_objective(cls: type, label: str, check: str) -> None:
    run(OBJECTIVE, cls, label, check)
