"""Flows of lattice fields trained on their actions against exact and known values (physics-A9 to A14)."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.flows import GaugeFlow, LatticeFlow
from flowkit.targets import U1Lattice

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TURN = 2 * math.pi


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The trainings, with their settings and thresholds; table: benchmarks/results/lattice.md."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "lattice.py"))


def gauge_gap(flow: GaugeFlow, target: U1Lattice) -> float:
    """How far log q moves under random gauge transformations, beside its size."""
    x = flow.sample(64, generator=torch.Generator().manual_seed(1)).detach()
    alpha = TURN * torch.rand(64, target.size, target.size, generator=torch.Generator().manual_seed(2))
    before, after = flow.log_prob(x).detach(), flow.log_prob(target.gauge_transform(x, alpha)).detach()
    return float(((after - before) / before).abs().max())


def test_free_field_is_reached(study: dict[str, Any]) -> None:
    """physics-A9: the spectrum alone, started at another mass, becomes the free field: ESS > 0.999 and log Z to 1e-3."""
    found = study["train"]("A9", seed=0, draws=20_000)
    assert found.ess > 0.999
    assert abs(found.log_z - study["CASES"]["A9"].log_z) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A10", "A11", "A12", "A13"])
def test_interacting_theories(study: dict[str, Any], name: str) -> None:
    """physics-A10 to A13: effective share, log Z and <phi^2> within the spec's bands; A14 for the trained gauge flow, 1e-5 in float32."""
    found = study["train"](name, seed=0)
    assert study["holds"](name, found), found[:5]
    if name == "A13":
        assert gauge_gap(found.flow, study["CASES"][name].target()) < 1e-5


def test_gauge_flow_is_invariant() -> None:
    """physics-A14: log q of links and of their gauge transforms agree to 1e-5 in float32; draws lie in [0, 2 pi)."""
    torch.manual_seed(0)
    flow = GaugeFlow(4, layers=8, components=3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert gauge_gap(flow, U1Lattice(4, 1.0)) < 1e-5
    x, log_prob = flow.sample_and_log_prob(500, generator=torch.Generator().manual_seed(0))
    assert bool(((x >= 0) & (x < TURN)).all())
    again = flow.log_prob(x)
    assert float((log_prob - again).detach().abs().max()) < 1e-3


def test_score_of_the_flows() -> None:
    """sample_and_score: the gradient of log q at the draws, as autograd through the inverse has it, in float64."""
    for flow in (LatticeFlow((4, 4), 2, (4,)), GaugeFlow(4, 4, 3, (4,))):
        flow = flow.double()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        x, log_prob, score = flow.sample_and_score(20, generator=torch.Generator().manual_seed(0))
        point = x.detach().requires_grad_()
        wanted_log_prob = flow.log_prob(point)
        (wanted,) = torch.autograd.grad(wanted_log_prob.sum(), point)
        assert float((score - wanted).abs().max()) < 1e-9 * max(1.0, float(wanted.abs().max()))
        assert float((log_prob - wanted_log_prob).detach().abs().max()) < 1e-9


def test_sign_symmetry() -> None:
    """log q(phi) = log q(-phi) for the default recipe, exactly; not for the free one."""

    def gap(flow: LatticeFlow) -> float:
        flow = flow.double()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
            x: Tensor = flow.sample(50, generator=torch.Generator().manual_seed(0))
            return float((flow.log_prob(x) - flow.log_prob(-x)).abs().max())

    assert gap(LatticeFlow((4, 4), 2, (4,))) < 1e-12
    assert gap(LatticeFlow((4, 4), 2, (4,), symmetry="none")) > 1e-2


def test_arguments_of_the_recipes() -> None:
    """A lattice that does not hold the pattern, and sizes that are none, are refused."""
    with pytest.raises(ConfigError, match="GaugeFlow: expected a size that is a multiple of 4; got 6"):
        GaugeFlow(6)
    with pytest.raises(ConfigError, match="layers"):
        LatticeFlow((4, 4), -1)
