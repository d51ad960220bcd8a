"""Combinators against the same maps put together by hand, and what they refuse."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit.bijectors import ActNorm, Affine, Automatic, Chain, Coupling, Graph, LULinear, Over, Permutation, Planar, Sandwich, Scan, Split, Stack, Vmap
from flowkit.core.build import build, describe
from flowkit.core.errors import ConfigError, NotInvertibleError, ShapeError
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.testing._case import perturb
from flowkit.univariates import Affine as AffineUnivariate


def coupling(features: int = 4, context: int = 0) -> Coupling:
    made = Coupling(features, AffineUnivariate(), (8,), activation="tanh", context_features=context).double()
    perturb(made, seed=int(torch.randint(1000, ())))
    return made


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(f: Bijector, g: Bijector, value: Tensor, context: Any = None, inverse: bool = False) -> None:
    got, wanted = [(h.inverse if inverse else h)(value, context) for h in (f, g)]
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


# -- parts ---------------------------------------------------------------------------------------------------------


def test_stack_is_its_parts() -> None:
    f, g, z = coupling(context=2), coupling(context=2), draw(5, 4, 2)
    context = draw(5, 2, seed=1)
    x, log_det = Stack([f, g], axis=-1)(z, context)
    first, second = f(z[..., 0], context), g(z[..., 1], context)
    torch.testing.assert_close(x, torch.stack([first[0], second[0]], -1))
    torch.testing.assert_close(log_det, first[1] + second[1])
    with pytest.raises(ShapeError, match="equal event shape"):
        Stack([f, Affine(3)])
    with pytest.raises(ConfigError, match="axis"):
        Stack([f, f], axis=3)


def test_split_along_axis_0_is_concat() -> None:
    f, g = coupling(4), coupling(3)
    same(Split([f, g]), f & g, draw(5, 7))
    same(Split([f, g]), f & g, draw(5, 7), inverse=True)


def test_split_along_another_axis() -> None:
    f, g, z = Affine((2, 1), scale=2.0).double(), Affine((2, 3), loc=1.0).double(), draw(5, 2, 4)
    x, log_det = Split([f, g], axis=-1)(z)
    torch.testing.assert_close(x, torch.cat([2 * z[..., :1], z[..., 1:] + 1], -1))
    torch.testing.assert_close(log_det, torch.full((5,), 2 * math.log(2.0), dtype=torch.float64))
    with pytest.raises(ShapeError, match="known size of part 0"):
        Split([ActNorm((2, None)), ActNorm((2, None))], axis=1)
    with pytest.raises(ShapeError, match="agree beyond"):
        Split([Affine((2, 1)), Affine((3, 1))], axis=1)
    with pytest.raises(ShapeError, match="one size"):
        Split([f, g], axis=1, sizes=(1,))


def test_over_shares_and_vmap_does_not() -> None:
    f, z, context = coupling(context=2), draw(5, 3, 4), draw(5, 2, seed=1)
    rows = [f(z[:, i], context) for i in range(3)]
    x, log_det = Over(f)(z, context)
    torch.testing.assert_close(x, torch.stack([row[0] for row in rows], 1))
    torch.testing.assert_close(log_det, sum(row[1] for row in rows))
    parts = [coupling(context=2) for _ in range(3)]
    vmapped = Vmap(copy.deepcopy(f), 3)
    vmapped.layers.fill(parts)
    for inverse in (False, True):
        same(vmapped, Stack(parts), z, context, inverse)
    assert {parameter.shape[0] for parameter in vmapped.parameters()} == {3}


def test_vmap_starts_apart_and_refuses_what_cannot_be_vectorised() -> None:
    made = Vmap(Coupling(4, AffineUnivariate(), (8,)), 3)
    first = dict(made.named_parameters())["layers.bijector._net.layers.0.weight"]
    assert not torch.equal(first[0], first[1])
    fixed = Affine(2)
    fixed.traits = fixed.traits.but(vmaps=False)
    with pytest.raises(ConfigError, match="Use Stack"):
        Vmap(fixed, 2)


def test_sandwich_is_conjugation() -> None:
    g, f = LULinear(4).double(), coupling(context=2)
    perturb(g)
    for inverse in (False, True):
        same(Sandwich(g, f), g >> f >> ~g, draw(5, 4), draw(5, 2, seed=1), inverse)
    assert len(list(Sandwich(g, f).state_dict())) == len(g.state_dict()) + len(f.state_dict())
    with pytest.raises(ShapeError, match="keep the shape"):
        Sandwich(g, Affine(3))


# -- scan ----------------------------------------------------------------------------------------------------------


def layers(depth: int = 4, context: int = 0) -> Chain:
    made = Chain([part for _ in range(depth) for part in (LULinear(4), ActNorm((4,)), coupling(4, context), Permutation([1, 2, 3, 0]))]).double()
    perturb(made, seed=3)
    return made


@pytest.mark.parametrize("inverse", [False, True])
def test_scan_is_the_chain(inverse: bool) -> None:
    chain = layers(context=2)
    scan = Scan.from_chain(chain, period=4)
    z, context = draw(6, 4), draw(6, 2, seed=1)
    for _ in range(2):
        same(scan, chain, z, context, inverse)
        with torch.no_grad():  # what maps keep for later calls must not leak from layer to layer
            same(scan, chain, z, context, inverse)
    gradients = []
    for model in (scan, chain):
        value, log_det = (model.inverse if inverse else model)(z, context)
        (value.square().sum() - log_det.sum()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        part, rest = name.removeprefix("layers.bijector.transforms.").split(".", 1)
        wanted = torch.stack([gradients[1][f"transforms.{4 * i + int(part)}.{rest}"] for i in range(4)])
        torch.testing.assert_close(gradient, wanted)


def test_scan_state_is_stacked_and_converts_back() -> None:
    chain = layers()
    scan = Scan.from_chain(chain, period=4)
    assert all(tensor.shape[0] == 4 for tensor in scan.state_dict().values())
    back = scan.to_chain()
    assert len(back) == 4
    same(back, chain, draw(5, 4))
    flat = Chain([part for layer in back for part in layer])  # type: ignore[attr-defined]
    for key, tensor in chain.state_dict().items():
        assert torch.equal(flat.state_dict()[key], tensor)
    with torch.no_grad():
        next(back.parameters()).add_(1.0)
    same(scan, chain, draw(5, 4))  # the copies are copies


def test_scan_initialises_layer_by_layer() -> None:
    chain = Chain([part for _ in range(3) for part in (ActNorm((4,)), coupling(4))]).double()
    scan = Scan.from_chain(chain, period=2)
    x = 3 * draw(64, 4) + 1
    torch.testing.assert_close(scan.initialize(x, inverse=True), chain.initialize(x, inverse=True))
    same(scan, chain, x, inverse=True)
    assert bool(scan.state_dict()["layers.bijector.transforms.0.initialized"].all())


def test_scan_refuses() -> None:
    with pytest.raises(ConfigError, match="layer 1 is built differently"):
        Scan.from_chain(Chain([coupling(4), LULinear(4)]))
    with pytest.raises(ConfigError, match="multiple of period"):
        Scan.from_chain(Chain([coupling(4)] * 3), period=2)
    with pytest.raises(ShapeError, match="keeps its shape"):
        Scan(build({"name": "reshape", "source": (4,), "target": (2, 2)}, Bijector), 2)


def graph_size(depth: int) -> int:
    """Nodes of the compiled graph of a scan, the body of its loop included."""
    scan = Scan.from_chain(Chain([coupling(2, 1) for _ in range(depth)]))
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    try:
        torch.compile(lambda x, c: scan.inverse(x, c), backend=backend, fullgraph=True)(draw(3, 2), draw(3, 1))
    finally:
        torch._dynamo.reset()
    return sum(len(part.graph.nodes) for graph in found for part in graph.modules() if hasattr(part, "graph"))


def test_scan_compiles_to_one_layer() -> None:
    """Gradients of input, context and parameters agree with eager; the graph does not grow with the depth."""
    assert graph_size(2) == graph_size(5)
    scan = Scan.from_chain(Chain([coupling(2, 1) for _ in range(3)]))

    def loss(x: Tensor, context: Tensor) -> Tensor:
        z, log_det = scan.inverse(x, context)
        return z.square().sum() - log_det.sum()

    at = [draw(6, 2).requires_grad_(), draw(6, 1, seed=1).requires_grad_(), *scan.parameters()]
    wanted = torch.autograd.grad(loss(at[0], at[1]), at)
    try:
        got = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(at[0], at[1]), at)
    finally:
        torch._dynamo.reset()
    torch.testing.assert_close(got, wanted)


# -- graph ---------------------------------------------------------------------------------------------------------


def test_graph_is_a_coupling_by_hand() -> None:
    f, g = Affine(2, context_features=2).double(), Affine(2, context_features=3).double()
    perturb(f)
    perturb(g, seed=2)
    wire = Graph.wire({"x": 4}, context=(1,))
    a, b = wire.split("x", a=2, b=2)
    b = wire.apply("b2", f, to=b, given=a)
    a = wire.apply("a2", g, to=a, given=[b, "context"])
    graph = wire.build(wire.join("y", a, b))
    z, c = draw(5, 4), draw(5, 1, seed=1)
    new_b, first = f(z[:, 2:], z[:, :2])
    new_a, second = g(z[:, :2], torch.cat([new_b, c], -1))
    x, log_det = graph(z, c)
    torch.testing.assert_close((x, log_det), (torch.cat([new_a, new_b], -1), first + second))
    torch.testing.assert_close(graph.inverse(x, c), (z, -log_det))
    again = build(describe(graph), Graph).double()
    again.load_state_dict(graph.state_dict())
    same(again, graph, z, c)


def test_graph_steps_in_any_order_and_shared_weights() -> None:
    f = coupling(2)
    steps = [
        {"join": ["a2", "b2"], "as": "y"},
        {"apply": "f", "to": "b", "as": "b2"},
        {"split": "x", "into": {"a": 2, "b": 2}},
        {"apply": "f", "to": "a", "as": "a2"},
    ]
    graph = Graph({"x": 4}, {"f": f}, steps, "y")
    same(graph, f & f, draw(5, 4))
    assert len(list(graph.parameters())) == len(list(f.parameters()))


def test_graph_matches_freia() -> None:
    """A GraphINN with a split, a conditioned block of its own and a join, that block wrapped as a map of ours."""
    freia = pytest.importorskip("FrEIA.framework")
    modules = pytest.importorskip("FrEIA.modules")
    torch.manual_seed(0)

    def subnet(inside: int, outside: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inside, 8), nn.Tanh(), nn.Linear(8, outside))

    source, condition = freia.InputNode(4), freia.ConditionNode(2)
    parts = freia.Node(source.out0, modules.Split, {"section_sizes": [2, 2]})
    moved = freia.Node(parts.out1, modules.AllInOneBlock, {"subnet_constructor": subnet, "permute_soft": False}, conditions=condition)
    joined = freia.Node([parts.out0, moved.out0], modules.Concat, {})
    peer = freia.GraphINN([source, condition, parts, moved, joined, freia.OutputNode(joined.out0)]).double().eval()
    block = next(module for module in peer.modules() if isinstance(module, modules.AllInOneBlock))
    foreign = Automatic(lambda z, c: block((z,), [c])[0][0], 2, context_shape=(2,), inverse_function=lambda x, c: block((x,), [c], rev=True)[0][0])
    wire = Graph.wire({"x": 4}, context=(2,))
    a, b = wire.split("x", a=2, b=2)
    graph = wire.build(wire.join("y", a, wire.apply("moved", foreign, to=b, given="context")))
    z, c = draw(6, 4), draw(6, 2, seed=1)
    theirs, their_log_det = peer(z, c)
    torch.testing.assert_close(graph(z, c), (theirs, their_log_det), rtol=1e-9, atol=1e-9)
    back, back_log_det = peer(theirs, c, rev=True)
    torch.testing.assert_close(graph.inverse(theirs, c), (back, back_log_det), rtol=1e-9, atol=1e-9)


F2, F4 = {"f": Affine(2)}, {"f": Affine(4)}
C2 = {"f": Affine(2, context_features=2)}
HALVES = {"split": "x", "into": {"a": 2, "b": 2}}
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], list[Any], Any, Any, str]] = {
    "no_steps": ({"x": 4}, {}, [], "x", None, "at least one step"),
    "unknown_kind": ({"x": 4}, {}, [{"merge": "x"}], "x", None, "one of the keys"),
    "unknown_key": ({"x": 4}, F4, [{"apply": "f", "to": "x", "as": "y", "giving": "x"}], "y", None, "Nearest: 'given'"),
    "missing_key": ({"x": 4}, F4, [{"apply": "f", "to": "x"}], "y", None, "needs the key 'as'"),
    "unknown_value": ({"x": 4}, F4, [{"apply": "f", "to": "xx", "as": "y"}], "y", None, "Nearest: 'x'"),
    "unknown_map": ({"x": 4}, F4, [{"apply": "g", "to": "x", "as": "y"}], "y", None, "no bijector is called"),
    "unused_map": ({"x": 4}, {**F4, "g": Affine(4)}, [{"apply": "f", "to": "x", "as": "y"}], "y", None, "'g' is applied by no step"),
    "name_twice": ({"x": 4}, F4, [{"apply": "f", "to": "x", "as": "x"}], "x", None, "name of its own"),
    "used_twice": ({"x": 2}, F2, [{"apply": "f", "to": "x", "as": "y"}, {"apply": "f", "to": "x", "as": "z"}], ["y", "z"], None, "used up by step 0"),
    "never_used": ({"x": 4}, F2, [HALVES, {"apply": "f", "to": "a", "as": "y"}], "y", None, "'b' is used up by no step"),
    "unknown_output": ({"x": 4}, F4, [{"apply": "f", "to": "x", "as": "y"}], "z", None, "nothing is called 'z'"),
    "cycle": (
        {"x": 2},
        {"f": Affine(4)},
        [{"join": ["x", "b"], "as": "j"}, {"apply": "f", "to": "j", "as": "k"}, {"split": "k", "into": {"a": 2, "b": 2}}],
        "a",
        None,
        "cycle",
    ),
    "own_condition": ({"x": 2}, C2, [{"apply": "f", "to": "x", "as": "y", "given": "x"}], "y", None, "conditioned on 'x', which the inverse only knows"),
    "late_condition": (
        {"x": 4},
        {"f": Affine(2, context_features=2), "g": Affine(2, context_features=2)},
        [HALVES, {"apply": "f", "to": "a", "as": "a2", "given": "b"}, {"apply": "g", "to": "b", "as": "b2", "given": "a"}, {"join": ["a2", "b2"], "as": "y"}],
        "y",
        None,
        "which the inverse only knows",
    ),
    "context_unused": ({"x": 2}, F2, [{"apply": "f", "to": "x", "as": "y"}], "y", (2,), "conditions no step"),
    "context_mapped": ({"x": 2}, F2, [{"apply": "f", "to": "x", "as": "y"}, {"join": ["y", "context"], "as": "z"}], "z", (2,), "context"),
    "context_missing": ({"x": 2}, C2, [{"apply": "f", "to": "x", "as": "y"}], "y", None, "expects a context"),
    "context_not_wanted": ({"x": 2}, F2, [{"apply": "f", "to": "x", "as": "y", "given": "context"}], "y", (2,), "takes no context"),
    "bad_name": ({"x": 4}, {"keys": Affine(4)}, [{"apply": "keys", "to": "x", "as": "y"}], "y", None, "identifiers"),
    "names_not_strings": ({"x": 4}, F4, [{"apply": "f", "to": ["x"], "as": "y"}], "y", None, "names of values as strings"),
}
MISSHAPEN: dict[str, tuple[dict[str, Any], dict[str, Any], list[Any], Any, Any, str]] = {
    "map": ({"x": 3}, F4, [{"apply": "f", "to": "x", "as": "y"}], "y", None, r"expects \(4,\)"),
    "split": ({"x": 5}, F4, [HALVES, {"join": ["b", "a"], "as": "y"}], "y", None, "do not add up"),
    "join": ({"x": (2, 2), "y": (2, 3)}, F4, [{"join": ["x", "y"], "as": "z"}], "z", None, "agree beyond axis 0"),
    "context": ({"x": 2}, C2, [{"apply": "f", "to": "x", "as": "y", "given": "context"}], "y", (3,), "expects a context of shape"),
    "inputs": ({"x": (2, 2), "y": (2, 3)}, {"f": Affine((2, 2))}, [{"apply": "f", "to": "x", "as": "z"}], ["z", "y"], None, "agree beyond axis 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_graph_refuses(name: str) -> None:
    inputs, bijectors, steps, output, context, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        Graph(inputs, bijectors, steps, output, context=context)


@pytest.mark.parametrize("name", MISSHAPEN)
def test_graph_refuses_shapes(name: str) -> None:
    inputs, bijectors, steps, output, context, message = MISSHAPEN[name]
    bijectors = bijectors if any("apply" in step for step in steps) else {}
    with pytest.raises(ShapeError, match=message):
        Graph(inputs, bijectors, steps, output, context=context)


# -- automatic -----------------------------------------------------------------------------------------------------


class Wave(nn.Module):
    """z + 0.5 sin(A z): invertible where the spectral norm of A is below 2."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.5, 0.8, 0.1], [-0.3, 0.6, 0.2], [0.7, 0.0, 0.9]]))

    def forward(self, z: Tensor) -> Tensor:
        return z + 0.5 * torch.sin(z @ self.matrix.T)


