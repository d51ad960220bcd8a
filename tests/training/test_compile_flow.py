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
CLOSE: dict[torch.dtype, Any] = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
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
    log_prob = flow.log_prob(x := x.clone().requires_grad_(), context)
    log_prob.mean().backward()
    found = {"log_prob": log_prob, **{f"gradient of {k}": p.grad.clone() for k, p in (("x", x), *flow.named_parameters()) if p.grad is not None}}
    with torch.no_grad():
        found["log_prob without gradients"] = flow.log_prob(x, context)
        z = found["latent"] = flow.to_latent(x, context)
        found["data"] = flow.to_data(z, context)
        shape = (n,) if context is None else ()
        found["sample"] = flow.sample(shape, context, generator=torch.Generator().manual_seed(3))
        found["joint"], found["joint log_prob"] = flow.sample_and_log_prob(shape, context, generator=torch.Generator().manual_seed(3))
    return found


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], **close: Any) -> None:
    assert found.keys() == wanted.keys()
    for what, value in wanted.items():
        torch.testing.assert_close(found[what], value, **close, msg=lambda text, what=what: f"{what}: {text}")


def cases() -> Iterator[Any]:
    for name in FLOWS:
        for i, (label, _) in enumerate(FLOWS[name].examples()):
            for dtype in CLOSE:
                marks = [] if name in QUICK and i == 0 and dtype == torch.float64 else [pytest.mark.slow]
                yield pytest.param(name, label, dtype, id=f"{name}-{label}-{str(dtype).removeprefix('torch.')}", marks=marks)


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
    same(answers(fk.compile(flow, backend="aot_eager"), x, context, 6), wanted, **CLOSE[dtype])


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
    assert 3 * 4 <= work(shallow, (64,)) <= 3 * 5  # Standardize, LULinear, Elementwise, and a Coupling of either half
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


def test_shares_parameters_with_the_flow() -> None:
    flow = spline_flow()
    fast = fk.compile(flow, backend="aot_eager")
    assert type(fast) is type(flow) and list(fast.state_dict()) == list(flow.state_dict())
    assert all(a is b for a, b in zip(fast.parameters(), flow.parameters(), strict=True))
    x, before = rows(5), flow.log_prob(rows(5))
    fast.log_prob(x)
    assert not [name for name in vars(x) if "dynamo" in name]  # no mark on the caller's tensor
    fk.fit(fast, rows(64), max_steps=3, lr=0.05, batch_size=16, seed=0, progress=False)
    assert bool(flow.standardizer.fitted) and not torch.allclose(flow.log_prob(x), before)
    torch.testing.assert_close(fast.log_prob(x), flow.log_prob(x), **CLOSE[torch.float64])
    flow.float()
    assert fast.log_prob(x.float()).dtype == torch.float32
    assert fast.double() is fast and flow.log_prob(x).dtype == torch.float64


def test_copies_are_compiled_and_independent(tmp_path: Path) -> None:
    flow, x = spline_flow(), rows(8)
    fast = fk.compile(flow, backend="aot_eager")
    kept = fast.log_prob(x)
    loaded = fk.load(fk.save(fast, tmp_path / "flow"))
    assert loaded.describe() == flow.describe()
    torch.testing.assert_close(loaded.log_prob(x), flow.log_prob(x), **EXACT)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        before = graphs()
        torch.testing.assert_close(copied.log_prob(x), kept, **EXACT)
        assert graphs() == before  # of the same programs
        with torch.no_grad():
            torch._foreach_zero_(list(copied.parameters()))
        assert not torch.allclose(copied.log_prob(x), kept)
        torch.testing.assert_close(fast.log_prob(x), kept, **EXACT)


