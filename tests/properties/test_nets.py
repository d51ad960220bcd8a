"""Every registered network against the conformance suite."""

from __future__ import annotations

import pytest
from _generate import parameters, run

import flowkit  # noqa: F401  fills the registries
from flowkit.core.registry import NETS
from flowkit.testing import _domains  # noqa: F401  fills the suite
from flowkit.testing._suites import NET


@pytest.mark.parametrize(("cls", "label", "check"), parameters(NET, NETS))
def test_net(cls: type, label: str, check: str) -> None:
    run(NET, cls, label, check)
