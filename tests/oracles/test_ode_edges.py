"""The ODE engine where things go wrong or meet a wall, and torchdiffeq's methods behind it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowkit.core.checks import checks
from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError, NonFiniteError
from flowkit.numerics.ode import Reversible, solve

pytest.importorskip("torchdiffeq")
D = torch.float64
ZERO = torch.zeros(1, dtype=D)


def bent(t: Tensor, y: Tensor) -> Tensor:
    """A field without symmetries."""
    return torch.cos(3 * t) - y**3 + y * torch.sin(2 * t)


def test_failures_are_never_silent() -> None:
    """Where values are not looked at, rows that failed are NaN after the start; the others are what they are, and "partial" keeps the last state."""
    y0 = torch.ones(2, 1, dtype=D)
    rate = torch.tensor([[50.0], [0.01]], dtype=D)

    def field(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return -a * y

    with checks(values=False):
        own = solve(field, y0, (0.0, 1.0), args=(rate,), per_sample=True, max_steps=3)
        assert own.stats.status.tolist() == [1, 0]
        assert torch.isnan(own.ys[-1][0]).all() and abs(float(own.ys[-1][1]) - math.exp(-0.01)) < 1e-5 and torch.equal(own.ys[0], y0)
        assert torch.isnan(solve(field, y0, (0.0, 1.0), args=(rate,), max_steps=3).ys[-1]).all()
        assert not torch.isnan(solve(field, y0, (0.0, 1.0), args=(rate,), max_steps=3, on_failure="partial").ys[-1]).any()
        assert torch.isnan(solve(lambda t, y: y / 0, y0, (0.0, 1.0), method="torchdiffeq:rk4", steps=2).ys[-1]).all()
    with pytest.raises(NonFiniteError):
        solve(lambda t, y: y / 0, y0, (0.0, 1.0), method="torchdiffeq:rk4", steps=2)


@pytest.mark.parametrize("per_sample", [False, True])
def test_broken_from_the_start(per_sample: bool) -> None:
    """A field without a value at t = 0, or right after, is called not finite, not stiff; a component that stays zero has no error at atol = 0."""
    y0 = torch.ones(2, 1, dtype=D)
    for field in (lambda t, y: y * torch.nan, lambda t, y: torch.where(t.reshape(-1, 1) > 0, torch.nan, 1.0) * y):
        with pytest.raises(NonFiniteError, match="not finite after t = 0 "):
            solve(field, y0, (0.0, 1.0), per_sample=per_sample, max_steps=100)
    pair = torch.tensor([[1.0, 0.0]], dtype=D)
    found = solve(lambda t, y: -y, pair, (0.0, 1.0), rtol=1e-8, atol=0.0, per_sample=per_sample)
    assert torch.allclose(found.ys[-1], pair * math.exp(-1), rtol=1e-7)
    rising = solve(lambda t, y: torch.ones_like(y), pair, (0.0, 1.0), rtol=1e-8, atol=0.0, per_sample=per_sample)
    assert torch.allclose(rising.ys[-1], pair + 1)


def test_boundaries() -> None:
    """continuous-A.4: dense output is folded, joint solves count every sample's reflections, and methods that carry more than the state are refused."""
    y0, box = torch.tensor([[0.3], [-0.5], [0.9]], dtype=D), Box(-1.0, 1.0, 1)
    controls: dict[str, Any] = {"args": ((1 - y0) / 1.2,), "method": "rk4", "steps": 1, "boundary": box}

    def field(t: Tensor, y: Tensor, turn: Tensor) -> Tensor:
        return torch.where(t.reshape(-1, 1) <= turn, 1.2, -1.2).to(y)  # straight to the wall and straight back

    apart = solve(field, y0, (0.0, 1.0), per_sample=True, dense=True, **controls)
    whole = solve(field, y0, (0.0, 1.0), dense=True, **controls)
    assert apart.stats.hits.tolist() == [1, 0, 1] and whole.stats.hits == 2
    for solution in (apart, whole):
        assert solution.interpolant is not None
        for t in (0.3, 0.8, 1.0):
            assert torch.allclose(solution.interpolant(t), box.reflect(y0, torch.full_like(y0, 1.2 * t)).x, atol=1e-12)
    for method in ("alf", "reversible_heun", Reversible("rk4")):
        with pytest.raises(ConfigError, match="knows no boundary"):
            solve(lambda t, y: y, y0, (0.0, 1.0), method=method, steps=3, boundary=box)