def test_context_conditions_views_and_transforms() -> None:
    flow = stirred(fk.flows.MAF(3, context_features=2, layers=2, hidden=(8,)))
    fast, x, context = fk.compile(flow, backend="aot_eager"), rows(6, 3), rows(6, 2)
    calls: list[Any] = [
        lambda f: (f.log_prob(x, context), f.log_prob(x[:, None], context)),
        lambda f: f.condition(context[0]).log_prob(x),
        lambda f: f(context).log_prob(x),
        lambda f: (~f.bijector)(x, context),
        lambda f: torch.func.vmap(f.log_prob)(x, context),
        lambda f: torch.func.jacrev(lambda v: f.log_prob(v, context).sum())(x),
    ]
    for call in calls:
        torch.testing.assert_close(call(fast), call(flow), **CLOSE[torch.float64])
    assert fast.sample((5,), context[:2]).shape == (5, 2, 3)
    outer = torch.compile(lambda v: fast.log_prob(v, context), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outer(x), flow.log_prob(x, context), **CLOSE[torch.float64])


def test_errors_are_those_of_the_flow() -> None:
    box = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,)), importlib.import_module("flowkit.core.domain").Box(-1.0, 1.0, 2))
    fast = fk.compile(box, backend="aot_eager")
    with pytest.raises(DomainError):
        fast.to_latent(torch.full((3, 2), 2.0))
    assert bool((fast.log_prob(torch.full((3, 2), 2.0)) == -torch.inf).all())
    with pytest.raises(ShapeError):
        fast.log_prob(torch.zeros(3, 5))
    for wrong, message in (("flow", "expected a flow; got str"), (nn.Linear(2, 2), "Linear holds no map")):
        with pytest.raises(ConfigError, match=message):
            fk.compile(wrong)  # type: ignore[type-var]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes of the maps that ``compile`` asks inductor to compile; another backend does it."""
    names, program, instead = list[str](), compiling._program, {"inductor": "aot_eager"}

    def recorded(step: Any, inverse: bool, backend: str, graph: bool) -> Any:
        names.append(type(step).__name__)
        return program(step, inverse, instead[backend], graph)

    monkeypatch.setattr(compiling, "_program", recorded)
    return names


def test_cpu_compiles_only_what_gains(asked: list[str]) -> None:
    """Maps over fused kernels run as they are; the same maps over plain torch are compiled, in either order."""
    wanted = (flow := spline_flow()).log_prob(x := rows(16))
    if not any("reference" in op.status()["cpu"] for name, op in kernels.op.OPS.items() if "rational_quadratic_spline" in name):
        for _ in range(2):
            torch.testing.assert_close(fk.compile(flow).log_prob(x), wanted, **EXACT)
        assert asked == []
    with kernels.op.use("reference"):
        for _ in range(2):
            torch.testing.assert_close(fk.compile(flow).log_prob(x), wanted, **CLOSE[torch.float64])
    assert set(asked) == {"Coupling", "Elementwise"}


class Shifts(Bijector):
    """A map of as many operations as a constant says, and of one in float32."""

    traits = Traits(jacobian="diagonal")
    in_shape = out_shape = (2,)

    def __init__(self, times: int = 1, *, hidden: bool = False) -> None:
        super().__init__()
        self.times, self._times = None if hidden else times, times

    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        for _ in range(self._times if z.dtype == torch.float64 else 1):
            z = z + 1.0
        return z, z.new_zeros(z.shape[:-1])


