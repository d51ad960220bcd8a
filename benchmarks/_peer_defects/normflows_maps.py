"""Defects of normflows: single maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import flowkit as fk
from _peer_defects.case import Defect, at_most, exactly
from _peer_defects.shared import BINS, BOUND, Fixed, Pair, Slope, not_finite, not_finite_below_knots, pair, randomized, round_trip

POINTS = torch.linspace(-2.0, 2.0, 12).reshape(6, 2)


def _flows() -> Any:
    import normflows

    return normflows.flows


def _eval_statistics(layer: Any) -> Tensor:
    """Largest change of four rows' outputs in eval mode when four other rows leave the batch."""
    x = torch.randn(8, 2)
    layer.eval()
    return (layer(x)[0][:4] - layer(x[:4])[0]).abs().max()


def _overflowing_planar(maps: Any) -> int:
    return not_finite(*maps(POINTS))


def _planar_ours() -> Any:
    layer = fk.bijectors.Planar(2)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_({"u": torch.tensor([10.0, 0.0]), "w": torch.tensor([10.0, 0.0])}.get(name.rsplit(".", 1)[-1], parameter))
    return layer


def _silent_fixed_point(maps: Pair) -> float:
    """Error of the inverse of x -> x - 0.999 x, or 0 if it says that it has not converged."""
    try:
        return float(round_trip(torch.ones(1, 2))(maps))
    except fk.core.errors.NotInvertibleError:
        return 0.0


def _input_flag(layer: Any) -> bool:
    """Whether the caller's tensor requires gradients after a call under no_grad."""
    x = torch.randn(4, 2)
    with torch.no_grad():
        layer(x)
    return x.requires_grad


def _residual_theirs(slope: float) -> Any:
    return _flows().Residual(nn.Sequential(Slope(slope)), reverse=False).eval()


def _residual_ours(slope: float) -> Any:
    return fk.bijectors.ResidualOf(Slope(slope), 2)


def _spline_theirs() -> Any:
    from normflows.utils.splines import unconstrained_rational_quadratic_spline as spline

    return lambda y, params: spline(y, *params.split([BINS, BINS, BINS - 1], dim=-1), inverse=True, tail_bound=BOUND)


def _masked_theirs() -> Any:
    return _flows().MaskedAffineFlow(torch.tensor([1.0, 0.0]), Fixed(2, 1e3), Fixed(2, 1e3))


DEFECTS = [
    Defect(
        name="planar-has-no-inverse",
        peer="normflows",
        statement="The planar map with tanh has no inverse, so data have no density.",
        source="survey section 2",
        quantity="round-trip error",
        **at_most(1e-4),
        measure=round_trip(POINTS),
        theirs=lambda: pair(_flows().Planar((2,))),
        ours=lambda: pair(randomized(fk.bijectors.Planar(2))),
        raises="NotImplementedError",
    ),
    Defect(
        name="radial-has-no-inverse",
        peer="normflows",
        statement="The radial map has no inverse.",
        source="survey section 2",
        quantity="round-trip error",
        **at_most(1e-4),
        measure=round_trip(POINTS),
        theirs=lambda: pair(_flows().Radial((2,))),
        ours=lambda: pair(randomized(fk.bijectors.Radial(2))),
        raises="NotImplementedError",
    ),
    Defect(
        name="batch-norm-has-no-inverse",
        peer="normflows",
        statement="Batch normalisation has no inverse.",
        source="survey section 2",
        quantity="round-trip error",
        **at_most(1e-5),
        measure=round_trip(POINTS),
        theirs=lambda: pair(_flows().BatchNorm()),
        ours=lambda: pair(fk.bijectors.BatchNorm(2)),
        raises="NotImplementedError",
    ),
    Defect(
        name="batch-norm-sees-neighbours",
        peer="normflows",
        statement="Batch normalisation uses the batch at hand in eval mode too: a row's density depends on the others.",
        source="found here",
        quantity="change of a row when other rows leave the batch",
        **at_most(1e-6),
        measure=_eval_statistics,
        theirs=lambda: _flows().BatchNorm(),
        ours=lambda: fk.bijectors.BatchNorm(2),
    ),
    Defect(
        name="planar-overflows",
        peer="normflows",
        statement="The planar map computes log(1 + exp(w.u)) as written: NaN from w.u = 89 on.",
        source="survey section 2",
        quantity="values and log_dets not finite at w.u = 100",
        **exactly(0),
        measure=_overflowing_planar,
        theirs=lambda: _flows().Planar((2,), u=torch.tensor([[10.0, 0.0]]), w=torch.tensor([[10.0, 0.0]])),
        ours=_planar_ours,
    ),
    Defect(
        name="fixed-point-stops-silently",
        peer="normflows",
        statement="The inverse of a residual block stops after 1,000 iterations or at a squared step of 1e-5, and does not say how far it came.",
        source="survey section 2",
        quantity="error of the inverse of x - 0.999 x at 1, or 0 if it raises",
        **at_most(1e-2),
        measure=_silent_fixed_point,
        theirs=lambda: pair(_residual_theirs(-0.999)),
        ours=lambda: pair(_residual_ours(-0.999)),
    ),
    Defect(
        name="residual-marks-the-input",
        peer="normflows",
        statement="A residual block switches requires_grad on in the caller's tensor, under no_grad too.",
        source="found here",
        quantity="input requires gradients after a call under no_grad",
        **exactly(False),
        measure=_input_flag,
        theirs=lambda: _residual_theirs(-0.5),
        ours=lambda: _residual_ours(-0.5),
    ),
    Defect(
        name="scale-overflows",
        peer="normflows",
        statement="The masked affine flow takes exp of whatever its net returns.",
        source="normflows #67, #47",
        quantity="values not finite where the net returns 1,000",
        **exactly(0),
        measure=lambda layer: not_finite(*layer(POINTS)),
        theirs=_masked_theirs,
        ours=lambda: fk.bijectors.Coupling(2, fk.univariates.Affine(), conditioner=Fixed(2, 1e3)),
    ),
    Defect(
        name="spline-assertion",
        peer="normflows",
        statement="The inverse of the rational-quadratic spline asserts that its discriminant is not negative.",
        source="nflows #87 (the same formula)",
        quantity="values and log-derivatives not finite, one rounding below 20,000 knots",
        **exactly(0),
        measure=not_finite_below_knots,
        theirs=_spline_theirs,
        ours=lambda: fk.univariates.RationalQuadraticSpline(BINS, BOUND).untransform,
        raises="AssertionError",
    ),
]