def test_reflected_steps_are_independent() -> None:
    """continuous-E.6.5 at a wall: another sample's reflection changes no bit of this one's result nor of its counts."""
    near, far = torch.tensor([[0.1, 0.2]], dtype=D), torch.tensor([[0.1, 0.2], [0.95, -0.9]], dtype=D)
    options: dict[str, Any] = {"boundary": Box(-1.0, 1.0, 2), "per_sample": True, "rtol": 1e-6, "atol": 1e-6, "max_steps": 300, "on_failure": "partial"}

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(3 * y.flip(1)) * torch.cos(5 * t).unsqueeze(1) + y

    one, two = solve(field, near, (0.0, 0.7), **options), solve(field, far, (0.0, 0.7), **options)
    assert int(one.stats.hits) == 0 and int(two.stats.hits[1]) > 0
    assert torch.equal(one.ys[-1][0], two.ys[-1][0]) and int(one.stats.nfe) == int(two.stats.nfe[0])


def test_torchdiffeq_steps_and_tolerances() -> None:
    """torchdiffeq's methods take the same fixed steps as flowkit's in each interval, forward and backward, and a tolerance for each member."""
    for times in ((0.0, 0.1, 1.0, 2.0), (2.0, 1.9, 0.5, 0.0)):
        for controls in ({"steps": 4, "params": ()}, {"step": 0.3, "params": ()}):
            theirs = solve(bent, ZERO, times, method="torchdiffeq:rk4", **controls)  # type: ignore[arg-type]
            ours = solve(bent, ZERO, times, method="rk4", **controls)  # type: ignore[arg-type]
            assert torch.allclose(theirs.ys, ours.ys, atol=1e-13) and theirs.stats.nfe == ours.stats.nfe
    with pytest.raises(ConfigError, match="takes no fixed steps"):
        solve(bent, ZERO, (0.0, 1.0), method="torchdiffeq:dopri5", steps=3)

    def field(t: Tensor, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return -x, 100 * torch.sin(40 * t) * torch.ones_like(total)

    y0 = (torch.ones(2, dtype=D), torch.zeros(1, dtype=D))
    counts = [solve(field, y0, (0.0, 1.0), method="torchdiffeq:dopri5", atol=(1e-6, each)).stats.nfe for each in (1e-6, 1e-2, math.inf)]
    assert counts[0] > counts[1] > counts[2]


class _Waits(TorchDispatchMode):
    """Counts what would wait for an accelerator: numbers read from it, and numbers copied to it."""

    KINDS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.lift_fresh.default)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func in self.KINDS
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait() -> None:
    """A fixed step at a wall waits for nothing, and a joint adaptive step whose record is kept only for its error ratio."""
    y0 = torch.tensor([[0.3, -0.4]], dtype=D)
    found = []
    for steps in (5, 25):
        with _Waits() as waits:
            stats = solve(lambda t, y: torch.ones_like(y), y0, (0.0, 3.0), method="heun3", steps=steps, boundary=Box(-1.0, 1.0, 2), per_sample=True).stats
        found.append(waits.count)
    assert int(stats.hits) > 0 and found[0] == found[1]
    counts = []
    for end in (2.0, 8.0):
        with _Waits() as waits:
            solution = solve(bent, ZERO.clone().requires_grad_(), (0.0, end), params=())
        counts.append((waits.count, solution.stats.accepted + solution.stats.rejected))
    assert counts[1][1] > counts[0][1] + 5
    assert counts[1][0] - counts[0][0] <= counts[1][1] - counts[0][1]
