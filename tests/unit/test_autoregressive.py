"""Autoregressive splines in sixteen dimensions (spine-F4)."""

from __future__ import annotations

import pytest
import torch

import flowkit as fk


@pytest.fixture(scope="module")
def flow() -> fk.Flow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = fk.flows.NeuralSplineFlow(16, layers=3, hidden=(64, 64), autoregressive=True)
        for parameter in flow.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return flow.double()


def test_sample_and_log_prob_agree(flow: fk.Flow) -> None:
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob((256,), generator=torch.Generator().manual_seed(1))
        z = flow.to_latent(x)
        assert (flow.log_prob(x) - log_prob).abs().max() < 1e-9
        assert (flow.to_data(z) - x).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_row_changes_no_other_row(flow: fk.Flow, dtype: torch.dtype) -> None:
    flow = fk.core.build.build(flow.describe(), fk.Flow).to(dtype)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(33, 16, generator=generator, dtype=dtype)
    other = x.clone()
    other[7] = 100.0 * torch.randn(16, generator=generator, dtype=dtype)
    rest = torch.arange(33) != 7
    with torch.no_grad():
        for call in (flow.log_prob, flow.to_latent, flow.to_data):
            assert torch.equal(call(x)[rest], call(other)[rest])
            assert not torch.equal(call(x)[7], call(other)[7])
