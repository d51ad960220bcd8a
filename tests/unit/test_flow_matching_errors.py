"""Bad input to flow matching and its fields: one line that names what was expected and the remedy (issue 5, O-7)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from flowkit.continuous import GuidedField, MLPField, PredictionField, RescheduledField
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError, UnknownNameError
from flowkit.core.objective import Batch
from flowkit.flows import ContinuousFlow, NeuralSplineFlow
from flowkit.interop import torchcfm
from flowkit.numerics.sinkhorn import sinkhorn
from flowkit.objectives import FlowMatching


def flow(**options: Any) -> ContinuousFlow:
    return ContinuousFlow(2, hidden=(4, 4), **options)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pairing": "optimal"}, UnknownNameError, "no pairing named 'optimal'"),
        ({"pairing": "sinkhon"}, UnknownNameError, "Nearest: 'sinkhorn'"),
        ({"pairing": {"name": "ot", "reg": 0.1}}, ConfigError, "has no option 'reg'. It takes: none"),
        ({"pairing": {"name": "sinkhorn", "reg": 0.0}}, ConfigError, "sinkhorn's reg to be a finite number > 0; got 0.0"),
        ({"pairing": 3}, ConfigError, "expected pairing to be a name"),
        ({"pairing": {"reg": 0.1}}, ConfigError, "expected pairing to be a name"),
        ({"path": "linaer"}, UnknownNameError, "Nearest: 'linear'"),
        ({"path": {"name": "polynomial", "power": -1}}, ConfigError, "power to be a finite number > 0"),
        ({"path": {"name": "vp", "power": 2}}, ConfigError, "It takes: beta_min, beta_max"),
        ({"path": {"name": "vp", "beta_min": 30.0}}, ConfigError, "beta_min <= beta_max"),
        ({"path": "bridge"}, ConfigError, "expected sigma > 0 for path 'bridge'"),
        ({"path": {"name": "bridge", "sigma": 1.0}, "sigma": 1.0}, ConfigError, "Its diffusion is sigma="),
        ({"sigma": -0.1}, ConfigError, "expected a finite sigma >= 0; got -0.1"),
        ({"sigma": math.nan}, ConfigError, "expected a finite sigma >= 0"),
        ({"sigma": "0.1"}, ConfigError, "expected a finite sigma >= 0"),
        ({"path": "target_ot", "sigma": 1.5}, ConfigError, "smallest < 1"),
        ({"time": "uniformly"}, UnknownNameError, "Nearest: 'uniform'"),
        ({"time": {"name": "logit_normal", "std": 0}}, ConfigError, "std to be a finite number > 0"),
        ({"time": {"name": "uniform", "mean": 0}}, ConfigError, "has no option 'mean'"),
        ({"label_drop": 1.0}, ConfigError, r"expected label_drop in \[0, 1\)"),
        ({"weight": "x1"}, UnknownNameError, "no weight named 'x1'"),
        ({"weight": {"name": "data", "power": 2}}, ConfigError, "It takes: limit"),
        ({"weight": "data", "path": "bridge", "sigma": 1.0}, ConfigError, "a bridge has no weight"),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        FlowMatching(**options)


def test_models_without_a_field() -> None:
    with pytest.raises(ConfigError, match="expected a continuous flow"):
        FlowMatching().loss(NeuralSplineFlow(2, hidden=(4,)), Batch(torch.zeros(3, 2)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_are_not_finite(bad: float) -> None:
    x = torch.zeros(5, 2)
    x[3, 1] = bad
    for pairing in ("independent", "ot"):
        with pytest.raises(NonFiniteError, match="data holds NaN or infinite values, the first in row 3"):
            FlowMatching(pairing).loss(flow(), Batch(x))
    with pytest.raises(NonFiniteError, match="source"):
        FlowMatching().loss(flow(), Batch(torch.zeros(5, 2), extra={"source": x}))


def test_batches() -> None:
    with pytest.raises(ConfigError, match="expected a batch of data"):
        FlowMatching().loss(flow(), Batch(size=4))
    with pytest.raises(ShapeError, match="trailing shape"):
        FlowMatching().loss(flow(), Batch(torch.zeros(5, 3)))
    with pytest.raises(ShapeError, match=r"expected extra\['source'\] of shape \(5, 2\)"):
        FlowMatching().loss(flow(), Batch(torch.zeros(5, 2), extra={"source": torch.zeros(4, 2)}))


def test_contexts() -> None:
    x, labels = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ShapeError, match="expected a context"):
        FlowMatching().loss(flow(classes=3), Batch(x))
    with pytest.raises(ShapeError, match="declares none"):
        FlowMatching().loss(flow(), Batch(x, labels))
    with pytest.raises(ConfigError, match="label_drop needs a context"):
        FlowMatching(label_drop=0.1).loss(flow(), Batch(x))
    with pytest.raises(ConfigError, match="'conditional_ot' needs a context"):
        FlowMatching("conditional_ot").loss(flow(), Batch(x))
    with pytest.raises(ShapeError, match="expected labels in"):
        FlowMatching().loss(flow(classes=3), Batch(x, labels + 7))


def test_predictions_that_do_not_fit_the_objective() -> None:
    predicting = ContinuousFlow(field=PredictionField(MLPField(2, (4,)), predicts="data", path="vp"))
    with pytest.raises(ConfigError, match="Give both the same path"):
        FlowMatching(path="linear").loss(predicting, Batch(torch.zeros(5, 2)))
    with pytest.raises(ConfigError, match="sigma=0"):
        FlowMatching(path="vp", sigma=0.1).loss(predicting, Batch(torch.zeros(5, 2)))
    score = ContinuousFlow(field=PredictionField(MLPField(2, (4,)), predicts="score"))
    with pytest.raises(ConfigError, match="a score is that of independent noise"):
        FlowMatching("ot").loss(score, Batch(torch.zeros(5, 2)))


def test_fields() -> None:
    field, conditional = MLPField(2, (4,)), MLPField(2, (4,), context_features=3)
    with pytest.raises(ConfigError, match="expected a field with a context"):
        GuidedField(field, 2.0)
    with pytest.raises(ConfigError, match="expected scale to be a finite number"):
        GuidedField(conditional, math.inf)
    with pytest.raises(ShapeError, match=r"expected null of shape \(3,\)"):
        GuidedField(conditional, 2.0, null=torch.zeros(2))
    with pytest.raises(ShapeError, match="GuidedField: expected a context"):
        GuidedField(conditional, 0.0).velocity(torch.tensor(0.5), torch.zeros(4, 2))
    with pytest.raises(UnknownNameError, match="Nearest: 'noise'"):
        PredictionField(field, predicts="nois")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="PredictionField: no path named"):
        PredictionField(field, path="bridge")
    with pytest.raises(UnknownNameError, match="RescheduledField: no path named"):
        RescheduledField(field, trained="linear", sampled="lin")
    with pytest.raises(ConfigError, match="expected a velocity field"):
        PredictionField(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_plans() -> None:
    with pytest.raises(NonFiniteError, match="sinkhorn: the cost"):
        sinkhorn(torch.tensor([[0.0, math.nan]]), 0.1)
    with pytest.raises(ConfigError, match="reg to be a finite number > 0"):
        sinkhorn(torch.zeros(2, 2), -1.0)
    with pytest.raises(ShapeError, match=r"a cost of shape \(N, M\)"):
        sinkhorn(torch.zeros(2), 1.0)


def test_torchcfm_matchers() -> None:
    with pytest.raises(ConfigError, match="expected a finite sigma >= 0"):
        torchcfm.ConditionalFlowMatcher(sigma=-1.0)
    with pytest.raises(ConfigError, match="expected sigma > 0"):
        torchcfm.SchrodingerBridgeConditionalFlowMatcher(sigma=0.0)
    with pytest.raises(UnknownNameError, match="no method named 'partial'"):
        torchcfm.OTPlanSampler("partial")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="as many x0 as x1"):
        torchcfm.OTPlanSampler("exact").sample_plan(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ShapeError, match=r"expected t of shape \(3,\)"):
        torchcfm.ConditionalFlowMatcher().sample_location_and_conditional_flow(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2))
