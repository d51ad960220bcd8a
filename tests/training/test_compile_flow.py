"""A compiled flow answers as the flow it was made from, whatever the depth and the batch, and shares its parameters."""

from __future__ import annotations

import copy
import importlib
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit import kernels
from flowkit.core.errors import ConfigError, DomainError, ShapeError
from flowkit.core.registry import FLOWS
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector

compiling = importlib.import_module("flowkit.training.compile")  # the package's attribute of that name is the function
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
QUICK = ("real_nvp", "planar_flow")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    compiling._kind.cache_clear()
    validate = torch.distributions.Distribution._validate_args
    yield
    torch.distributions.Distribution.set_default_validate_args(validate)


def graphs() -> int:
    """How many graphs torch has compiled in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def stirred(flow: Any, dtype: torch.dtype = torch.float64) -> Any:
    """The flow with its parameters moved off the identity."""
    flow = flow.to(dtype)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()), dtype=dtype)
    return flow


def spline_flow(layers: int = 2, **options: Any) -> Any:
    return stirred(fk.flows.NeuralSplineFlow(4, layers=layers, hidden=(8,), bins=4, **options))


def rows(n: int, features: int = 4) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def answers(flow: Any, x: Tensor, context: Any, n: int) -> dict[str, Tensor]:
    """What a flow says, and the gradient of its mean log-density."""
    flow.zero_grad()
    x = x.clone().requires_grad_()
    log_prob = flow.log_prob(x, context)
    log_prob.mean().backward()
    assert x.grad is not None
    found = {"log_prob": log_prob, "gradient in x": x.grad, **{f"gradient of {k}": p.grad.clone() for k, p in flow.named_parameters() if p.grad is not None}}
    with torch.no_grad():
        found["log_prob without gradients"] = flow.log_prob(x, context)
        z = found["latent"] = flow.to_latent(x, context)
        found["data"] = flow.to_data(z, context)
        shape = (n,) if context is None else ()
        found["sample"] = flow.sample(shape, context, generator=torch.Generator().manual_seed(3))
        found["joint"], found["joint log_prob"] = flow.sample_and_log_prob(shape, context, generator=torch.Generator().manual_seed(3))
    return found


def cases() -> Iterator[Any]:
    seen = set()
    for name in FLOWS:
        for label, _ in FLOWS[name].examples():
            for dtype in (torch.float64, torch.float32):
                quick = name in QUICK and name not in seen and dtype == torch.float64
                yield pytest.param(name, label, dtype, id=f"{name}-{label}-{str(dtype).removeprefix('torch.')}", marks=[] if quick else pytest.mark.slow)
                seen.add(name)


@pytest.mark.parametrize(("name", "label", "dtype"), cases())
def test_equals_the_flow(name: str, label: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    flow = stirred(dict(FLOWS[name].examples())[label], dtype)
    context = None
    if flow.context_shape is not None:
        context = torch.tensor([0, 1, -1, 0, 1, 0]) if flow.context_shape == () else torch.randn(6, *flow.context_shape, dtype=dtype)
    x = flow.sample((6,) if context is None else (), context).detach()
    torch.manual_seed(1)  # for flows that draw in their density
    wanted = answers(flow, x, context, 6)
    torch.manual_seed(1)
    found = answers(fk.compile(flow, backend="aot_eager"), x, context, 6)
    assert found.keys() == wanted.keys()
    for what, value in wanted.items():
        torch.testing.assert_close(found[what], value, **CLOSE[dtype], msg=lambda text, what=what: f"{what}: {text}")


def test_depth_and_batches_compile_nothing_more() -> None:
    """One program for each kind of map, direction and gradient mode; batches of any size and shape share it."""

    def work(flow: Any, sizes: tuple[int, ...]) -> int:
        before = graphs()
        for n in sizes:
            (-flow.log_prob(rows(n)).mean()).backward()
            with torch.no_grad():
                flow.log_prob(rows(n))
            flow.sample((n,))
        return graphs() - before

    shallow = fk.compile(spline_flow(2), backend="aot_eager")
    first = work(shallow, (64,))
    kinds = 4  # Standardize, Coupling, LULinear, Elementwise
    assert kinds * 3 <= first <= kinds * 3 + 2
    assert work(shallow, (37, 2, 1, 0, 64, 128)) == 0
    deep = fk.compile(spline_flow(6), backend="aot_eager")
    assert work(deep, (64, 21)) == 0
    before = graphs()
    with torch.no_grad():
        assert deep.log_prob(rows(30).reshape(5, 6, 4)).shape == (5, 6) and deep.sample((2, 3, 5)).shape == (2, 3, 5, 4)
        assert deep.log_prob(rows(30).T.contiguous().T).shape == (30,) and deep.log_prob(rows(3)[0]).shape == ()
    assert graphs() == before
    assert work(deep.eval(), (9,)) == work(deep.train(), (9,)) == 0
    torch.testing.assert_close(deep.log_prob(rows(30).reshape(5, 6, 4)).flatten(), deep.log_prob(rows(30)), rtol=1e-12, atol=1e-12)


def test_caller_tensors_carry_no_mark() -> None:
    x, fast = rows(8), fk.compile(spline_flow(), backend="aot_eager")
    fast.log_prob(x)
    assert not [name for name in vars(x) if "dynamo" in name]


def test_shares_parameters_with_the_flow() -> None:
    flow = spline_flow()
    fast = fk.compile(flow, backend="aot_eager")
    assert type(fast) is type(flow) and list(fast.state_dict()) == list(flow.state_dict())
    assert all(a is b for a, b in zip(fast.parameters(), flow.parameters(), strict=True))
    before = flow.log_prob(rows(5))
    fk.fit(fast, rows(64), max_steps=3, lr=0.05, batch_size=16, seed=0, progress=False)
    assert not torch.allclose(flow.log_prob(rows(5)), before)
    torch.testing.assert_close(fast.log_prob(rows(5)), flow.log_prob(rows(5)), **CLOSE[torch.float64])
    assert bool(flow.standardizer.fitted)
    flow.float()
    assert fast.log_prob(rows(5).float()).dtype == torch.float32
    fast.double()
    assert flow.log_prob(rows(5)).dtype == torch.float64


def test_copies_are_compiled_and_independent() -> None:
    fast = fk.compile(spline_flow(), backend="aot_eager")
    x = rows(8)
    kept = fast.log_prob(x)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        before = graphs()
        torch.testing.assert_close(copied.log_prob(x), kept, rtol=0, atol=0)
        assert graphs() == before  # of the same programs
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        assert not torch.allclose(copied.log_prob(x), kept)
        torch.testing.assert_close(fast.log_prob(x), kept, rtol=0, atol=0)


def test_saves_as_the_flow_does(tmp_path: Path) -> None:
    flow = spline_flow()
    fast = fk.compile(flow, backend="aot_eager")
    loaded = fk.load(fk.save(fast, tmp_path / "flow"))
    assert loaded.describe() == flow.describe()
    torch.testing.assert_close(loaded.log_prob(rows(8)), flow.log_prob(rows(8)), rtol=0, atol=0)


def test_context_conditions_and_view() -> None:
    flow = stirred(fk.flows.MAF(3, context_features=2, layers=2, hidden=(8,)))
    fast = fk.compile(flow, backend="aot_eager")
    x, context = rows(6, 3), rows(6, 2)
    close = CLOSE[torch.float64]
    torch.testing.assert_close(fast.log_prob(x, context), flow.log_prob(x, context), **close)
    torch.testing.assert_close(fast.log_prob(x[:, None], context), flow.log_prob(x[:, None], context), **close)
    torch.testing.assert_close(fast.condition(context[0]).log_prob(x), flow.condition(context[0]).log_prob(x), **close)
    torch.testing.assert_close(fast(context).log_prob(x), flow(context).log_prob(x), **close)
    assert fast.sample((5,), context[:2]).shape == (5, 2, 3)
    for got, wanted in zip((~fast.bijector)(x, context), (~flow.bijector)(x, context), strict=True):
        torch.testing.assert_close(got, wanted, **close)


def test_errors_are_those_of_the_flow() -> None:
    box = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,)), importlib.import_module("flowkit.core.domain").Box(-1.0, 1.0, 2))
    fast = fk.compile(box, backend="aot_eager")
    with pytest.raises(DomainError):
        fast.to_latent(torch.full((3, 2), 2.0))
    assert bool((fast.log_prob(torch.full((3, 2), 2.0)) == -torch.inf).all())
    with pytest.raises(ShapeError):
        fast.log_prob(torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="expected a flow; got str"):
        fk.compile("flow")  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="Linear holds no map"):
        fk.compile(nn.Linear(2, 2))


def test_cpu_compiles_only_what_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps over fused kernels run as they are; the same maps over plain torch are compiled."""
    asked: list[str] = []

    def program(step: Any, inverse: bool, backend: str) -> Any:
        asked.append(type(step).__name__)
        assert backend == "inductor"
        return compiling_program(step, inverse, "aot_eager")

    compiling_program = compiling._program
    monkeypatch.setattr(compiling, "_program", program)
    flow = spline_flow()
    wanted = flow.log_prob(rows(16))
    if not any("reference" in op.status()["cpu"] for name, op in kernels.op.OPS.items() if "rational_quadratic_spline" in name):
        fast = fk.compile(flow)
        for _ in range(2):
            torch.testing.assert_close(fast.log_prob(rows(16)), wanted, rtol=0, atol=0)
        assert asked == []
    compiling._kind.cache_clear()
    with kernels.op.use("reference"):
        fast = fk.compile(flow)
        for _ in range(2):
            torch.testing.assert_close(fast.log_prob(rows(16)), wanted, **CLOSE[torch.float64])
    assert set(asked) == {"Coupling", "Elementwise"}