def test_automatic_dense_against_the_closed_form() -> None:
    f = Automatic(Wave(), 3).double()
    z = draw(5, 3)
    x, log_det = f(z)
    matrix = f.function.matrix  # type: ignore[union-attr]
    jacobian = torch.eye(3, dtype=torch.float64) + 0.5 * torch.cos(z @ matrix.T).unsqueeze(-1) * matrix
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    back, back_log_det = f.inverse(x)
    torch.testing.assert_close((back, back_log_det), (z, -log_det))
    torch.autograd.gradcheck(lambda x: f.inverse(x), x.detach().requires_grad_())
    torch.autograd.gradgradcheck(lambda x: f.inverse(x), x.detach().requires_grad_())
    with torch.inference_mode():
        torch.testing.assert_close(f.inverse(f(z)[0])[0], z)


def test_automatic_trains_but_an_unregistered_function_is_not_saved(tmp_path: Any) -> None:
    for function in (Wave(), torch.sinh):
        flow = fk.Flow(fk.distributions.StandardNormal(3), ~Automatic(function, 3, jacobian="dense" if isinstance(function, Wave) else "diagonal"))
        flow.log_prob(torch.randn(4, 3)).mean()
        with pytest.raises(ConfigError, match=r"bijector.*function"):
            fk.save(flow, tmp_path / "flow")


