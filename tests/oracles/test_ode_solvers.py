"""The ODE engine against exact solutions and torchdiffeq."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError, IntegrationError, NonFiniteError, ShapeError, UnknownNameError
from flowkit.numerics.ode import AsynchronousLeapfrog, Reversible, ReversibleHeun, first_event, solve
from flowkit.numerics.ode.compat import odeint
from flowkit.numerics.ode.tableau import TABLEAUS

torchdiffeq = pytest.importorskip("torchdiffeq")
D = torch.float64


def bent(t: Tensor, y: Tensor) -> Tensor:
    """Non-linear, so that no scheme gains an order by chance."""
    return torch.cos(3 * t) - y**3 + y * torch.sin(2 * t)


ZERO = torch.zeros(1, dtype=D)


@pytest.fixture(scope="module")
def exact() -> Tensor:
    return solve(bent, ZERO, (0.0, 2.0), method="dopri8", rtol=1e-13, atol=1e-13).ys[-1]


METHODS = {
    "euler": ("euler", 0.9, 1.1),
    "midpoint": ("midpoint", 1.8, 2.2),
    "heun2": ("heun2", 1.8, 2.1),
    "heun3": ("heun3", 2.6, 3.1),
    "bosh3": ("bosh3", 2.6, 3.2),
    "rk4": ("rk4", 3.8, 4.2),
    "reversible_rk4": (Reversible("rk4", 0.9), 3.8, 4.2),
    "reversible_rk4_close": (Reversible("rk4", 0.999), 3.0, 4.5),
    "reversible_midpoint": (Reversible("midpoint"), 1.9, 2.5),
    "alf": (AsynchronousLeapfrog(), 1.5, 2.5),
    "reversible_heun": (ReversibleHeun(), 1.9, 2.5),
    "dopri5": ("dopri5", 4.7, 5.3),
}


@pytest.mark.parametrize("name", METHODS)
def test_orders(name: str, exact: Tensor) -> None:
    """continuous-E.6.1: the slope of the error over n = 40 .. 320."""
    method, low, high = METHODS[name]
    errors = [float((solve(bent, ZERO, (0.0, 2.0), method=method, steps=n).ys[-1] - exact).abs()) for n in (40, 320)]
    assert low <= math.log2(errors[0] / errors[1]) / 3 <= high


def test_high_order_conditions() -> None:
    """dopri8 and tsit5 integrate polynomials of their order exactly and reach their order on the bent problem with few steps."""
    for name in ("dopri8", "tsit5"):
        tableau = TABLEAUS[name]
        for power in range(tableau.order):
            total = sum(b * c**power for b, c in zip(tableau.b, tableau.c, strict=True))
            assert abs(total - 1 / (power + 1)) < 1e-14
        for row, c in zip(tableau.a, tableau.c[1:], strict=True):
            assert abs(sum(row) - c) < 1e-13
    reference = solve(bent, ZERO, (0.0, 2.0), method="dopri5", steps=2000).ys[-1]
    errors = [float((solve(bent, ZERO, (0.0, 2.0), method="dopri8", steps=n).ys[-1] - reference).abs()) for n in (10, 20)]
    assert math.log2(errors[0] / errors[1]) > 7


@pytest.mark.parametrize("name", ["euler", "rk4", "midpoint"])
def test_fixed_grid_equals_torchdiffeq(name: str) -> None:
    """continuous-E.6.2: same tableau, same grid."""
    grid = torch.linspace(0, 2, 41, dtype=D)
    ours = solve(bent, ZERO, grid, method=name, steps=1).ys
    theirs = torchdiffeq.odeint(bent, ZERO, grid, method=name)
    assert float((ours - theirs).abs().max()) <= 1e-12
    assert torch.equal(odeint(bent, ZERO, grid, method=name), ours)


def test_dopri5_against_torchdiffeq(exact: Tensor) -> None:
    """continuous-E.6.2: dopri5 at 1e-8 within ten tolerances, evaluations within 10 %."""
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return bent(t, y)

    ends = torch.tensor([0.0, 2.0], dtype=D)
    theirs = torchdiffeq.odeint(counted, ZERO, ends, rtol=1e-8, atol=1e-8, method="dopri5")[-1]
    solution = solve(bent, ZERO, ends, rtol=1e-8, atol=1e-8)
    assert float((solution.ys[-1] - theirs).abs()) <= 1e-7
    assert abs(solution.stats.nfe - calls) <= 0.1 * calls
    through = solve(bent, ZERO, ends, rtol=1e-8, atol=1e-8, method="torchdiffeq:dopri5")
    assert torch.equal(through.ys[-1], theirs) and through.stats.nfe == calls


def test_counts_are_exact() -> None:
    """continuous-E.6.7: the reported evaluations are those made: adaptive, fixed, per sample, reversible, dense and reflected."""
    walls: dict[str, Any] = {"boundary": Box(-0.2, 0.2), "rtol": 1e-4}
    cases: list[dict[str, Any]] = [
        {"steps": 7, "method": "rk4"},
        {"steps": 5},
        {},
        {"method": "bosh3", "rtol": 1e-4},
        {"method": "heun2", "rtol": 1e-3, "atol": 1e-3},
        {"method": "alf", "steps": 6},
        {"method": "alf", "rtol": 1e-3, "atol": 1e-3},
        {"method": "reversible_heun", "steps": 6},
        {"method": Reversible("heun2"), "rtol": 1e-3, "atol": 1e-3},
        {"dense": True},
        {"dense": True, "method": "rk4", "steps": 5},
        {**walls, "on_failure": "partial", "max_steps": 200},
        {**walls, "method": "heun3", "steps": 40},
    ]
    for controls in [*cases, *({**case, "per_sample": True} for case in cases)]:
        calls = 0

        def counted(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return bent(t, y)

        stats = solve(counted, ZERO, (0.0, 2.0), **controls).stats
        assert int(stats.nfe) == calls, controls
        assert "boundary" not in controls or int(stats.hits) > 0


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return torch.stack([y[..., 1], mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)


def test_samples_are_independent() -> None:
    """continuous-E.6.5: a sample's result does not depend on the rest, bit for bit, and mild ones do not pay for stiff ones."""
    y0 = torch.tensor([2.0, 0.0], dtype=D).expand(64, 2).clone()
    mu = torch.cat([torch.ones(60), torch.full((4,), 30.0)]).to(D)
    rows = 0

    def counted(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        nonlocal rows
        rows += y.shape[0]
        return van_der_pol(t, y, mu)

    own = solve(counted, y0, (0.0, 10.0), args=(mu,), per_sample=True)
    apart, rows = rows, 0
    solve(counted, y0, (0.0, 10.0), args=(mu,))
    assert apart <= 0.6 * rows
    other = mu.clone()
    other[10:] = 5.0
    again = solve(van_der_pol, y0, (0.0, 10.0), args=(other,), per_sample=True)
    assert torch.equal(own.ys[-1][:10], again.ys[-1][:10])
    assert torch.equal(own.stats.nfe[:10], again.stats.nfe[:10])


def test_independent_under_a_network() -> None:
    """continuous-E.6.5 for a field of matrix products, float32."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
    y0 = torch.randn(64, 2)
    with torch.no_grad():
        whole = solve(lambda t, y: 5 * net(y), y0, (0.0, 1.0), per_sample=True).ys[-1]
        changed = torch.cat([y0[:16], 100 * y0[16:]])
        assert torch.equal(solve(lambda t, y: 5 * net(y), changed, (0.0, 1.0), per_sample=True).ys[-1][:16], whole[:16])


def test_dense_output(exact: Tensor) -> None:
    """continuous-E.6.6: the interpolant of dopri5 has order 4."""
    times = torch.linspace(0.05, 1.95, 39, dtype=D)
    errors = []
    for steps in (10, 20, 40):
        path = solve(bent, ZERO, (0.0, 2.0), steps=steps, dense=True).interpolant
        assert path is not None
        wanted = solve(bent, ZERO, torch.cat([torch.zeros(1, dtype=D), times]), method="dopri8", rtol=1e-12, atol=1e-12).ys[1:]
        errors.append(max(float((path(t) - y).abs()) for t, y in zip(times, wanted, strict=True)))
    assert math.log2(errors[0] / errors[2]) / 2 > 3.7
    assert torch.isnan(path(2.5)).all()


def test_bouncing_ball() -> None:
    """continuous-E.6.6: the time of an event to 1e-8, its gradient to 1e-6, and no event said so."""
    height, speed = torch.tensor([10.0, 3.0], dtype=D, requires_grad=True), torch.tensor([1.0, -2.0], dtype=D, requires_grad=True)
    g = 9.81

    def falling(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], torch.full_like(y[:, 1], -g)], 1)

    met = first_event(falling, torch.stack([height, speed], 1), (0.0, 5.0), lambda t, y: y[:, 0], rtol=1e-10, atol=1e-10)
    wanted = (speed + (speed**2 + 2 * g * height).sqrt()) / g
    assert float((met.t - wanted).detach().abs().max()) <= 1e-8
    found, exact = torch.autograd.grad(met.t.sum(), (height, speed), retain_graph=True), torch.autograd.grad(wanted.sum(), (height, speed))
    assert max(float((a - b).abs().max()) for a, b in zip(found, exact, strict=True)) <= 1e-6
    impact = torch.autograd.grad(met.y[:, 1].sum(), height)[0]
    assert torch.allclose(impact, -g / (speed**2 + 2 * g * height).sqrt(), atol=1e-6)
    with pytest.raises(IntegrationError, match=r"no event between t = 0 and 0\.1 for sample 0, 2 of 2"):
        first_event(falling, torch.stack([height, speed], 1).detach(), (0.0, 0.1), lambda t, y: y[:, 0])


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operations += 1
        self.reads += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_operations_of_a_step() -> None:
    """continuous-E.6.8: an adaptive step takes at most 60 tensor operations and one read, apart from the field's."""
    y0 = torch.randn(8, 3, dtype=D)
    matrix = torch.randn(3, 3, dtype=D)
    counts = []
    for end in (5.0, 20.0):
        with _Count() as count:
            stats = solve(lambda t, y: y @ matrix - y**3, y0, (0.0, end)).stats
        counts.append((count.operations, count.reads, stats.accepted + stats.rejected, stats.nfe))
    steps, calls = counts[1][2] - counts[0][2], counts[1][3] - counts[0][3]
    assert steps > 5
    assert (counts[1][0] - counts[0][0] - 3 * calls) / steps <= 60
    assert (counts[1][1] - counts[0][1]) / steps <= 1


def test_controllers_agree(exact: Tensor) -> None:
    for controller in ("I", "PI", "PID"):
        found = solve(bent, ZERO, (0.0, 2.0), rtol=1e-9, atol=1e-9, controller=controller)
        assert float((found.ys[-1] - exact).abs()) <= 1e-7
        assert found.stats.accepted < 60


def test_members_and_seminorm() -> None:
    """A tuple state keeps its shapes, and a member with an infinite tolerance takes no part in the control."""

    def field(t: Tensor, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return -x, 1e6 * torch.sin(40 * t) * torch.ones_like(total)

    y0 = (torch.ones(3, 2, dtype=D), torch.zeros(3, dtype=D))
    free = solve(field, y0, (0.0, 1.0), atol=(1e-6, math.inf), rtol=1e-6, per_sample=True)
    bound = solve(field, y0, (0.0, 1.0), atol=(1e-6, 1e-6), rtol=1e-6, per_sample=True)
    assert free.ys[0].shape == (2, 3, 2) and free.ys[1].shape == (2, 3)
    assert int(free.stats.nfe.max()) < 0.5 * int(bound.stats.nfe.max())


def test_backwards_and_many_times() -> None:
    times = torch.tensor([2.0, 1.3, 0.2, 0.0], dtype=D)
    found = solve(lambda t, y: y, torch.ones(2, 1, dtype=D), times, rtol=1e-10, atol=1e-10, per_sample=True).ys
    assert torch.allclose(found[:, 0, 0], torch.exp(times - 2), atol=1e-9)
    assert torch.equal(found[0], torch.ones(2, 1, dtype=D))


def test_errors_name_time_sample_and_remedy() -> None:
    """O-7: stiff and broken fields, wrong times, wrong names."""
    y0 = torch.ones(4, 1, dtype=D)
    rate = torch.tensor([1.0, 1.0, 400.0, 1.0], dtype=D) / 10

    def blows_up(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return torch.where(a.unsqueeze(1) > 2, y * y, -y)

    with pytest.raises((NonFiniteError, IntegrationError), match=r"at t = (0\.99|1).*sample 2, 1 of 4 samples"):
        solve(blows_up, y0, (0.0, 2.0), args=(rate,), per_sample=True)
    partial = solve(blows_up, y0, (0.0, 2.0), args=(rate,), per_sample=True, on_failure="partial")
    assert partial.stats.status.tolist()[2] != 0 and float((partial.ys[-1][0] - math.exp(-2)).abs()) < 1e-4
    with pytest.raises(IntegrationError, match=r"more than max_steps = 20 steps, stopped at t = .*sample 2.*loosen rtol"):
        solve(lambda t, y, a: (a * torch.cos(a * t)).unsqueeze(1), y0, (0.0, 20.0), args=(rate,), per_sample=True, max_steps=20)
    with pytest.raises(NonFiniteError, match="not finite after t = "):
        solve(lambda t, y: torch.where(t > 0.5, torch.nan, 1.0) * y, y0, (0.0, 1.0))
    with pytest.raises(NonFiniteError, match="not finite"):
        solve(lambda t, y: y / 0, y0, (0.0, 1.0), method="rk4", steps=3)
    with pytest.raises(ConfigError, match="strictly increasing or strictly decreasing"):
        solve(lambda t, y: y, y0, (0.0, 1.0, 0.5))
    with pytest.raises(ConfigError, match="rk4 has no error estimate: give steps="):
        solve(lambda t, y: y, y0, (0.0, 1.0), method="rk4")
    with pytest.raises(UnknownNameError, match="Nearest: 'dopri8'"):
        solve(lambda t, y: y, y0, (0.0, 1.0), method="dopri")
    with pytest.raises(ShapeError, match=r"shapes \[\(4, 1\)\]"):
        solve(lambda t, y: y.sum(), y0, (0.0, 1.0))
    with pytest.raises(ConfigError, match="cannot be taken back"):
        solve(lambda t, y: y, y0, (0.0, 1.0), adjoint="reversible")


def test_events_take_one_look_at_each_step() -> None:
    """Work on an event grows with the steps, not with their square."""
    y0, places = torch.tensor([[0.0], [0.01]], dtype=D), []

    def event(t: Tensor, y: Tensor) -> Tensor:
        return y[:, 0] - 0.3

    for n in (40, 160):
        with _Count() as count:
            met = first_event(lambda t, y: torch.full_like(y, 0.35), y0, (0.0, 1.0), event, method="rk4", steps=n)
        places.append(count.operations)
        assert torch.allclose(met.t, (0.3 - y0[:, 0]) / 0.35, atol=1e-12)
    assert places[1] <= 4.2 * places[0]


def test_states_and_fields_of_any_make() -> None:
    """Numbers as states, slopes in a buffer that is used again, slopes of another dtype."""
    assert float((odeint(lambda t, y: -y, torch.tensor(1.0, dtype=D), torch.tensor([0.0, 1.0], dtype=D))[-1] - math.exp(-1)).abs()) < 1e-6
    buffer = torch.empty(3, 1, dtype=D)
    for per_sample in (True, False):
        y = solve(lambda t, y: torch.neg(y, out=buffer), torch.ones(3, 1, dtype=D), (0.0, 1.0), per_sample=per_sample, rtol=1e-8, atol=1e-8, params=()).ys[-1]
        assert float((y - math.exp(-1)).abs().max()) < 1e-6
    assert solve(lambda t, y: -y.double(), torch.ones(2), (0.0, 1.0)).ys.dtype == torch.float32
    with pytest.raises(ShapeError, match="expected the field to return a tensor"):
        solve(lambda t, y: 1.0, torch.ones(2), (0.0, 1.0))
    with pytest.raises(ShapeError, match=r"first axis of args\[0\]"):
        solve(lambda t, y, a: y, torch.ones(4, 1), (0.0, 1.0), args=(torch.ones(1, 2),), per_sample=True)


def test_event_at_a_scanned_place_and_rows_without_one() -> None:
    """A value that is exactly zero where it is looked at counts; rows without an event have zero gradients, not NaN."""
    met = first_event(lambda t, y: torch.ones_like(y), torch.tensor([[-1.0]], dtype=D), (0.0, 2.0), lambda t, y: y[:, 0], method="midpoint", steps=1)
    assert float((met.t - 1).abs()) < 1e-9
    y0 = torch.tensor([[1.0], [0.0]], dtype=D, requires_grad=True)
    met = first_event(lambda t, y: -y, y0, (0.0, 2.0), lambda t, y: y[:, 0] - 0.5, missing="last")
    (gradient,) = torch.autograd.grad(met.t.sum(), y0)
    assert met.found.tolist() == [True, False] and torch.allclose(gradient, torch.tensor([[1.0], [0.0]], dtype=D), atol=1e-6)
