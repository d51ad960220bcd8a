"""Dropping contexts in training, and guidance of every flow that has a velocity field."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.core.domain import Box, Sphere
from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch
from flowkit.flows import AverageVelocityFlow, ContinuousFlow, InterpolantFlow, ReflectedFlow, RiemannianFlow
from flowkit.objectives import ConsistencyTraining, FlowMatching, MeanFlow, ReflectedFlowMatching, RiemannianFlowMatching, StochasticInterpolant


def seeded(offset: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(offset)


PAIRS: dict[str, tuple[Any, Any]] = {
    "flow_matching": (FlowMatching, lambda: ContinuousFlow(3, hidden=(8, 8), classes=3)),
    "stochastic_interpolant": (StochasticInterpolant, lambda: InterpolantFlow(3, hidden=(8, 8), classes=3)),
    "consistency_training": (ConsistencyTraining, lambda: AverageVelocityFlow(3, hidden=(8, 8), classes=3)),
    "mean_flow": (MeanFlow, lambda: AverageVelocityFlow(3, hidden=(8, 8), classes=3)),
    "reflected_flow_matching": (ReflectedFlowMatching, lambda: ReflectedFlow(Box(-1.0, 1.0, 3), (8, 8), classes=3)),
    "riemannian_flow_matching": (RiemannianFlowMatching, lambda: RiemannianFlow(Sphere(2), (8, 8), classes=3)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_contexts_are_dropped_in_training_alone(name: str) -> None:
    """continuous-C.10.10: the share of rows seen without their label is label_drop while the objective trains, and none in evaluation."""
    kind, made = PAIRS[name]
    torch.manual_seed(0)
    flow: Any = made()
    x = torch.nn.functional.normalize(torch.randn(4000, 3, generator=seeded()), dim=-1).clamp(-0.99, 0.99)
    x = torch.nn.functional.normalize(x, dim=-1) * (0.9 if name.startswith("reflected") else 1.0)
    batch = Batch(x, torch.full((4000,), 2))
    objective, plain = kind(label_drop=0.25), kind(label_drop=0.0)
    none, seen = flow.class_embedding(torch.tensor(-1)), []

    def watch(module: Any, inputs: Any, output: Tensor) -> None:
        share = float((output == none).all(-1).float().mean())
        if 0 < share < 1:  # mean flows embed all and none too
            seen.append(share)

    flow.class_embedding.register_forward_hook(watch)
    objective.loss(flow, batch, seeded(1))
    assert len(seen) == 1 and abs(seen[0] - 0.25) < 0.03
    for each in (objective, plain):
        each.eval()
    assert torch.equal(objective.loss(flow, batch, seeded(1)).value, plain.loss(flow, batch, seeded(1)).value) and len(seen) == 1


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "mean_flow"])
def test_nothing_to_drop(name: str) -> None:
    """O-7: a share without a context, and shares that are none."""
    kind, _ = PAIRS[name]
    x = torch.eye(3) * 0.5 if name.startswith("reflected") else torch.eye(3)
    bare: Any = {"reflected_flow_matching": lambda: ReflectedFlow(Box(-1.0, 1.0, 3), (8,)), "riemannian_flow_matching": lambda: RiemannianFlow(Sphere(2), (8,))}
    flow = bare.get(name, lambda: {FlowMatching: ContinuousFlow, StochasticInterpolant: InterpolantFlow}.get(kind, AverageVelocityFlow)(3, hidden=(8,)))()
    with pytest.raises(ConfigError, match="label_drop needs a context"):
        kind(label_drop=0.1).loss(flow, Batch(x))
    with pytest.raises(ConfigError, match=r"expected label_drop in \[0, 1\)"):
        kind(label_drop=1.0)


def test_guided_stochastic_paths() -> None:
    """continuous-C.10.10: both fields of an interpolant are guided, so that the SDE at scales 0 and 1 is the unconditional and the conditional one."""
    torch.manual_seed(0)
    for predicts in ("denoiser", "score"):
        flow = InterpolantFlow(2, hidden=(8, 8), classes=3, predicts=predicts)  # type: ignore[arg-type]
        label, none = torch.tensor(2), torch.tensor(-1)

        def draw(flow: Any, label: Tensor) -> Tensor:
            drawn: Tensor = flow.sample_sde(20, label, seeded(), steps=5)
            return drawn

        assert torch.equal(draw(flow.guided(0.0), label), draw(flow, none))
        assert torch.equal(draw(flow.guided(1.0), label), draw(flow, label))
        assert not torch.allclose(draw(flow.guided(3.0), label), draw(flow, label))
        assert torch.equal(draw(flow.guided(0.0).with_solver(rtol=1e-3), label), draw(flow, none))  # type: ignore[attr-defined]
        assert flow.noise_field is not None and type(flow.noise_field).__name__ == "MLPField"


def test_guided_manifold_flows() -> None:
    """continuous-C.10.10 on a sphere: scales 0 and 1 bit for bit, samples on the manifold at any scale, a density that integrates the guided field."""
    torch.manual_seed(0)
    for options in ({"steps": 8}, {"solver": "dopri5", "steps": None}):
        flow = RiemannianFlow(Sphere(2), (8, 8), classes=3, **options)  # type: ignore[arg-type]
        labels, none, z = torch.tensor([0, 2, 1, 2]), torch.full((4,), -1), flow.base.sample(4, generator=seeded())
        assert torch.equal(flow.guided(0.0).to_data(z, labels), flow.to_data(z, none))
        assert torch.equal(flow.guided(1.0).to_data(z, labels), flow.to_data(z, labels))
        strong = flow.guided(4.0)
        x = strong.to_data(z, labels)
        assert flow.domain.contains(x).all() and not torch.allclose(x, flow.to_data(z, labels))
        assert torch.allclose(strong.to_latent(x, labels), z, atol=1e-3) and strong.with_solver(rtol=1e-3).log_prob(x, labels).shape == (4,)
    with pytest.raises(ConfigError, match=r"RiemannianFlow.guided: expected a flow with a context"):
        RiemannianFlow(Sphere(2), (8,)).guided(2.0)
    with pytest.raises(ConfigError, match="scale to be a finite number"):
        flow.guided(float("nan"))


def test_guiding_leaves_the_mode_of_the_shared_field() -> None:
    flow = RiemannianFlow(Sphere(2), (8,), classes=2)
    other = copy.copy(flow).eval()
    flow.field.train()
    assert not other.guided(2.0).bijector.training and flow.field.training
