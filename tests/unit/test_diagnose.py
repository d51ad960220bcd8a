"""``diagnose``: finds the layer that is wrong, saturated, ill conditioned or not finite, and leaves the flow as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import Affine, Chain, Coupling, Elementwise, LULinear
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.distributions import StandardNormal
from flowkit.evaluation import Diagnosis
from flowkit.univariates import Affine as AffineMap
from flowkit.univariates import RationalQuadraticSpline


def flow_of(*parts: Any) -> fk.Flow:
    return fk.Flow(StandardNormal((2,)), Chain(list(parts)))


def test_healthy_flow() -> None:
    torch.manual_seed(0)
    flow, x = fk.flows.NeuralSplineFlow(2, layers=2, hidden=(8,)), torch.randn(200, 2)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    found = fk.diagnose(flow, x)
    assert isinstance(found, Diagnosis) and found.events == 200 and found.first_non_finite is None and found.failure is None
    assert [layer.layer for layer in found.layers] == list(range(1, len(found.layers) + 1))
    assert found.round_trip is not None and found.round_trip < 1e-5
    for layer in found.layers:
        assert layer.round_trip is not None and layer.round_trip < 1e-5 and layer.non_finite == 0
        assert layer.log_det_error is not None and layer.log_det_error < 1e-4
    assert all(torch.equal(before[key], value) for key, value in flow.state_dict().items())
    assert not any("transform" in vars(module) for module in flow.modules())
    json.dumps(found.as_dict())
    for line in ("round trip", "~Coupling[RationalQuadraticSpline]", "condition"):
        assert line in str(found)


class Wrong(Affine):
    """An affine map whose inverse forgets the shift."""

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._inverse(x, context, generator)
        return value + 0.5, log_det


class Exploding(Affine):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._inverse(x, context, generator)
        return torch.where(value > 1, value / 0.0, value), log_det


def test_names_the_layer_whose_inverse_is_wrong() -> None:
    found = fk.diagnose(flow_of(Affine((2,)), Wrong((2,)), LULinear(2)), torch.randn(50, 2))
    worst = max(found.layers, key=lambda layer: layer.round_trip or 0.0)
    assert worst.name == "Wrong" and worst.layer == 2 and worst.round_trip is not None and worst.round_trip > 0.1


def test_names_the_first_non_finite_layer() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    found = fk.diagnose(flow_of(Affine((2,)), Exploding((2,)), Affine((2,))), x)
    assert found.first_non_finite == "2 Exploding"
    assert [layer.non_finite for layer in found.layers] == [0, 1, 0]
    assert "first non-finite layer" in str(found)


def test_condition_number_is_that_of_the_matrix() -> None:
    layer = LULinear(2)
    with torch.no_grad():
        layer.log_diagonal.copy_(torch.tensor([3.0, -3.0]))
    found = fk.diagnose(flow_of(layer), torch.randn(20, 2))
    assert found.layers[0].condition == pytest.approx(float(torch.linalg.cond(layer.matrix())), rel=1e-4)


def test_saturation_tails_and_bins() -> None:
    spline = Elementwise((2,), RationalQuadraticSpline(4, 2.0))
    tails = fk.diagnose(flow_of(spline), torch.tensor([[5.0, 0.1], [0.1, 0.1]]))
    (row,) = tails.layers
    assert row.bins == 4 and row.tail == pytest.approx(0.25) and row.bins_used == pytest.approx(1.0) and row.saturated == 0.0
    even = fk.diagnose(flow_of(spline), torch.linspace(-1.99, 1.99, 400).unsqueeze(-1).expand(400, 2))
    assert even.layers[0].bins_used == pytest.approx(4.0, abs=0.05)
    affine = Coupling(2, AffineMap(), (4,))
    with torch.no_grad():
        affine._net.last.bias.copy_(torch.tensor([0.0, 30.0]))  # type: ignore[union-attr, operator]
    assert fk.diagnose(flow_of(affine), torch.randn(10, 2)).layers[0].saturated == 1.0


def test_conditional_supported_and_drawing_flows() -> None:
    flow = fk.flows.RealNVP(2, context_features=3, layers=2, hidden=(8,), support=fk.core.domain.Box(-1.0, 1.0, 2))
    x = torch.rand(30, 2) * 3 - 1.5
    found = fk.diagnose(flow, x, torch.randn(3))
    assert found.outside > 0 and found.events + found.outside == 30 and found.round_trip is not None
    drawing = fk.Flow(StandardNormal((2,)), Affine((2,)) >> fk.surjections.Absolute(2))
    told = fk.diagnose(drawing, torch.rand(10, 2))
    assert told.round_trip is None and told.layers[-1].round_trip is None and told.layers[0].round_trip is not None


def test_refusals() -> None:
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,), support=fk.core.domain.Box(-1.0, 1.0, 2))
    with pytest.raises(ShapeError, match="none of the 3"):
        fk.diagnose(flow, torch.full((3, 2), 5.0))
    with pytest.raises(ShapeError, match="trailing shape"):
        fk.diagnose(flow, torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="expected a Flow"):
        fk.diagnose(Affine((2,)), torch.zeros(3, 2))  # type: ignore[arg-type]


def test_wrong_dtype_is_named() -> None:
    with pytest.raises(ShapeError, match=r"diagnose: expected torch.float32, the flow's dtype; got torch.float64"):
        fk.diagnose(flow_of(LULinear(2)), torch.randn(5, 2).double())
