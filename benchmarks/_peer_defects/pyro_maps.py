"""Defects of Pyro."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import flowkit as fk
from _peer_defects.case import Defect, at_most, exactly
from _peer_defects.shared import BINS, BOUND, Pair, log_det_error, not_finite_below_knots, pair, randomized, round_trip

POINTS = torch.linspace(-2.0, 2.0, 12).reshape(6, 2)


def _transforms() -> Any:
    import pyro.distributions.transforms

    return pyro.distributions.transforms


# -- inverses -----------------------------------------------------------------------------------------------------------


def _flow_theirs(transform: Any) -> Any:
    import pyro.distributions as dist

    return dist.TransformedDistribution(dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1), [transform]).log_prob


def _flow_ours(bijector: Any) -> Any:
    return fk.Flow(fk.distributions.StandardNormal(2), randomized(bijector, 0.3)).log_prob


def _density_of_data(log_prob: Any) -> int:
    """Log-densities of points that were not drawn from the flow: how many are finite, of 6."""
    return int(torch.isfinite(log_prob(POINTS)).sum())


def _no_inverse(name: str, statement: str, source: str, theirs: str, ours: Any, error: str = "KeyError") -> Defect:
    return Defect(
        name=name,
        peer="pyro",
        statement=statement,
        source=source,
        quantity="finite log-densities of 6 points of data",
        **exactly(6),
        measure=_density_of_data,
        theirs=lambda: _flow_theirs(getattr(_transforms(), theirs)(2)),
        ours=lambda: _flow_ours(ours()),
        raises=error,
    )


# -- splines ------------------------------------------------------------------------------------------------------------


def _edge_kink(forward: Any) -> Tensor:
    """Distance from 1, the slope outside, of the slope at the ends of the interval, float64."""
    edges = torch.tensor([[-BOUND + 1e-9], [BOUND - 1e-9]], dtype=torch.float64)
    return forward(edges)[1].exp().sub(1).abs().max()


def _spline_theirs() -> Any:
    spline = _transforms().Spline(1, count_bins=BINS, bound=BOUND, order="quadratic").double()
    return lambda x: (lambda y: (y, spline.log_abs_det_jacobian(x, y)))(spline(x))


def _spline_ours() -> Any:
    return randomized(fk.bijectors.Elementwise(1, fk.univariates.RationalQuadraticSpline(BINS, BOUND)).double())


def _below_knots_theirs() -> Any:
    from pyro.distributions.transforms.spline import ConditionedSpline

    def inverse(y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights, slopes = params.split([BINS, BINS, BINS - 1], dim=-1)
        parts = (widths.softmax(-1), heights.softmax(-1), torch.nn.functional.softplus(slopes), None)
        spline = ConditionedSpline(tuple(part if part is None else part.unsqueeze(-2) for part in parts), bound=BOUND, order="quadratic")
        x, log_slope = spline.spline_op(y.unsqueeze(-1), inverse=True)
        return x, log_slope

    return inverse


# -- caches, state --------------------------------------------------------------------------------------------------------


def _after_update(forward_and_parameters: Any) -> Tensor:
    """Change of the output for the same input when the parameters have changed."""
    forward, parameters = forward_and_parameters
    before = forward(POINTS).detach()
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)
    return (forward(POINTS) - before).abs().max()


def _planar_theirs() -> Any:
    layer = _transforms().Planar(2)
    return layer, list(layer.parameters())


def _planar_ours() -> Any:
    layer = randomized(fk.bijectors.Planar(2))
    return lambda x: layer(x)[0], list(layer.parameters())


def _copied_after_use(layer: Any) -> int:
    layer(POINTS)
    return int(type(copy.deepcopy(layer)) is type(layer))


def _sylvester_theirs() -> Any:
    layer = randomized(_transforms().Sylvester(3, count_transforms=2))
    return lambda x: (layer._call(x), layer._cached_logDetJ)


def _training_batch(maps: Pair) -> Tensor:
    """Error of forward(inverse(y)) in training mode."""
    y = 3 * torch.randn(64, 2) + 1
    return (maps.forward(maps.inverse(y)[0])[0] - y).abs().max()


def _batch_norm_theirs() -> Any:
    layer = _transforms().BatchNorm(2).train()
    return Pair(lambda x: (layer._call(x), torch.zeros(())), lambda y: (layer._inverse(y), torch.zeros(())))


def _conditional_ours() -> Any:
    layer = randomized(fk.bijectors.Coupling(2, fk.univariates.RationalQuadraticSpline(BINS), (8,), context_features=3), 0.3)
    context = torch.randn(3)
    return Pair(lambda x: layer(x, context), lambda y: layer.inverse(y, context))


DEFECTS = [
    _no_inverse("planar-inverse-from-cache", "The planar map inverts only what it has just produced.", "pyro #2718", "Planar", lambda: fk.bijectors.Planar(2)),
    _no_inverse("radial-inverse-from-cache", "So does the radial map.", "pyro #2718", "Radial", lambda: fk.bijectors.Radial(2)),
    _no_inverse("sylvester-inverse-from-cache", "So does the Sylvester map.", "survey section 2", "Sylvester", lambda: fk.bijectors.Sylvester(2, 2)),
    _no_inverse(
        "polynomial-inverse-from-cache",
        "So does the sum-of-squares polynomial flow.",
        "found here (as pyro #2718)",
        "polynomial",
        lambda: fk.bijectors.Autoregressive(2, fk.univariates.SumOfSquares(2, 2), (8,)),
    ),
    _no_inverse(
        "block-network-inverse-from-cache",
        "So does the block neural autoregressive flow.",
        "found here (as pyro #2718)",
        "block_autoregressive",
        lambda: fk.bijectors.BlockAutoregressive(2),
    ),
    _no_inverse(
        "neural-inverse-missing",
        "The neural autoregressive flow has no inverse at all.",
        "found here (as pyro #2718)",
        "neural_autoregressive",
        lambda: fk.bijectors.Autoregressive(2, fk.univariates.DeepSigmoidal(), (8,)),
        "NotImplementedError",
    ),
    Defect(
        name="sylvester-log-det-wrong",
        peer="pyro",
        statement="The Sylvester map multiplies its factors in an order for which the triangular formula of the log_det does not hold.",
        source="found here",
        quantity="error of the log_det, parameters N(0, 1)",
        **at_most(1e-4),
        measure=log_det_error(torch.tensor([0.3, -1.0, 0.7])),
        theirs=_sylvester_theirs,
        ours=lambda: randomized(fk.bijectors.Sylvester(3, 2)),
    ),
    Defect(
        name="spline-kink-at-edge",
        peer="pyro",
        statement="Splines meet their linear tails with slope 0.999 instead of 1.",
        source="survey section 2",
        quantity="distance from 1 of the slope at the ends",
        **at_most(1e-6),
        measure=_edge_kink,
        theirs=_spline_theirs,
        ours=_spline_ours,
    ),
    Defect(
        name="spline-assertion",
        peer="pyro",
        statement="The inverse of the rational-quadratic spline asserts that its discriminant is not negative.",
        source="survey section 2; pyro #3139, PR #3140 are nearby",
        quantity="values and log-derivatives not finite, one rounding below 20,000 knots",
        **exactly(0),
        measure=not_finite_below_knots,
        theirs=_below_knots_theirs,
        ours=lambda: fk.univariates.RationalQuadraticSpline(BINS, BOUND).untransform,
        raises="AssertionError",
    ),
    Defect(
        name="stale-after-update",
        peer="pyro",
        statement="The same input tensor after an optimiser step returns the old output, until the cache is cleared by hand.",
        source="survey section 1B (cache of size 1); found here",
        quantity="change of the output when all parameters grow by 1",
        right=lambda change: change > 1e-3,
        wanted="above 0.001",
        measure=_after_update,
        theirs=_planar_theirs,
        ours=_planar_ours,
    ),
    Defect(
        name="no-copy-after-use",
        peer="pyro",
        statement="A transform that was called holds a graph in its cache and cannot be copied.",
        source="found here (survey section 3, row 21)",
        quantity="comes back from deepcopy after a call",
        **exactly(1),
        measure=_copied_after_use,
        theirs=lambda: _transforms().Planar(2),
        ours=lambda: fk.bijectors.Planar(2),
        raises="RuntimeError",
    ),
    Defect(
        name="batch-norm-directions-disagree",
        peer="pyro",
        statement="In training, batch normalisation inverts with the batch's statistics and generates with the running ones.",
        source="survey section 1A; zuko #46 asks for such a layer",
        quantity="error of forward(inverse(y)) in training mode",
        **at_most(1e-4),
        measure=_training_batch,
        theirs=_batch_norm_theirs,
        ours=lambda: pair(fk.bijectors.BatchNorm(2).train()),
    ),
    Defect(
        name="no-conditional-spline-coupling",
        peer="pyro",
        statement="There is no conditional spline coupling.",
        source="survey section 2",
        quantity="round-trip error of a spline coupling with a context",
        **at_most(1e-4),
        measure=round_trip(POINTS),
        theirs=lambda: _transforms().conditional_spline_coupling(2, context_dim=3),
        ours=_conditional_ours,
        raises="AttributeError",
    ),
]