class Branching(Shifts):
    """A map that looks at its values, which a graph cannot."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        return super()._forward(z if bool((z > 0).all()) else z + 2.0, context, generator)


def test_choices_are_for_a_dtype_and_constants(asked: list[str]) -> None:
    for times, dtype, compiled in ((2, torch.float64, 0), (30, torch.float32, 0), (30, torch.float64, 1)):
        step, x = Shifts(times), rows(4, 2).to(dtype)
        for _ in range(2):
            torch.testing.assert_close(fk.compile(step)(x), step(x))
        assert len(asked) == compiled
    kinds = [compiling._structure(fk.bijectors.Elementwise(2, fk.univariates.Affine(scale=scale))) for scale in ("tanh", "softplus", "tanh")]
    assert kinds[0] == kinds[2] != kinds[1]


BOUNDS = [1.0 + i for i in range(10)]  # more than the eight variants that torch keeps of a program
SPLINES = [fk.bijectors.Elementwise(2, fk.univariates.RationalQuadraticSpline(4, bound)) for bound in (*BOUNDS, *BOUNDS)]
NEIGHBOURS = [fk.bijectors.Affine(2, loc=0.5), fk.bijectors.Tanh(2)]  # which a chain runs in one pass unless they are compiled


@pytest.mark.parametrize(("maps", "programs"), [(SPLINES, len(BOUNDS)), (NEIGHBOURS, len(NEIGHBOURS))], ids=["bounds", "neighbours"])
def test_maps_of_other_constants_have_their_programs(maps: list[Any], programs: int) -> None:
    before, chain = graphs(), stirred(fk.bijectors.Chain(maps))
    with torch.no_grad():
        torch.testing.assert_close(fk.compile(chain, backend="aot_eager")(rows(6, 2)), chain(rows(6, 2)), **CLOSE[torch.float64])
    assert graphs() - before == programs


@pytest.mark.parametrize("maps", [[Branching()], [Shifts(times, hidden=True) for times in range(1, 13)]], ids=["a branch", "too many variants"])
def test_what_cannot_be_compiled_runs_as_it_is(maps: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    fast = fk.compile(chain := fk.bijectors.Chain([*maps, fk.bijectors.Affine((2,), loc=1.0).double()]), backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(fast(rows(6, 2)), chain(rows(6, 2)), **CLOSE[torch.float64])
    told = [record.getMessage().split(" runs")[0] for record in caplog.records if "runs as it is" in record.getMessage()]
    assert told == [f"compile: {type(maps[0]).__name__}.forward"]


def test_layers_that_share_weights_or_recompute() -> None:
    coupling = fk.bijectors.Coupling(4, fk.univariates.RationalQuadraticSpline(bins=4), (8,))
    parts: list[Any] = [coupling, fk.bijectors.Permutation.reverse(4), coupling]
    for bijector in (fk.bijectors.Chain(parts), fk.bijectors.Chain(parts, memory="invert"), fk.bijectors.Scan(fk.bijectors.Chain(parts[:2]), 3)):
        flow = stirred(fk.Flow(fk.distributions.StandardNormal((4,)), bijector))
        same(answers(fk.compile(flow, backend="aot_eager"), rows(7), None, 7), answers(flow, rows(7), None, 7), rtol=1e-9, atol=1e-9)


def test_fit_compiled_draws_and_learns_as_fit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """``fit(compile=True)`` trains through ``compile``; draws come from the same generator."""
    calls: list[Any] = []
    monkeypatch.setattr("flowkit.training.loss_module.compile", lambda model: calls.append(model) or fk.compile(model, backend="aot_eager"))  # type: ignore[func-returns-value]
    compiled = copy.deepcopy(eager := spline_flow())
    options: dict[str, Any] = {"validation": 0.25, "max_steps": 6, "batch_size": 32, "seed": 0, "progress": False}
    history = [fk.fit(flow, rows(128), compile=flow is compiled, **options).history for flow in (eager, compiled)]
    assert calls == [compiled]
    torch.testing.assert_close(list(eager.parameters()), list(compiled.parameters()), rtol=1e-8, atol=1e-8)
    assert history[0]["validation_loss"] == pytest.approx(history[1]["validation_loss"], rel=1e-8)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_on_a_cpu() -> None:
    """Maps over plain torch through the compiler that serves by default."""
    flow = stirred(fk.flows.BernsteinFlow(3, layers=2, hidden=(8,)))
    fast, x = fk.compile(flow), rows(32, 3)
    for n in (32, 32, 19):
        before = graphs()
        torch.testing.assert_close(fast.log_prob(x[:n]), flow.log_prob(x[:n]), **CLOSE[torch.float64])
    assert graphs() == before > 0
