"""The conformance suite of unnormalised densities."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.target import Target
from flowkit.testing import _target_calls, _target_symmetries  # noqa: F401  these files fill the suite
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, scale_of
from flowkit.testing._density import bounded_mass, integrable, stein
from flowkit.testing._draws import concrete
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import TARGET
from flowkit.testing._target_inputs import points, special_points
from flowkit.testing._transform_gradients import directional


def check_target(instance: Target, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that applies to a target, on a float64 copy.

    Args:
        instance: the target to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return TARGET.run_all(instance, only, case)


@register(TARGET)
def declared(target: Any, case: Case) -> None:
    """event_shape, log_normalizer, invariances and can_sample are of the types that the contract says."""
    shape, constant, names = getattr(target, "event_shape", None), target.log_normalizer, target.invariances
    expect(isinstance(shape, tuple), f"{type(target).__name__} must set event_shape, a tuple of sizes; got {shape!r}")
    number = isinstance(constant, float | int) and not isinstance(constant, bool)
    expect(constant is None or number, f"log_normalizer must be a float or None; got {type(constant).__name__}: convert with float(...)")
    expect(constant is None or math.isfinite(constant), f"log_normalizer must be finite; got {constant}")
    named = isinstance(names, frozenset) and all(isinstance(name, str) for name in names)
    expect(named, f"invariances must be a frozenset of names, e.g. frozenset({{'sign'}}); got {names!r}")
    expect(isinstance(target.can_sample, bool), f"can_sample must be a bool; got {target.can_sample!r}")


@register(TARGET)
def density_shapes(target: Any, case: Case) -> None:
    """log_density has the batch shape for any batch, the dtype of its input, and rows do not see each other."""
    for batch in ((), (3,), (2, 3), (0,)):
        x = points(target, case, batch)
        value = target.log_density(x)
        expect(tuple(value.shape) == batch, f"log_density of batch {batch} has shape {tuple(value.shape)}")
        expect(value.dtype == torch.float64, f"log_density of float64 events is {value.dtype}")
    x = points(target, case, (4,))
    value = target.log_density(x)
    close(torch.stack([target.log_density(row) for row in x]), value, 1e-10 * scale_of(value), "log_density row by row")
    single = target.float().log_density(x.float())
    expect(single.dtype == torch.float32, f"log_density of float32 events is {single.dtype}")


@register(TARGET)
def score_is_gradient(target: Any, case: Case) -> None:
    """score is finite and equals the autograd gradient and finite differences of log_density."""
    x = points(target, case)
    score = target.score(x)
    finite(score, "score")
    point = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(target.log_density(point).sum(), point)
    close(score, wanted, 1e-8 * scale_of(wanted), "score against autograd")
    directional(lambda at: target.log_density(at[0]).sum(), [x], case, "log_density")


@register(TARGET, applies=lambda target: target.log_normalizer is not None and integrable(target.domain, target.event_shape))
def normalizer(target: Any, case: Case) -> None:
    """In one and two dimensions exp(log_density) integrates to exp(log_normalizer) (5e-3).

    Where the grid cannot resolve the density, all that is asked is that its sum, give or take its error, has one inside.
    """
    shift = float(target.log_normalizer)
    total, error = bounded_mass(lambda x: target.log_density(x) - shift, target.domain, target.event_shape, _some(target, case))
    what = "exp(log_density - log_normalizer)"
    if error <= 5e-3 or not math.isfinite(error):
        expect(abs(total - 1) <= 5e-3, f"{what} integrates to {total:.5g}, not to 1")
    unsure = f"{what} cannot be resolved on this grid: {total:.5g}, give or take {error:.2g}; it diverges, or is too thin to be integrated here"
    expect(abs(total - 1) <= 5e-3 + error, unsure)


@register(TARGET)
def special_values(target: Any, case: Case) -> None:
    """At the origin, at unit vectors and far out, in both dtypes, log_density is not NaN and where it is finite so is the score."""
    for dtype in (torch.float64, torch.float32):
        target = target.to(dtype)
        for where, x in special_points(target.domain, concrete(target.event_shape), case.but(dtype=dtype)).items():
            value = target.log_density(x)
            expect(not bool(torch.isnan(value).any()), f"log_density {where} in {dtype} is NaN")
            score = target.score(x)
            expect(score.dtype == dtype, f"score of {dtype} events is {score.dtype}")
            finite(score[torch.isfinite(value)], f"score {where} in {dtype}, where log_density is finite")


def _some(target: Any, case: Case) -> Tensor:
    drawn = target.sample((2000,), generator=case.generator()) if target.can_sample else None
    return points(target, case, (2000,)) if drawn is None else drawn.to(torch.float64)


@register(TARGET, applies=lambda target: target.can_sample)
def samples(target: Any, case: Case) -> None:
    """Samples have the asked shape, lie inside, follow the generator and agree with the score (Stein's identity)."""
    event = concrete(target.event_shape)
    for shape, wanted in ((4, (4,)), ((2, 3), (2, 3)), ((), ())):
        drawn = target.sample(shape, generator=case.generator())
        expect(drawn is not None, "can_sample is set, but sample returns None")
        got = tuple(drawn.shape)
        expect(got == (*wanted, *event), f"sample({shape}) has shape {got}")
    state = torch.get_rng_state()
    first, second = (target.sample((2000,), generator=case.generator(1)).to(torch.float64) for _ in range(2))
    expect(torch.equal(first, second), "two draws from equal generators differ")
    expect(torch.equal(state, torch.get_rng_state()), "sampling with a generator moves the global one")
    expect(bool(target.domain.contains(first, tol=1e-6).all()), "a sample lies outside the domain")
    stein(target.score, target.log_density, first, target.domain, target.event_shape)