class Branching(Bijector):
    """A map that looks at its values, which a graph cannot."""

    traits = Traits(jacobian="diagonal")
    in_shape = out_shape = (2,)

    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        scale = 2.0 if bool((z > 0).all()) else 3.0
        return z * scale, torch.full(z.shape[:-1], 2 * torch.tensor(scale).log().item(), dtype=z.dtype)


def test_what_cannot_be_compiled_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    chain = fk.bijectors.Chain([Branching(), fk.bijectors.Affine((2,), loc=1.0).double()])
    fast = fk.compile(chain, backend="aot_eager")
    for _ in range(2):
        for got, wanted in zip(fast(rows(6, 2)), chain(rows(6, 2)), strict=True):
            torch.testing.assert_close(got, wanted, **CLOSE[torch.float64])
    assert [record.getMessage().split(" runs")[0] for record in caplog.records if "runs as it is" in record.getMessage()] == ["compile: Branching.forward"]


def test_transforms_of_torch_func_and_an_outer_compiler() -> None:
    flow = spline_flow()
    fast, x = fk.compile(flow, backend="aot_eager"), rows(6)
    close = CLOSE[torch.float64]
    torch.testing.assert_close(torch.func.vmap(fast.log_prob)(x), flow.log_prob(x), **close)
    torch.testing.assert_close(torch.func.jacrev(lambda v: fast.log_prob(v).sum())(x), torch.func.jacrev(lambda v: flow.log_prob(v).sum())(x), **close)
    whole = torch.compile(lambda v: fast.log_prob(v), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x), flow.log_prob(x), **close)


