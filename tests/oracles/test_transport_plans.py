"""Pairings of flow matching against SciPy, POT and closed forms: exact, entropic, unbalanced, by condition (spec continuous C.10.3)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowkit.core.errors import NonFiniteError, ShapeError
from flowkit.interop.torchcfm import OTPlanSampler
from flowkit.kernels.cpu import library
from flowkit.numerics.assignment import assign
from flowkit.numerics.sinkhorn import sinkhorn
from flowkit.objectives._pairings import Pairing, closest, closest_given, squared_distances

DTYPE = torch.float64


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def clusters(n: int, seed: int = 0) -> Tensor:
    """Eight normals on a circle, as in the 2-d benchmark: what makes assignments hard."""
    angle = torch.arange(n, dtype=DTYPE).remainder(8) * math.pi / 4
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.562 * draws(n, 2, seed=seed)


def costs(kind: str, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    if kind == "clusters":
        return squared_distances(draws(n, 2), clusters(n, 1))
    if kind == "ties":
        return torch.randint(0, 4, (n, n), generator=generator).double()
    if kind == "products":
        return torch.arange(n).double().unsqueeze(1) * torch.arange(n)
    if kind == "large":
        return 1e12 + 1e9 * squared_distances(draws(n, 3), draws(n, 3, seed=1))
    if kind == "constant":
        return torch.full((n, n), -2.0, dtype=DTYPE)
    return torch.rand(n, n, generator=generator, dtype=DTYPE)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 33, 64, 200])
@pytest.mark.parametrize("kind", ["clusters", "ties", "products", "large", "constant", "uniform"])
def test_assignment_costs_what_scipys_does(kind: str, n: int) -> None:
    """continuous-C.10.3: a permutation whose cost is that of scipy's linear_sum_assignment."""
    cost = costs(kind, n)
    columns = assign(cost)
    rows, best = linear_sum_assignment(cost.numpy())
    assert torch.equal(columns.sort().values, torch.arange(n))
    assert abs(float(cost[torch.arange(n), columns].sum()) - float(cost.numpy()[rows, best].sum())) <= 1e-12 * float(cost.abs().sum()) / n


def test_assignment_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = costs("clusters", 40)
    compiled = assign(cost)
    monkeypatch.setattr(library, "unavailable", lambda: "no compiler")
    assert torch.equal(assign(cost), compiled)


def test_assignment_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ShapeError, match=r"square"):
        assign(torch.zeros(2, 3))
    cost = torch.zeros(3, 3)
    for bad in (math.nan, math.inf, -math.inf):
        cost[1, 2] = bad
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            assign(cost)
    assert assign(torch.zeros(0, 0)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("x0", "x1"), [(draws(100, 2), 50 + 3 * clusters(100)), (draws(60, 1, 3, 3), draws(60, 1, 3, 3, seed=1)), (draws(80, 1), 1e3 + draws(80, 1, seed=2))]
)
def test_pairs_are_the_best_permutation(x0: Tensor, x1: Tensor, dtype: torch.dtype) -> None:
    """Shifted, scaled, images, one dimension: the least total squared distance, plan marginals uniform to 1e-12."""
    x0, x1 = x0.to(dtype), x1.to(dtype)
    cost = (x1.double().flatten(1).unsqueeze(1) - x0.double().flatten(1)).square().sum(-1)
    rows = closest(x0, x1)
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
    assert abs(float(cost[torch.arange(len(x1)), rows].sum()) - best) <= (1e-12 if dtype == torch.float64 else 1e-6) * best
    plan = OTPlanSampler("exact").get_map(x0, x1)
    assert max(float((plan.sum(axis) - 1 / len(x0)).abs().max()) for axis in (0, 1)) <= 1e-12


@pytest.mark.parametrize("reg", [0.05, 0.5, 5.0, 500.0])
def test_entropic_marginals(reg: float) -> None:
    """continuous-C.10.3: marginals of the entropic plan are uniform to 1e-6, relative to a row's share."""
    found = sinkhorn(squared_distances(draws(50, 2), clusters(60)), reg, max_iterations=20_000)
    assert (found.plan.sum(1) * 50 - 1).abs().max() <= 1.01e-6 and (found.plan.sum(0) * 60 - 1).abs().max() <= 1e-10 and found.error <= 1e-6


def test_entropic_limits() -> None:
    """continuous-C.10.3: reg -> 0 is the permutation, reg -> infinity the independent pairing."""
    x0, x1 = draws(24, 2), clusters(24)
    cost = squared_distances(x0, x1)
    exact = torch.zeros(24, 24, dtype=DTYPE)
    exact[torch.arange(24), assign(cost)] = 1 / 24
    assert (sinkhorn(cost, 3e-4, max_iterations=100_000).plan - exact).abs().max() * 24 <= 1e-4
    assert (sinkhorn(cost, 1e8).plan - 1 / 24**2).abs().max() * 24**2 <= 1e-6


def test_entropic_plan_of_given_masses() -> None:
    """The plan has the scaling form and any masses asked for; a cost shifted by a number gives the same plan."""
    cost = squared_distances(draws(30, 2), clusters(20))
    a, b = torch.rand(30, dtype=DTYPE).softmax(0), torch.rand(20, dtype=DTYPE).softmax(0)
    found = sinkhorn(cost, 0.7, rows=a, columns=b, tolerance=1e-10)
    assert torch.allclose(found.plan.sum(1), a, rtol=1e-9) and torch.allclose(found.plan.sum(0), b, rtol=1e-9)
    form = a.unsqueeze(1) * b * torch.exp((found.row_potential.unsqueeze(1) + found.column_potential - cost) / 0.7)
    assert torch.allclose(found.plan, form, rtol=1e-12)
    assert torch.allclose(sinkhorn(cost - 1e3, 0.7, rows=a, columns=b, tolerance=1e-10).plan, found.plan, rtol=1e-7)


