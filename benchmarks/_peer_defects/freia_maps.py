"""Defects of FrEIA: residual, linear and scaling layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import flowkit as fk
from _peer_defects.case import Defect, at_most, exactly
from _peer_defects.shared import Pair, log_det_error, not_finite, pair, randomized, round_trip


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


def _contraction() -> Any:
    layer = _modules().IResNetLayer([(1,)])  # in one dimension its trace estimate is exact
    layer.lipschitz_correction()
    return layer


def _contraction_ours() -> Any:
    return fk.bijectors.ResidualOf(randomized(fk.nets.LipschitzMLP(1, 1, (8,), coefficient=0.8)))


def _log_det_gradient(forward_and_module: Any) -> Tensor:
    """Largest gradient of the log_det in the parameters."""
    forward, module = forward_and_module
    forward(torch.randn(4, 1))[1].sum().backward()
    return torch.stack([p.grad.abs().max() for p in module.parameters() if p.grad is not None]).max()


def _log_dets_cancel(maps: Pair) -> Tensor:
    """Largest sum of the log_dets of forward and inverse."""
    x = torch.tensor([[-2.0], [0.3], [1.5]])
    y, log_det = maps.forward(x)
    return (log_det + maps.inverse(y.detach())[1]).abs().max()


def _without_graph(maps: Pair) -> int:
    with torch.no_grad():
        return not_finite(*maps.inverse(torch.randn(4, 1)))


def _input_flag(maps: Pair) -> bool:
    """Whether the caller's tensor requires gradients after a call."""
    x = torch.randn(4, 1)
    maps.forward(x)
    return x.requires_grad


def _scaling(init: float) -> Any:
    return _modules().LearnedElementwiseScaling([(3,)], init_scale=init)


def _scaling_started() -> Any:
    layer = _scaling(1.0)
    nn.init.ones_(layer.s)
    return _pair(layer)


def _scaled_sum(maps: Pair) -> Tensor:
    x = torch.ones(2, 3)
    y, log_det = maps.forward(x)
    return (log_det + maps.inverse(y)[1]).abs().max()


def _descended(maps_and_module: Any) -> Tensor:
    """Round-trip error after 50 steps of gradient descent on the density of correlated data."""
    maps, module = maps_and_module
    x = torch.randn(64, 4) @ torch.randn(4, 4)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    for _ in range(50):
        optimizer.zero_grad()
        z, log_det = maps.forward(x)
        (0.5 * z.square().sum(-1) - log_det).mean().backward()
        optimizer.step()
    return round_trip(x)(maps)


def _orthogonal_theirs() -> Any:
    layer = _modules().OrthogonalTransform([(4,)])
    layer.back_counter = 0  # it starts at random; the matrix is made orthogonal again once in 256 steps
    return _pair(layer), layer


def _orthogonal_ours() -> Any:
    layer = fk.bijectors.Orthogonal(4) >> fk.bijectors.Affine(4)
    return pair(layer), layer


def _invertible_autoencoder() -> Any:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):  # its constructor prints
        return _modules().InvAutoFC([(3,)])


DEFECTS = [
    Defect(
        name="residual-log-det-detached",
        peer="FrEIA",
        statement="The log_det of an i-ResNet layer is detached from the parameters: its term of the likelihood has no gradient.",
        source="survey section 2",
        quantity="largest gradient of the log_det in the parameters",
        right=lambda gradient: gradient > 1e-6,
        wanted="above 1e-6",
        measure=_log_det_gradient,
        theirs=lambda: (lambda layer: (_pair(layer).forward, layer))(_contraction()),
        ours=lambda: (lambda layer: (layer, layer))(_contraction_ours()),
        raises="RuntimeError",
    ),
    Defect(
        name="residual-log-det-at-wrong-point",
        peer="FrEIA",
        statement="The log_det of the inverse of an i-ResNet layer is taken at the layer's output, not at the point recovered.",
        source="survey section 2",
        quantity="largest sum of the log_dets of forward and inverse",
        **at_most(1e-4),
        measure=_log_dets_cancel,
        theirs=lambda: _pair(_contraction()),
        ours=lambda: pair(_contraction_ours()),
    ),
    Defect(
        name="residual-fails-under-no-grad",
        peer="FrEIA",
        statement="An i-ResNet layer cannot be evaluated under no_grad.",
        source="found here",
        quantity="values not finite in the inverse under no_grad",
        **exactly(0),
        measure=_without_graph,
        theirs=lambda: _pair(_contraction()),
        ours=lambda: pair(_contraction_ours()),
        raises="RuntimeError",
    ),
    Defect(
        name="residual-marks-the-input",
        peer="FrEIA",
        statement="An i-ResNet layer switches requires_grad on in the caller's tensor.",
        source="found here",
        quantity="input requires gradients after a call",
        **exactly(False),
        measure=_input_flag,
        theirs=lambda: _pair(_contraction()),
        ours=lambda: pair(_contraction_ours()),
    ),
    Defect(
        name="scaling-log-det-sign",
        peer="FrEIA",
        statement="LearnedElementwiseScaling returns the forward log_det for the inverse too.",
        source="found here (survey section 3, row 23)",
        quantity="sum of the log_dets of forward and inverse, scales e",
        **at_most(1e-6),
        measure=_scaled_sum,
        theirs=_scaling_started,
        ours=lambda: pair(fk.bijectors.Affine(3, scale=2.718281828)),
    ),
    Defect(
        name="scaling-start-ignored",
        peer="FrEIA",
        statement="LearnedElementwiseScaling multiplies its init_scale by zero and starts at 1.",
        source="found here",
        quantity="value at 1 of a scaling started at 5, error",
        **at_most(1e-5),
        measure=lambda maps: (maps.forward(torch.ones(1, 3))[0] - 5).abs().max(),
        theirs=lambda: _pair(_scaling(5.0)),
        ours=lambda: pair(fk.bijectors.Affine(3, scale=5.0)),
    ),
    Defect(
        name="orthogonal-drifts",
        peer="FrEIA",
        statement="OrthogonalTransform trains a free matrix, projects it once in 256 steps, and meanwhile inverts it by its transpose.",
        source="survey section 4 (its tests of orthogonal layers return at once)",
        quantity="round-trip error after 50 gradient steps",
        **at_most(1e-4),
        measure=_descended,
        theirs=_orthogonal_theirs,
        ours=_orthogonal_ours,
    ),
    Defect(
        name="autoencoder-layer-log-det",
        peer="FrEIA",
        statement="InvAutoFC reports a log_det of 0 for a matrix that is not orthogonal (it warns; its constructor prints).",
        source="survey section 1A",
        quantity="error of the log_det",
        **at_most(1e-4),
        measure=lambda forward: log_det_error(torch.randn(3))(lambda x: tuple(part.squeeze(0) for part in forward(x.unsqueeze(0)))),
        theirs=lambda: _pair(_invertible_autoencoder()).forward,
        ours=lambda: randomized(fk.bijectors.Linear(3)),
    ),
]
