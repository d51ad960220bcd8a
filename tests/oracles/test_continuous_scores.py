"""Scores carried along continuous flows against autograd through solutions taken back (physics-A3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import Continuous
from flowkit.continuous import GradientField, MLPField
from flowkit.core.objective import Batch
from flowkit.numerics.divergence import draw_probes
from flowkit.testing._case import prepared

D = torch.float64


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=D)


def far(value: Tensor, wanted: Tensor) -> float:
    """Largest difference over the larger of 1 and the largest entry."""
    return float((value - wanted).detach().abs().max() / wanted.detach().abs().max().clamp(min=1))


def reverse_rk4(field: Any, x: Tensor, score: Callable[[Tensor], Tensor], steps: int = 200) -> Tensor:
    """grad_x of log q(x), log q by 200 steps of RK4 back to time 0 and the traces of dense Jacobians: plain torch, nothing of the solver."""
    point = x.detach().requires_grad_()

    def slopes(t: float, y: Tensor) -> tuple[Tensor, Tensor]:
        v = field.velocity(torch.tensor(t, dtype=D), y)
        rows = [torch.autograd.grad(v[:, i].sum(), y, create_graph=True)[0][:, i] for i in range(y.shape[-1])]
        return v, torch.stack(rows).sum(0)

    y, total, h = point, torch.zeros(len(x), dtype=D), -1.0 / steps
    for k in range(steps):
        t, at, found = 1.0 + k * h, y, list[tuple[Tensor, Tensor]]()
        for share in (0.5, 0.5, 1.0, 0.0):
            found.append(slopes(t + h * (0.0, 0.5, 0.5, 1.0)[len(found)], at))
            at = y + share * h * found[-1][0]
        weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
        y = y + h * sum(w * v for w, (v, _) in zip(weights, found, strict=True))
        total = total + h * sum(w * divergence for w, (_, divergence) in zip(weights, found, strict=True))
    (found_score,) = torch.autograd.grad((y * score(y.detach())).sum() + total.sum(), point)
    return found_score


def test_score_of_a_continuous_flow() -> None:
    """physics-A3: the augmented equation against autograd through reverse RK4 of 200 steps, to 1e-8, for the field's own trace and for products."""
    f = prepared(Continuous(MLPField(2, (8, 8)), solver="dopri8", rtol=1e-11, atol=1e-11))
    z = normal(4, 2)
    x, log_det, score = f.push_score(z, -z)
    wanted = reverse_rk4(f.field, x, lambda y: -y)
    assert far(score, wanted) < 1e-8
    f.divergence = "exact"
    assert far(f.push_score(z, -z)[2], wanted) < 1e-8
    with torch.no_grad():
        back, log_det_back, latent = f.pull_score(x, score)
    assert far(back, z) < 1e-9
    assert far(log_det_back, -log_det) < 1e-9
    assert far(latent, -z) < 1e-8


@pytest.mark.parametrize("method", [{"solver": "rk4", "steps": 5}, {"solver": "dopri5", "rtol": 1e-3, "atol": 1e-3}], ids=["fixed", "controlled"])
def test_score_takes_the_steps_of_the_call(method: dict[str, Any]) -> None:
    """Coarse steps show it: the equation with the score follows the same places as the call, which its error therefore does not change."""
    f = prepared(Continuous(GradientField(2, (8,)), **method))
    z = 3 * normal(6, 2)
    plain = f(z)
    for score in (-z, 1e3 * torch.ones_like(z)):
        recorded = f.push_score(z, score)
        with torch.no_grad():
            silent = f.push_score(z, score)
        for place, log_det, _ in (recorded, silent):
            assert torch.equal(place, plain[0])
            assert torch.equal(log_det, plain[1])
        assert torch.equal(recorded[2], silent[2])


@pytest.mark.parametrize("inverse", [False, True])
def test_score_of_an_estimated_divergence(inverse: bool) -> None:
    """physics-A3 with Hutchinson's estimate: the score is that of the estimate with the very probes of log_det."""
    f = prepared(Continuous(GradientField(3, (8,)), divergence="hutchinson", solver="dopri8", rtol=1e-11, atol=1e-11))
    z = normal(5, 3)
    x, log_det, score = (f.pull_score if inverse else f.push_score)(z, -z, generator=torch.Generator().manual_seed(7))
    probes = draw_probes(z, 1, generator=torch.Generator().manual_seed(7))
    point = x.detach().requires_grad_()
    back = f.transport(point, inverse=not inverse, probes=probes)
    (wanted,) = torch.autograd.grad((-z * back.value).sum() + back.log_det.sum(), point)
    assert far(log_det, -back.log_det) < 1e-8
    assert far(score, wanted) < 1e-8


def test_path_gradient_of_a_continuous_flow() -> None:
    """physics-A3: ReverseKL's path gradient of a continuous flow is that of two passes, and vanishes at q = p where "total" does not."""
    torch.manual_seed(0)
    flow = fk.flows.ContinuousFlow(features=2, hidden=(8, 8), rtol=1e-8, atol=1e-8).double()
    found = {}
    for gradient in ("path", "path_two_pass", "total"):
        flow.zero_grad()
        objective = fk.objectives.ReverseKL(flow, gradient=gradient)
        objective.loss(flow, Batch(size=16), torch.Generator().manual_seed(1)).value.backward()
        found[gradient] = torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])
    assert float(found["path"].abs().max()) < 1e-5 * float(found["total"].abs().max())
    assert float((found["path"] - found["path_two_pass"]).abs().max()) < 1e-5 * float(found["total"].abs().max())
