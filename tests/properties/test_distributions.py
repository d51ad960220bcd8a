"""Every registered base against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.testing._suites import DISTRIBUTION
from flowkit.testing.distributions import check_distribution  # noqa: F401  fills the suite


@pytest.mark.parametrize(("cls", "label", "check"), parameters(DISTRIBUTION, DISTRIBUTIONS))
def test_distribution(cls: type, label: str, check: str) -> None:
    run(DISTRIBUTION, cls, label, check)
