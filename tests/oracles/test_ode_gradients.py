"""Gradients of the ODE engine: every adjoint against autograd through the steps, finite differences and torchdiffeq."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.numerics.ode import AdjointOptions, AsynchronousLeapfrog, Reversible, ReversibleHeun, solve
from flowkit.numerics.ode.compat import odeint, odeint_adjoint
from flowkit.numerics.ode.system import Layout, System

D = torch.float64
TIMES = (0.0, 0.4, 1.0)


class Field(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).to(D)

    def forward(self, t: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return self.net(torch.cat([y, (t * c).unsqueeze(-1)], -1))


def gradients(adjoint: str, times: Any = TIMES, field: Field | None = None, **controls: Any) -> tuple[Tensor, ...]:
    field = Field() if field is None else field
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(5, 3, dtype=D, generator=generator).requires_grad_()
    c = torch.randn(5, dtype=D, generator=generator).requires_grad_()
    t = torch.tensor(times, dtype=D).requires_grad_()
    solution = solve(field, y0, t, args=(c,), adjoint=adjoint, **controls)  # type: ignore[arg-type]
    weights = torch.arange(1.0, 1.0 + len(times), dtype=D).reshape(-1, 1, 1)
    return torch.autograd.grad((solution.ys * weights).sin().sum(), (y0, c, t, *field.parameters()))


def worst(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


CONTROLS: list[dict[str, Any]] = [
    {"method": "rk4", "steps": 5},
    {"rtol": 1e-6, "atol": 1e-6},
    {"method": "bosh3", "rtol": 1e-5, "atol": 1e-5, "per_sample": True},
    {"method": "tsit5", "steps": 3, "per_sample": True},
    {"method": Reversible("rk4"), "steps": 4},
    {"method": AsynchronousLeapfrog(), "rtol": 1e-3, "atol": 1e-3, "per_sample": True},
]


@pytest.mark.parametrize("position", range(len(CONTROLS)))
def test_discrete_equals_backprop(position: int) -> None:
    """continuous-E.6.3: to 1e-12, in states, constants, parameters and times."""
    controls = CONTROLS[position]
    assert worst(gradients("discrete", **controls), gradients("backprop", **controls)) <= 1e-12


@pytest.mark.parametrize("method", [Reversible("rk4"), Reversible("dopri5"), AsynchronousLeapfrog(), ReversibleHeun()], ids=lambda m: m.name)
@pytest.mark.parametrize("controls", [{"steps": 20}, {"rtol": 1e-4, "atol": 1e-4, "per_sample": True}], ids=["fixed", "adaptive"])
def test_reversible_equals_backprop(method: Any, controls: dict[str, Any]) -> None:
    """continuous-E.6.3: gradients from reconstructed states to 1e-12."""
    if "rtol" in controls and not method.adaptive:
        pytest.skip("the method has no error estimate")
    assert worst(gradients("reversible", method=method, **controls), gradients("backprop", method=method, **controls)) <= 1e-12


@pytest.mark.parametrize("seminorm", [True, False])
def test_continuous_adjoint(seminorm: bool) -> None:
    """continuous-E.6.3: 1e-6 at tolerance 1e-8, 1e-4 at 1e-5."""
    options = AdjointOptions(seminorm=seminorm)
    for tolerance, allowed in ((1e-8, 1e-6), (1e-5, 1e-4)):
        controls = {"rtol": tolerance, "atol": tolerance}
        assert worst(gradients("continuous", adjoint_options=options, **controls), gradients("backprop", **controls)) <= allowed


def test_gradcheck() -> None:
    """continuous-E.6.3: states, parameters and end times against finite differences, and second derivatives of backprop."""
    weight = torch.tensor([[0.3, -0.7], [0.5, 0.2]], dtype=D, requires_grad=True)
    y0, t = torch.tensor([[0.4, -0.3]], dtype=D, requires_grad=True), torch.tensor([0.1, 0.7], dtype=D, requires_grad=True)

    def end(y: Tensor, w: Tensor, times: Tensor, adjoint: Any = "discrete") -> Tensor:
        return solve(lambda t, y: torch.tanh(y @ w) + t * y, y, times, method="rk4", steps=4, adjoint=adjoint, params=(w,)).ys[-1]

    assert torch.autograd.gradcheck(end, (y0, weight, t))
    assert torch.autograd.gradgradcheck(lambda *args: end(*args, adjoint="backprop"), (y0, weight, t))
    assert torch.autograd.gradgradcheck(end, (y0, weight, t))


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "reversible"])
def test_second_derivatives(adjoint: str) -> None:
    """Where a gradient is differentiated itself, the steps are made again under autograd: the same second derivatives as backprop's."""
    method = Reversible("rk4") if adjoint == "reversible" else "rk4"
    found = []
    for kind in (adjoint, "backprop"):
        field = Field(8)
        y0, c = torch.ones(2, 3, dtype=D, requires_grad=True), torch.ones(2, dtype=D, requires_grad=True)
        y = solve(field, y0, TIMES, args=(c,), method=method, steps=4, adjoint=kind).ys  # type: ignore[arg-type]
        first = torch.autograd.grad(y.square().sum(), (y0, c, *field.parameters()), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), (y0, c, *field.parameters())))
    assert worst(*found) <= (1e-10 if adjoint != "continuous" else 1e-4)  # whose first derivatives are those of the exact solution


