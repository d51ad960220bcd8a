"""Defects of FrEIA: blocks, images, state and graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import flowkit as fk
from _peer_defects.case import Defect, at_most, exactly
from _peer_defects.shared import EndingInTanh, Pair, pair, pickled

POINTS = torch.linspace(-2.0, 2.0, 24).reshape(6, 4)


def _modules() -> Any:
    import FrEIA.modules

    return FrEIA.modules


def _pair(module: Any) -> Pair:
    """Both directions of a module, which takes and returns tuples; some return a log_det of one number for all rows."""

    def run(rev: bool) -> Any:
        def call(x: Tensor) -> tuple[Tensor, Tensor]:
            (value, *_), log_det = module([x], rev=rev)
            return value, torch.as_tensor(log_det, dtype=x.dtype).expand(x.shape[:1])

        return call

    return Pair(run(False), run(True))


def _dense(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 8), nn.ReLU(), nn.Linear(8, out_features))


def _block(net: Any = _dense) -> Any:
    return _modules().AllInOneBlock([(4,)], subnet_constructor=net)


def _block_ours(**options: Any) -> Any:
    return fk.bijectors.AllInOneBlock(4, (8,), **options)


def _input_changed(inverse: Any) -> Tensor:
    """How far the caller's tensor moved."""
    z = torch.randn(2, 4, 3, 3)
    kept = z.clone()
    inverse(z)
    return (z - kept).abs().max()


def _trains(forward: Any) -> int:
    value, log_det = forward(POINTS.clone())
    (value.sum() + log_det.sum()).backward()
    return 1


def _tanh_ours() -> Any:
    coupling = fk.bijectors.Coupling(4, fk.univariates.Affine(), conditioner=EndingInTanh(2, 4))
    return lambda x: coupling(x)


def _started(start: Any) -> Tensor:
    """Distance from 1 of the standard deviations after starting from a batch."""
    return (start(3 * torch.randn(100, 2) + 1).std(0, correction=0) - 1).abs().max()


def _start_theirs(batch: Tensor) -> Tensor:
    layer = _modules().ActNorm([(2,)], init_data=batch)
    return _pair(layer).forward(batch)[0]


def _start_ours(batch: Tensor) -> Tensor:
    return fk.bijectors.ActNorm(2).initialize(batch)


def _sequence(*modules: tuple[Any, dict[str, Any]]) -> Any:
    from FrEIA.framework import SequenceINN

    sequence = SequenceINN(4)
    for module, arguments in modules:
        sequence.append(module, **arguments)
    return sequence


def _shape_of_log_det(forward: Any) -> str:
    log_det = forward(POINTS)[1]
    return str(tuple(log_det.shape)) if isinstance(log_det, Tensor) else type(log_det).__name__


def _replaced(forward_and_put: Any) -> Tensor:
    """Change of the output when a layer is replaced where the network holds it, as DataParallel's replicas do."""
    forward, put = forward_and_put
    before = forward(POINTS)[0].detach()
    put()
    return (forward(POINTS)[0] - before).abs().max()


def _graph_theirs() -> Any:
    from FrEIA.framework import GraphINN, InputNode, Node, OutputNode

    start = InputNode(4)
    node = Node(start, _modules().AllInOneBlock, {"subnet_constructor": _dense})
    graph = GraphINN([start, node, OutputNode(node)])
    return graph, lambda: graph.module_list.__setitem__(0, _block())


def _graph_ours() -> Any:
    wire = fk.bijectors.Graph.wire({"x": 4})
    graph = wire.build(wire.apply("block", _block_ours(), to="x"))
    return graph, lambda: graph.maps.update({"block": fk.bijectors.Affine(4, loc=1.0)})


DEFECTS = [
    Defect(
        name="haar-overwrites-the-input",
        peer="FrEIA",
        statement="The inverse Haar transform multiplies the caller's tensor in place.",
        source="found here",
        quantity="change of the input",
        **exactly(0.0),
        measure=_input_changed,
        theirs=lambda: _pair(_modules().HaarDownsampling([(1, 6, 6)])).inverse,
        ours=lambda: fk.bijectors.Haar(1).inverse,
    ),
    Defect(
        name="in-place-breaks-autograd",
        peer="FrEIA",
        statement="AllInOneBlock scales its net's output in place: nets that end in tanh, sigmoid or exp cannot be trained.",
        source="found here",
        quantity="gradients of a coupling whose net ends in tanh",
        **exactly(1, "computed"),
        measure=_trains,
        theirs=lambda: _pair(_block(EndingInTanh)).forward,
        ours=_tanh_ours,
        raises="RuntimeError",
    ),
    Defect(
        name="coupling-not-picklable",
        peer="FrEIA",
        statement="Coupling blocks hold lambdas and do not pickle, so torch.save(model) fails.",
        source="survey section 3, row 21 (as normflows #43)",
        quantity="comes back from pickle",
        **exactly(1),
        measure=pickled,
        theirs=lambda: _modules().AllInOneBlock([(4,)], subnet_constructor=nn.Linear),
        ours=_block_ours,
        raises="AttributeError",
    ),
    Defect(
        name="empty-batch",
        peer="FrEIA",
        statement="AllInOneBlock fails on an empty batch.",
        source="found here (survey section 3, row 34)",
        quantity="shape of the log_det of no rows",
        **exactly((0,)),
        measure=lambda maps: tuple(maps.forward(torch.zeros(0, 4))[1].shape),
        theirs=lambda: _pair(_block()),
        ours=lambda: pair(_block_ours()),
        raises="IndexError",
    ),
    Defect(
        name="act-norm-start-data",
        peer="FrEIA",
        statement="ActNorm cannot be started from a given batch: the argument is tested for truth.",
        source="FrEIA PR #33, PR #165 (the same class)",
        quantity="distance from 1 of the standard deviations after the start",
        **at_most(0.02),
        measure=_started,
        theirs=lambda: _start_theirs,
        ours=lambda: _start_ours,
        raises="RuntimeError",
    ),
    Defect(
        name="log-det-is-a-number",
        peer="FrEIA",
        statement="Volume-preserving layers return the log_det 0.0, a Python number, so a network of them has no log_det per row.",
        source="normflows #17 (the same cause)",
        quantity="shape of the log_det of 6 rows of additive couplings",
        **exactly("(6,)"),
        measure=_shape_of_log_det,
        theirs=lambda: _sequence((_modules().NICECouplingBlock, {"subnet_constructor": _dense}), (_modules().PermuteRandom, {})),
        ours=lambda: fk.bijectors.Coupling(4, fk.univariates.Shift(), (8,)) >> fk.bijectors.Permutation((3, 2, 1, 0)),
    ),
    Defect(
        name="graph-keeps-its-own-layers",
        peer="FrEIA",
        statement="GraphINN calls layers through its nodes, not through its module list: what replaces a layer there, a replica say, is never run.",
        source="FrEIA #99, #112, #123 (a likely cause of DataParallel failing)",
        quantity="change of the output when the layer is replaced",
        right=lambda change: change > 1e-3,
        wanted="above 0.001",
        measure=_replaced,
        theirs=_graph_theirs,
        ours=_graph_ours,
    ),
]
