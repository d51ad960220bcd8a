"""Every registered domain against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import DOMAINS
from flowkit.testing import _domains  # noqa: F401  fills the suite
from flowkit.testing._suites import DOMAIN


@pytest.mark.parametrize(("cls", "label", "check"), parameters(DOMAIN, DOMAINS))
def test_domain(cls: type, label: str, check: str) -> None:
    run(DOMAIN, cls, label, check)
