"""Defects of zuko: edges, tails and global state."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

import flowkit as fk
from _peer_defects.case import Defect, exactly
from _peer_defects.shared import BINS, BOUND, not_finite, randomized

FAR = torch.tensor([[-30.0], [0.5], [30.0]])
IMPORTS = """
import json, sys, torch
from torch.distributions import Normal

def accepted():
    try:
        Normal(0.0, -1.0)
    except ValueError:
        return 0
    return 1

found = {"before": accepted()}
for name in ("flowkit", "zuko"):
    try:
        __import__(name)
    except ImportError:
        continue
    found[name] = accepted()
print(json.dumps(found))
"""


def _maps() -> Any:
    import zuko.transforms

    return zuko.transforms


def _elementwise(univariate: Any) -> Any:
    """A flowkit univariate on one coordinate, every parameter drawn from N(0, 1)."""
    return randomized(fk.bijectors.Elementwise(1, univariate))


@functools.cache
def _imports() -> dict[str, int]:
    """In a fresh process: whether torch accepts a normal with scale -1, before and after each import."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _accepted_after(name: str) -> int:
    found = _imports()
    if found["before"] or name not in found:
        raise RuntimeError(f"no answer for {name}: {found}")
    return found[name]


def _not_finite_at_knots(inverse_and_knots: Any) -> int:
    """Entries not finite where a spline is solved at its own knots and one rounding below, raw parameters uniform on [-20, 20]."""
    inverse, knots = inverse_and_knots
    params = 20 * (2 * torch.rand(20_000, 3 * BINS - 1) - 1)
    y = knots(params)
    return not_finite(*inverse(y, params), *inverse(torch.nextafter(y, torch.tensor(-torch.inf)), params))


def _spline_theirs() -> Any:
    def spline(params: Tensor) -> Any:
        return _maps().MonotonicRQSTransform(*params.split([BINS, BINS, BINS - 1], dim=-1), bound=BOUND)

    return lambda y, params: spline(params).inv.call_and_ladj(y), lambda params: spline(params).vertical[:, 3]


def _spline_ours() -> Any:
    from flowkit.kernels.bins import knots

    spline = fk.univariates.RationalQuadraticSpline(BINS, BOUND)
    return spline.untransform, lambda params: knots(params[:, BINS : 2 * BINS], -BOUND, BOUND, 1e-3).left[:, 3]


def _at_infinity(log_prob: Any) -> float:
    """Log-density of an event with an infinite coordinate."""
    return float(log_prob(torch.tensor([torch.inf, 0.0])).detach())


def _mixture_theirs() -> Any:
    return _maps().GaussianizationTransform(torch.randn(3, 1, 8), torch.randn(3, 1, 8))


def _far_log_slope(forward: Any) -> int:
    return not_finite(forward(FAR)[1])


def _outside_tail(distribution: Any) -> int:
    """Draws outside [6, 9], and log-densities there not finite, of a standard normal cut to [6, 9]."""
    draws = distribution.sample((1000,))
    return int(((draws < 6) | (draws > 9)).sum()) + not_finite(distribution.log_prob(torch.full_like(draws[:1], 6.5)))


def _beyond_bound(inverse: Any) -> str:
    """What the inverse of a map onto [-5, 5] says of 6."""
    try:
        return f"{float(inverse(torch.tensor([6.0]))):.3g}"
    except fk.core.errors.DomainError:
        return "DomainError"


def _at_zero(forward: Any) -> int:
    return not_finite(*forward(torch.zeros(1, 1)))


def _flows() -> Any:
    import zuko.flows

    return zuko.flows


def _truncated_theirs() -> Any:
    import zuko

    return zuko.distributions.Truncated(torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0)), torch.tensor(6.0), torch.tensor(9.0))


def _power_ours() -> Any:
    layer = fk.bijectors.Elementwise(1, fk.univariates.SignedPower())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(-0.5)
    return layer


DEFECTS = [
    Defect(
        name="import-patches-torch",
        peer="zuko",
        statement="Importing it switches off the argument checks of every torch distribution in the process.",
        source="survey section 2",
        quantity="torch accepts a normal with scale -1 after the import",
        **exactly(0),
        measure=_accepted_after,
        theirs=lambda: "zuko",
        ours=lambda: "flowkit",
    ),
    Defect(
        name="spline-nan-at-knots",
        peer="zuko",
        statement="The inverse of the rational-quadratic spline takes an unclamped square root: NaN at knots.",
        source="survey section 2",
        quantity="values and log-derivatives not finite, at 20,000 knots and one rounding below",
        **exactly(0),
        measure=_not_finite_at_knots,
        theirs=_spline_theirs,
        ours=_spline_ours,
    ),
    Defect(
        name="log-prob-nan-at-infinity",
        peer="zuko",
        statement="An event with an infinite coordinate has log-density NaN under a spline flow.",
        source="found here (survey section 3, row 32)",
        quantity="log-density of (inf, 0)",
        **exactly(-torch.inf),
        measure=_at_infinity,
        theirs=lambda: _flows().NSF(2, hidden_features=(8,))().log_prob,
        ours=lambda: fk.flows.NeuralSplineFlow(2, layers=2, hidden=(8,), standardize=False).log_prob,
    ),
    Defect(
        name="gaussianization-loses-tail",
        peer="zuko",
        statement="Gaussianization clips its mixture CDF, so its log-derivative is minus infinity far out.",
        source="found here (zuko #46 is nearby)",
        quantity="log-derivatives not finite at -30, 1/2 and 30",
        **exactly(0),
        measure=_far_log_slope,
        theirs=lambda: _mixture_theirs().call_and_ladj,
        ours=lambda: _elementwise(fk.univariates.GaussianMixtureCDF()),
    ),
    Defect(
        name="truncated-tail",
        peer="zuko",
        statement="A distribution truncated to its tail draws outside its interval and has density NaN inside.",
        source="found here",
        quantity="of 1,000 draws from N(0, 1) on [6, 9] those outside, and log-densities at 6.5 not finite",
        **exactly(0),
        measure=_outside_tail,
        theirs=_truncated_theirs,
        ours=lambda: fk.distributions.TruncatedNormal(6.0, 9.0, ()),
    ),
    Defect(
        name="codomain-not-checked",
        peer="zuko",
        statement="The inverse of the soft clip takes values outside its declared codomain and answers with nonsense.",
        source="survey section 3, row 3 (the same cause)",
        quantity="answer to 6, outside [-5, 5]",
        **exactly("DomainError"),
        measure=_beyond_bound,
        theirs=lambda: _maps().SoftclipTransform(5.0).inv,
        ours=lambda: lambda x: fk.bijectors.SoftClip(1, bound=5.0).inverse(x)[0],
    ),
    Defect(
        name="power-nan-at-zero",
        peer="zuko",
        statement="The signed power with an exponent below 1 is 0 times infinity at 0.",
        source="found here (survey section 3, row 32)",
        quantity="values and log-derivatives not finite at 0",
        **exactly(0),
        measure=_at_zero,
        theirs=lambda: _maps().SignedPowerTransform(torch.tensor([-0.5])).call_and_ladj,
        ours=_power_ours,
    ),
]
