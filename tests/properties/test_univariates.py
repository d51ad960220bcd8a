"""Every registered scalar map against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import UNIVARIATES
from flowkit.testing._suites import UNIVARIATE
from flowkit.testing.univariates import check_univariate  # noqa: F401  fills the suite


@pytest.mark.parametrize(("cls", "label", "check"), parameters(UNIVARIATE, UNIVARIATES))
def test_univariate(cls: type, label: str, check: str) -> None:
    run(UNIVARIATE, cls, label, check)
