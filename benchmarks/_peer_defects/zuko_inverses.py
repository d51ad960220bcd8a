"""Defects of zuko: numerical inverses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import flowkit as fk
from _peer_defects.case import Defect, at_most
from _peer_defects.shared import Pair, network_passes, pair, randomized, round_trip

FAR = torch.tensor([[-30.0], [0.5], [30.0]])


def _maps() -> Any:
    import zuko.transforms

    return zuko.transforms


def _pair(transform: Any) -> Pair:
    """Both directions of a transform of zuko."""
    return Pair(transform.call_and_ladj, transform.inv.call_and_ladj)


def _elementwise(univariate: Any) -> Any:
    """A flowkit univariate on one coordinate, every parameter drawn from N(0, 1)."""
    return randomized(fk.bijectors.Elementwise(1, univariate))


def _vmapped_inverse(maps: Pair) -> Tensor:
    """Difference between the inverse of a batch and vmap over its rows."""
    x = torch.randn(8, 1)
    return (torch.func.vmap(lambda row: maps.inverse(row)[0])(x) - maps.inverse(x)[0]).abs().max()


def _second_derivative(maps: Pair) -> Tensor:
    """Error of the second derivative of the inverse, by autograd, against finite differences of the first; float64."""
    x = torch.tensor([[0.3], [1.0]], dtype=torch.float64)

    def slope(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        (first,) = torch.autograd.grad(maps.inverse(at)[0].sum(), at, create_graph=True)
        return first

    at = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(maps.inverse(at)[0].sum(), at, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), at)
    return (second - (slope(x + 1e-5) - slope(x - 1e-5)) / 2e-5).abs().max()


def _squares_theirs(dtype: torch.dtype = torch.float32) -> Any:
    coefficients = torch.randn(3, 2, dtype=dtype)
    return _pair(_maps().SOSPolynomialTransform(coefficients, torch.zeros((), dtype=dtype)))


def _squares_ours(dtype: torch.dtype = torch.float32) -> Any:
    return pair(_elementwise(fk.univariates.SumOfSquares(3, 3)).to(dtype))


def _network_theirs() -> Any:
    return _pair(_flows().NAF(1, transforms=1)().transform)


def _flows() -> Any:
    import zuko.flows

    return zuko.flows


def _sampled_theirs() -> Any:
    flow = _flows().NSF(16, transforms=1, hidden_features=(16,))
    return flow, lambda: flow().sample((4,))


def _sampled_ours() -> Any:
    flow = fk.flows.NeuralSplineFlow(16, layers=1, hidden=(16,))
    return flow, lambda: flow.sample((4,))


DEFECTS = [
    Defect(
        name="bisection-saturates",
        peer="zuko",
        statement="Numerical inverses bisect on [-10, 10]: whatever lies beyond comes back as 10.",
        source="survey section 2; zuko #55, #20",
        quantity="round-trip error at -30, 1/2 and 30, sums of squares of degree 1",
        **at_most(1e-3),
        measure=round_trip(FAR),
        theirs=_squares_theirs,
        ours=_squares_ours,
    ),
    Defect(
        name="neural-inverse-saturates",
        peer="zuko",
        statement="The same of neural autoregressive flows.",
        source="zuko #55, #20",
        quantity="round-trip error at -30, 1/2 and 30",
        **at_most(1e-3),
        measure=round_trip(FAR),
        theirs=_network_theirs,
        ours=lambda: pair(_elementwise(fk.univariates.DeepSigmoidal())),
    ),
    Defect(
        name="inverse-does-not-vmap",
        peer="zuko",
        statement="Numerical inverses do not work under torch.func.vmap.",
        source="found here (survey section 3, row 41)",
        quantity="difference between a batch and vmap over its rows",
        **at_most(1e-5),
        measure=_vmapped_inverse,
        theirs=_squares_theirs,
        ours=_squares_ours,
        raises="RuntimeError",
    ),
    Defect(
        name="inverse-differentiable-once",
        peer="zuko",
        statement="Numerical inverses have no second derivative.",
        source="found here (survey section 3, row 41)",
        quantity="error of the second derivative",
        **at_most(1e-4),
        measure=_second_derivative,
        theirs=lambda: _squares_theirs(torch.float64),
        ours=lambda: _squares_ours(torch.float64),
        raises="RuntimeError",
    ),
    Defect(
        name="sampling-sequential-by-default",
        peer="zuko",
        statement="The neural spline flow is fully autoregressive by default, so sampling runs its network once per coordinate.",
        source="zuko #2",
        quantity="network passes per layer to sample 16 coordinates, default options",
        **at_most(1),
        measure=network_passes,
        theirs=_sampled_theirs,
        ours=_sampled_ours,
    ),
]