def test_automatic_without_solution() -> None:
    positive = Automatic(torch.exp, 2, jacobian="diagonal").double()
    x = torch.tensor([[-1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    with pytest.raises(NotInvertibleError, match="no solution found for 1 of 2"):
        positive.inverse(x)
    got = torch.func.vmap(lambda row: positive.inverse(row)[0])(x)
    assert bool(got[0].isnan().any()) and bool(got[1].isfinite().all())
    bounded = Automatic(lambda z: z / (1 + z.square().sum(-1, keepdim=True)).sqrt(), 2).double()
    torch.testing.assert_close(bounded(bounded.inverse(x / 4)[0])[0], x / 4)
    with pytest.raises(NotInvertibleError, match="1 of 2"):
        bounded.inverse(torch.tensor([[0.3, 0.4], [3.0, 4.0]], dtype=torch.float64))


@pytest.mark.parametrize("bad", [{"function": 3}, {"jacobian": "sparse"}, {"shape": (None,)}])
def test_automatic_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ShapeError), match="Automatic"):
        Automatic(**{"function": torch.sinh, "shape": 2, **bad})
    with pytest.raises(ShapeError, match="keep the shape"):
        Automatic(lambda z: z.sum(-1), 2)(torch.zeros(3, 2))


# -- tied weights --------------------------------------------------------------------------------------------------


def tied_across() -> Chain:
    """Two maps with one tensor in common."""
    chain = Chain([Affine(2), Affine(2)]).double()
    chain[1].log_scale = chain[0].log_scale  # type: ignore[union-attr]
    return chain


TIED = {"module": lambda: (LULinear(2) ** 2).double(), "tensor": tied_across, "both": lambda: tied_across() ** 2}


@pytest.mark.parametrize("kind", list(TIED))
def test_scan_of_tied_weights(kind: str) -> None:
    scan, x = Scan(TIED[kind](), 3), draw(5, 2)
    perturb(scan, seed=1)
    before = {name: (type(p), p.shape) for name, p in scan.named_parameters()}
    chain = scan.to_chain()
    for inverse in (False, True):
        same(scan, chain, x, inverse=inverse)
    assert {name: (type(p), p.shape) for name, p in scan.named_parameters()} == before
    value, log_det = scan(x)
    found = torch.autograd.grad(value.square().sum() + log_det.sum(), list(scan.parameters()))
    value, log_det = chain(x)
    each = [torch.autograd.grad(value.square().sum() + log_det.sum(), list(layer.parameters()), retain_graph=True) for layer in chain]  # type: ignore[attr-defined]
    assert len(found) == len(each[0])
    for i, gradient in enumerate(found):
        torch.testing.assert_close(gradient, torch.stack([layer[i] for layer in each]))


def test_vmap_of_tied_weights() -> None:
    vmapped, x = Vmap((Planar(1) ** 2).double(), 2), draw(5, 2, 1)
    perturb(vmapped, seed=1)
    same(vmapped, Stack([vmapped.layers.layer(i) for i in range(2)]), x)
    assert all(isinstance(p, nn.Parameter) for p in vmapped.parameters()) and len(list(vmapped.parameters())) == len(list(Planar(1).parameters()))
    across = Vmap(tied_across(), 2)
    perturb(across, seed=1)
    same(across, Stack([across.layers.layer(i) for i in range(2)]), draw(5, 2, 2), inverse=True)


def test_random_weights_of_tied_maps() -> None:
    flow = fk.Flow(StandardNormal((2,)), LULinear(2) ** 2)
    model, x = fk.flows.Bayesian(flow, scale=1e-6), torch.randn(4, 2)
    before, names = model.log_prob(x), [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(model.log_prob(x, weight_draws=2), before, atol=1e-4, rtol=1e-4)
    assert [name for name, _ in model.named_parameters()] == names and torch.equal(model.log_prob(x), before)