def test_layers_that_share_weights_or_recompute() -> None:
    coupling = fk.bijectors.Coupling(4, fk.univariates.RationalQuadraticSpline(bins=4), (8,))
    stack: list[Any] = [
        fk.bijectors.Chain([coupling, fk.bijectors.Permutation.reverse(4), coupling]),
        fk.bijectors.Chain([coupling, fk.bijectors.Permutation.reverse(4), coupling], memory="invert"),
        fk.bijectors.Scan(fk.bijectors.Chain([coupling, fk.bijectors.Permutation.reverse(4)]), 3),
    ]
    for bijector in stack:
        flow = stirred(fk.Flow(fk.distributions.StandardNormal((4,)), bijector))
        wanted, found = (answers(f, rows(7), None, 7) for f in (flow, fk.compile(flow, backend="aot_eager")))
        for what, value in wanted.items():
            torch.testing.assert_close(found[what], value, rtol=1e-9, atol=1e-9, msg=lambda text, what=what: f"{what}: {text}")


def test_fit_compiled_draws_and_learns_as_fit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """``fit(compile=True)`` trains through ``compile``; draws come from the same generator."""
    calls = []
    loss_module = importlib.import_module("flowkit.training.loss_module")
    monkeypatch.setattr(loss_module, "compile", lambda model: calls.append(model) or fk.compile(model, backend="aot_eager"))
    eager = spline_flow()
    compiled = copy.deepcopy(eager)
    history = [
        fk.fit(flow, rows(128), validation=0.25, max_steps=6, batch_size=32, seed=0, progress=False, compile=asked).history
        for flow, asked in ((eager, False), (compiled, True))
    ]
    assert calls == [compiled]
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert history[0]["validation_loss"] == pytest.approx(history[1]["validation_loss"], rel=1e-8)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_on_a_cpu() -> None:
    """Maps over plain torch through the compiler that serves by default."""
    flow = stirred(fk.flows.BernsteinFlow(3, layers=2, hidden=(8,)))
    fast, x = fk.compile(flow), rows(32, 3)
    for n in (32, 32, 19):
        before = graphs()
        flow.zero_grad()
        torch.testing.assert_close(fast.log_prob(x[:n]), flow.log_prob(x[:n]), **CLOSE[torch.float64])
    assert graphs() == before > 0