def test_tensors_that_a_module_holds_otherwise() -> None:
    """A weight made by another net, and a plain attribute, get their gradients."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.3, dtype=D))
            self.late = torch.tensor(0.4, dtype=D, requires_grad=True)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -(self.rate + self.made) * y + (self.late * y if t > 0.5 else 0)

    net, found = nn.Linear(1, 1).to(D), []
    for adjoint in ("discrete", "backprop"):
        field = Held()
        field.made = net(torch.ones(1, dtype=D)).exp()
        y = solve(field, torch.ones(2, dtype=D), (0.0, 1.0), steps=8, method="rk4", adjoint=adjoint).ys[-1].sum()  # type: ignore[arg-type]
        found.append(torch.autograd.grad(y, (field.rate, field.late, *net.parameters())))
    assert worst(*found) <= 1e-13 and all(bool(g.abs().max() > 0) for g in found[0])


def test_captured_tensors_get_gradients() -> None:
    """A plain function's leaves are found, also behind other operations."""
    a = torch.tensor(0.7, dtype=D, requires_grad=True)
    b = a.exp()
    y = solve(lambda t, y: -b * y, torch.ones(2, dtype=D), (0.0, 1.0), rtol=1e-10, atol=1e-10).ys[-1]
    (found,) = torch.autograd.grad(y.sum(), a)
    rate = a.detach().exp()
    assert torch.allclose(found, -2 * rate * (-rate).exp(), atol=1e-8)


def test_swapped_parameters() -> None:
    """Under functional_call the gradient is that of the parameters lent, though the module has its own back by then."""
    field = Field()
    lent = {name: (p.detach() + 0.1).requires_grad_() for name, p in field.named_parameters()}

    class End(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, adjoint: Any) -> Tensor:
            return solve(self.field, torch.ones(2, 3, dtype=D), (0.0, 1.0), args=(torch.ones(2, dtype=D),), steps=3, adjoint=adjoint).ys[-1].sin().sum()

    found = [
        torch.autograd.grad(torch.func.functional_call(End(), {f"field.{k}": v for k, v in lent.items()}, (adjoint,)), tuple(lent.values()))
        for adjoint in ("discrete", "backprop")
    ]
    assert worst(*found) <= 1e-13


def test_backward_twice() -> None:
    y0 = torch.ones(2, 3, dtype=D, requires_grad=True)
    total = solve(Field(), y0, (0.0, 1.0), args=(torch.ones(2, dtype=D),), steps=3).ys[-1].sum()
    first = torch.autograd.grad(total, y0, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(total, y0)[0], first)


