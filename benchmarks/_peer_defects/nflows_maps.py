"""Defects of nflows: splines, scales and elementwise maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import flowkit as fk
from _peer_defects.case import Defect, at_most, exactly
from _peer_defects.shared import BINS, BOUND, Fixed, Pair, network_passes, not_finite, not_finite_below_knots, pair, round_trip


def _transforms() -> Any:
    import nflows.transforms

    return nflows.transforms


def _net(in_features: int, out_features: int) -> nn.Module:
    from nflows.nn.nets import ResidualNet

    return ResidualNet(in_features, out_features, hidden_features=8, context_features=None)


def _spline_theirs() -> Any:
    from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline as spline

    return lambda y, params: spline(y, *params.split([BINS, BINS, BINS - 1], dim=-1), inverse=True, tail_bound=BOUND)


def _cubic_round_trip(maps: Any) -> int:
    """Values not finite after forward and inverse, parameters 3 N(0, 1)."""
    params, x = 3 * torch.randn(20_000, 2 * BINS + 2), 2 * BOUND * torch.rand(20_000) - BOUND
    y, log_slope = maps[0](x, params)
    return not_finite(y, log_slope, *maps[1](y, params))


def _cubic_theirs() -> Any:
    from nflows.transforms.splines import unconstrained_cubic_spline as spline

    def run(inverse: bool) -> Any:
        return lambda x, params: spline(x, *params.split([BINS, BINS, 1, 1], dim=-1), inverse=inverse, tail_bound=BOUND)

    return run(False), run(True)


def _cubic_ours() -> Any:
    spline = fk.univariates.CubicSpline(BINS, BOUND)
    return (
        lambda x, params: spline.transform(x, params[..., : spline.parameter_count]),
        lambda y, params: spline.untransform(y, params[..., : spline.parameter_count]),
    )


def _row_outside(log_prob: Any) -> str:
    """Log-densities of a batch with one row outside the unit square."""
    values = log_prob(torch.tensor([[0.3, 0.6], [0.3, 1.5]]))
    return ", ".join("finite" if bool(torch.isfinite(value)) else str(float(value)) for value in values)


def _unit_square_theirs() -> Any:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    transforms = _transforms()
    steps = [transforms.PiecewiseRationalQuadraticCDF([2], tails=None), transforms.Logit()]
    return Flow(transforms.CompositeTransform(steps), StandardNormal([2])).log_prob


def _unit_square_ours() -> Any:
    spline = fk.bijectors.Elementwise(2, fk.univariates.RationalQuadraticSpline(10, (0.0, 1.0), ends="bounded"))
    return fk.Flow(fk.distributions.StandardNormal(2), fk.bijectors.Sigmoid(2) >> spline).log_prob


def _vmapped(coupling: Any) -> Tensor:
    """Difference between a batch and vmap over its rows."""
    x = torch.randn(16, 4)
    return (torch.func.vmap(lambda row: coupling(row.unsqueeze(0))[0].squeeze(0))(x) - coupling(x)[0]).abs().max()


def _autoregressive_theirs() -> Any:
    layer = _transforms().MaskedAffineAutoregressiveTransform(16, 16)
    return layer, lambda: layer.inverse(torch.randn(4, 16))


def _autoregressive_ours() -> Any:
    layer = fk.bijectors.Autoregressive(16, fk.univariates.Affine(), (16,), passes=2)
    return layer, lambda: layer.inverse(torch.randn(4, 16))


DEFECTS = [
    Defect(
        name="spline-assertion",
        peer="nflows",
        statement="The inverse of the rational-quadratic spline asserts that its discriminant is not negative; in float32 it is, next to knots.",
        source="nflows #87, PR #71",
        quantity="values and log-derivatives not finite, one rounding below 20,000 knots",
        **exactly(0),
        measure=not_finite_below_knots,
        theirs=_spline_theirs,
        ours=lambda: fk.univariates.RationalQuadraticSpline(BINS, BOUND).untransform,
        raises="AssertionError",
    ),
    Defect(
        name="cubic-spline-nan",
        peer="nflows",
        statement="The inverse of the cubic spline gives NaN inside the interval.",
        source="nflows #62 (the same spline); NaN found here",
        quantity="values not finite in 20,000 round trips",
        **exactly(0),
        measure=_cubic_round_trip,
        theirs=_cubic_theirs,
        ours=_cubic_ours,
    ),
    Defect(
        name="row-outside-kills-batch",
        peer="nflows",
        statement="One row outside a bounded spline's interval raises for the whole batch instead of having no density.",
        source="nflows #62",
        quantity="log-densities of a row inside and one outside the unit square",
        **exactly("finite, -inf"),
        measure=_row_outside,
        theirs=_unit_square_theirs,
        ours=_unit_square_ours,
        raises="InputOutsideDomain",
    ),
    Defect(
        name="spline-gathers-by-mask",
        peer="nflows",
        statement="Spline layers look at values on the host and gather by boolean masks, so they neither vmap nor stay free of synchronisation.",
        source="survey section 2",
        quantity="difference between a batch and vmap over its rows",
        **at_most(1e-5),
        measure=_vmapped,
        theirs=lambda: _transforms().PiecewiseRationalQuadraticCouplingTransform([1, 1, 0, 0], _net, num_bins=BINS, tails="linear"),
        ours=lambda: fk.bijectors.Coupling(4, fk.univariates.RationalQuadraticSpline(BINS), (8,)),
        raises="RuntimeError",
    ),
    Defect(
        name="affine-scale-capped",
        peer="nflows",
        statement="The default affine coupling can shrink but hardly stretch, whatever the conditioner says.",
        source="nflows #49",
        quantity="scale where the conditioner returns 1,000",
        right=lambda scale: scale >= 10,
        wanted="at least 10",
        measure=lambda coupling: coupling(torch.randn(1, 2))[1].exp(),
        theirs=lambda: _transforms().AffineCouplingTransform([1, 0], lambda i, o: Fixed(o, 1e3)),
        ours=lambda: fk.bijectors.Coupling(2, fk.univariates.Affine(), conditioner=Fixed(2, 1e3)),
    ),
    Defect(
        name="tanh-log-det-infinite",
        peer="nflows",
        statement="The log_det of Tanh is log(1 - tanh^2): minus infinity from about 9 on in float32.",
        source="found here (survey section 3, row 32)",
        quantity="error of the log_det at 10",
        **at_most(1e-4),
        measure=lambda tanh: (tanh(torch.tensor([[10.0]]))[1] - (2 * torch.log(torch.tensor(2.0)) - 20)).abs(),
        theirs=lambda: _transforms().Tanh(),
        ours=lambda: fk.bijectors.Tanh(1),
    ),
    Defect(
        name="logit-clamped",
        peer="nflows",
        statement="The inverse of Sigmoid clamps to [1e-6, 1 - 1e-6] in any precision: values beyond 13.8 come back as 13.8.",
        source="found here",
        quantity="round-trip error at 20, float64",
        **at_most(1e-6),
        measure=round_trip(torch.tensor([[20.0]], dtype=torch.float64)),
        theirs=lambda: Pair(_transforms().Sigmoid(), _transforms().Sigmoid().inverse),
        ours=lambda: pair(fk.bijectors.Sigmoid(1)),
    ),
    Defect(
        name="one-pass-per-coordinate",
        peer="nflows",
        statement="Autoregressive maps invert with one network pass per coordinate, and have no option to group coordinates.",
        source="survey section 2",
        quantity="network passes of the sequential direction, 16 coordinates in as few groups as the library allows",
        **at_most(2),
        measure=network_passes,
        theirs=_autoregressive_theirs,
        ours=_autoregressive_ours,
    ),
]
