"""Every recipe whose maps declare that they compile does so without a graph break, and compiled equals eager (spine-F6)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import flowkit as fk
from flowkit.core.registry import FLOWS
from flowkit.training.loss_module import LossModule

# a solver that chooses its steps by the errors it meets is not one graph
CASES = [(name, label) for name in FLOWS for label, flow in FLOWS[name].examples() if all(step.traits.compiles for step in flow.maps)]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    validate = torch.distributions.Distribution._validate_args
    yield
    torch.distributions.Distribution.set_default_validate_args(validate)


def make(name: str, label: str, dtype: torch.dtype) -> tuple[fk.Flow, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    flow = dict(FLOWS[name].examples())[label].to(dtype)
    for parameter in flow.parameters():
        if parameter.requires_grad:  # the others hold constants
            parameter.data += 0.1 * torch.randn_like(parameter)
    context = None
    if flow.context_shape is not None:
        context = torch.tensor([0, 1, -1, 0, 1, 0]) if flow.context_shape == () else torch.randn(6, *flow.context_shape, dtype=dtype)
    return flow, flow.sample((6,) if context is None else (), context).detach(), context


def parameters() -> Iterator[Any]:
    """Every example in both precisions; by default one of each recipe, in float64, and of the handful that came first in float32 too."""
    seen: set[str] = set()
    for name, label in CASES:
        for dtype in (torch.float64, torch.float32):
            first = name not in seen and (dtype == torch.float64 or name in ("real_nvp", "maf", "neural_spline_flow", "planar_flow"))
            yield pytest.param(name, label, dtype, id=f"{name}-{label}-{str(dtype).removeprefix('torch.')}", marks=[] if first else pytest.mark.slow)
        seen.add(name)


@pytest.mark.parametrize(("name", "label", "dtype"), parameters())
def test_log_prob_and_loss_in_one_graph(name: str, label: str, dtype: torch.dtype) -> None:
    flow, x, context = make(name, label, dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    log_prob = torch.compile(lambda x, c: flow.log_prob(x, c), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(log_prob(x, context), flow.log_prob(x, context), **close)

    module = LossModule(flow, fk.objectives.MaximumLikelihood())
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    gradients = []
    for loss in (module, compiled):
        module.zero_grad()
        value, _ = loss(x, context, len(x), None, {}, None, "main")
        value.backward()
        gradients.append([value.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)])
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager, **close)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", sorted({name for name, _ in CASES} - {"flow", "conditioned"}))
def test_inductor_agrees(name: str) -> None:
    flow, x, context = make(name, next(label for other, label in CASES if other == name), torch.float64)
    compiled = torch.compile(lambda x, c: flow.log_prob(x, c), fullgraph=True)
    torch.testing.assert_close(compiled(x, context), flow.log_prob(x, context), rtol=1e-10, atol=1e-10)