@pytest.mark.parametrize("method", [Reversible("rk4", 0.999), AsynchronousLeapfrog(), ReversibleHeun()], ids=lambda m: m.name)
def test_reconstruction(method: Any) -> None:
    """continuous-E.6.4: 1000 steps there and back to 1e-10."""
    y = torch.tensor([[1.0, -0.5]], dtype=D)
    system = System(lambda t, y: torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1), Layout((y,), True))
    times = torch.linspace(0, 10, 1001, dtype=D)
    start = state = method.start(system, times[:1], y, ())
    for t, after in itertools.pairwise(times):
        state = method.step(system, t.reshape(1), (after - t).reshape(1), state, ()).y
    for after, t in itertools.pairwise(times.flip(0)):
        state = method.undo(system, t.reshape(1), (after - t).reshape(1), state, ())
    assert float((state - start).abs().max()) <= 1e-10


class _Kept:
    """Bytes that autograd has saved and that are alive, at most at one time."""

    def __init__(self) -> None:
        self.most = self.now = 0

    def pack(self, tensor: Tensor) -> tuple[Tensor, Any]:
        return tensor.detach(), _Alive(self, tensor.numel() * tensor.element_size())  # detached: a saved output would hold its own node

    def unpack(self, packed: tuple[Tensor, Any]) -> Tensor:
        return packed[0]


class _Alive:
    def __init__(self, kept: _Kept, size: int) -> None:
        self.kept, self.size = kept, size
        kept.now += size
        kept.most = max(kept.most, kept.now)

    def __del__(self) -> None:
        self.kept.now -= self.size


def test_memory_of_the_discrete_adjoint() -> None:
    """continuous-E.6.7 and O-2: at 200 steps below a quarter of backprop's saved bytes, states of the steps included."""
    field = Field(64)
    most = {}
    for adjoint in ("backprop", "discrete"):
        y0, c = torch.randn(64, 3, dtype=D, requires_grad=True), torch.ones(64, dtype=D)
        kept = _Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            y = solve(field, y0, (0.0, 1.0), args=(c,), method="rk4", steps=200, adjoint=adjoint).ys[-1]  # type: ignore[arg-type]
            before = kept.now
            y.sum().backward()
        most[adjoint] = kept.most
        assert before >= 200 * y0.numel() * 8  # the states are among what is counted
        assert kept.now <= 0.01 * before and y.grad_fn is not None  # and are freed by the backward pass, though the solution lives
    assert most["discrete"] < 0.25 * most["backprop"]


def test_compat_gradients() -> None:
    """odeint and odeint_adjoint: torchdiffeq's calls, its gradients."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net = Field()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(t, y, torch.ones(2, dtype=D))

    found = []
    for ours, theirs in ((odeint, torchdiffeq.odeint), (odeint_adjoint, torchdiffeq.odeint_adjoint)):
        for call in (ours, theirs):
            field, y0 = Plain(), torch.linspace(-1, 1, 6, dtype=D).reshape(2, 3).requires_grad_()
            y = call(field, y0, torch.tensor([0.0, 0.5, 1.0], dtype=D), rtol=1e-9, atol=1e-9)
            found.append(torch.autograd.grad(y.square().sum(), (y0, *field.parameters())))
    for other in found[1:]:
        assert worst(found[0], other) <= 1e-6
    pair = odeint(lambda t, y: (-y[0], y[1]), (torch.ones(2, dtype=D), torch.ones(1, dtype=D)), torch.tensor([0.0, 1.0], dtype=D))
    assert pair[0].shape == (2, 2) and pair[1].shape == (2, 1)
    with pytest.raises(ConfigError, match="have no counterpart"):
        odeint(lambda t, y: y, torch.ones(1), torch.tensor([0.0, 1.0]), options={"jump_t": [0.5]})
