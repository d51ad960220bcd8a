"""``compile(graph_rows=...)`` without a GPU: checked, kept by copies, and without effect."""

from __future__ import annotations

import pickle

import pytest
import torch

import flowkit as fk
from flowkit.core.errors import ConfigError


@pytest.mark.parametrize("wrong", [1, 0, 2.5, True, "all"])
def test_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="graph_rows"):
        fk.compile(fk.flows.RealNVP(2, layers=1), graph_rows=wrong)  # type: ignore[arg-type]


def test_no_effect_on_a_cpu() -> None:
    flow, x = fk.flows.RealNVP(2, layers=2, hidden=(8,)), torch.randn(8, 2)
    fast = pickle.loads(pickle.dumps(fk.compile(flow, graph_rows=8)))
    torch.testing.assert_close(fast.log_prob(x), flow.log_prob(x))
    assert {region.graph_rows for step in fast.modules() if (region := step.__dict__.get("_formula")) is not None} == {8}