@pytest.mark.parametrize(("reg", "penalty"), [(0.5, None), (0.5, 1.0), (3.0, 10.0)])
def test_plans_of_pot(reg: float, penalty: float | None) -> None:
    """Entropic and unbalanced plans are POT's."""
    ot: Any = pytest.importorskip("ot")
    cost = squared_distances(draws(40, 2), clusters(40))
    a = torch.full((40,), 1 / 40, dtype=DTYPE).numpy()
    if penalty is None:
        theirs = ot.sinkhorn(a, a, cost.numpy(), reg, method="sinkhorn_log", stopThr=1e-12, numItermax=100_000)
        ours = sinkhorn(cost, reg, tolerance=1e-11, max_iterations=100_000).plan
    else:
        theirs = ot.unbalanced.sinkhorn_unbalanced(
            a, a, cost.numpy(), reg, penalty, method="sinkhorn_stabilized", numItermax=50_000, stopThr=1e-13, reg_type="kl"
        )
        ours = sinkhorn(cost, reg, marginal_penalty=penalty, tolerance=1e-11).plan
    assert (ours - torch.from_numpy(theirs)).abs().max() * 40 <= 1e-6


def test_unbalanced_optimality() -> None:
    """First-order conditions of the unbalanced plan at a small reg, where others underflow: f = -penalty log(P 1 / a), g alike."""
    cost = squared_distances(draws(40, 2), clusters(40))
    found = sinkhorn(cost, 0.02, marginal_penalty=1.0, tolerance=1e-11, max_iterations=20_000)
    assert torch.allclose(found.row_potential, -torch.log(found.plan.sum(1) * 40), atol=1e-8)
    assert torch.allclose(found.column_potential, -torch.log(found.plan.sum(0) * 40), atol=1e-8)


def test_unbalanced_pairs_leave_outliers_out() -> None:
    x0, x1 = draws(64, 2), draws(64, 2, seed=1)
    x1[:4] += 100
    rows = Pairing.of("unbalanced", "test").rows(x0, x1, None, torch.Generator().manual_seed(0))
    assert rows.data is not None and rows.noise is not None and int((rows.data < 4).sum()) == 0 and len(rows.noise) == 64


def test_entropic_pairs_follow_the_plan() -> None:
    """Every row of data is used once; partners are drawn with the plan's probabilities: 600 draws of 4 rows, total variation below 6 %."""
    x0, x1 = draws(4, 2), draws(4, 2, seed=1)
    pairing, generator = Pairing.of({"name": "sinkhorn", "reg": 1.0}, "test"), torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 4, dtype=DTYPE)
    for _ in range(600):
        rows = pairing.rows(x0, x1, None, generator)
        assert rows.data is None and rows.noise is not None
        counts[rows.noise, torch.arange(4)] += 1
    plan = sinkhorn(squared_distances(x0, x1), 1.0).plan
    assert (counts / counts.sum() - plan).abs().sum() / 2 <= 0.06


def test_pairs_by_label() -> None:
    """conditional_ot: the best permutation within every label, by scipy label by label."""
    labels = torch.arange(90) % 3
    x0, x1 = draws(90, 2), clusters(90)
    rows = closest_given(x0, x1, labels, 1.0)
    assert torch.equal(labels[rows], labels) and torch.equal(rows.sort().values, torch.arange(90))
    cost, total = squared_distances(x1, x0), 0.0
    for label in range(3):
        part = cost[labels == label][:, labels == label].numpy()
        total += part[linear_sum_assignment(part)].sum()
    assert abs(float(cost[torch.arange(90), rows].sum()) - total) <= 1e-12 * total


def test_pairs_by_vector_condition() -> None:
    """conditional_ot is the assignment of |x0 - x1|^2 + weight |c0 - c1|^2: plain pairing at weight 0, order of arrival at infinity; dicts add up."""
    x0, x1, c = 3 + 2 * draws(50, 2), clusters(50), draws(50, 3, seed=5)
    for weight in (0.3, 4.0):
        cost = squared_distances(x1, x0) + weight * squared_distances(c, c)
        best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
        for context in (c, {"a": c[:, :1], "b": c[:, 1:]}):
            rows = closest_given(x0, x1, context, weight)
            assert abs(float(cost[torch.arange(50), rows].sum()) - best) <= 1e-12 * best
    assert torch.equal(closest_given(x0, x1, c, 1e-12), closest(x0, x1)) and torch.equal(closest_given(x0, x1, c, 1e9), torch.arange(50))


def test_conditional_pairing_keeps_the_noise_free_of_the_condition() -> None:
    """Plain pairing makes the noise of a label lean towards its data; pairing within labels does not (Cheng and Schwing 2025)."""
    labels = torch.arange(256) % 2
    x1 = torch.where(labels == 0, -4.0, 4.0).unsqueeze(1).double() + draws(256, 2, seed=3)
    x0 = draws(256, 2)
    lean = {name: float(x0[rows][labels == 1].mean()) for name, rows in (("ot", closest(x0, x1)), ("label", closest_given(x0, x1, labels, 1.0)))}
    assert lean["ot"] > 0.4 and abs(lean["label"]) < 0.2
