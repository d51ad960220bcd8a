"""The conformance suite of maps into a larger space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from flowkit.core.injection import Injection
from flowkit.testing import (  # noqa: F401  these files fill the suite
    _transform_compiled,
    _transform_context,
    _transform_domain,
    _transform_gradients,
    _transform_state,
    _transform_values,
)
from flowkit.testing._calls import jacobian, sides
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, scale_of
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import INJECTION


def check_injection(instance: Injection, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that an injection's traits allow, each on a perturbed float64 copy.

    Args:
        instance: the map to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return INJECTION.run_all(instance, only, case)


def projects(f: Any) -> bool:
    """Whether ``project`` is declared to be a left inverse."""
    return f.traits.inverse in ("closed", "iterative")


def allowed(f: Any) -> float:
    return max(1e-8, f.traits.tolerance.get(torch.float64, 0.0))


@register(INJECTION, applies=lambda f: f.traits.log_det in ("exact", "volume"))
def log_volume(f: Any, case: Case) -> None:
    """The second output is 1/2 log det J^T J of the autograd Jacobian."""
    (side,) = sides(f, case)
    matrix = jacobian(f, side)
    wanted = 0.5 * torch.linalg.slogdet(matrix.mT @ matrix).logabsdet
    close(side(f)[1], wanted, 1e-8 * scale_of(wanted), "log_volume against autograd")


@register(INJECTION, applies=projects)
def project_after_forward(f: Any, case: Case) -> None:
    """project(f(z)) = z, and points of the image have distance 0."""
    (side,) = sides(f, case)
    value, _ = side(f)
    close(f.project(value, side.context), side.value, allowed(f) * scale_of(side.value), "project(forward(z))")
    distance = f.distance(value, side.context)
    close(distance, torch.zeros_like(distance), 100 * allowed(f) * float(scale_of(value).max()), "distance of points of the image")


@register(INJECTION, applies=lambda f: f.in_shape != f.out_shape)
def distance_off_image(f: Any, case: Case) -> None:
    """Points off the image have a positive distance, of the batch shape; the image is where forward ends."""
    (side,) = sides(f, case)
    value, _ = side(f)
    moved = value + torch.randn(value.shape, generator=case.generator(3), dtype=value.dtype)
    distance = f.distance(moved, side.context)
    expect(tuple(distance.shape) == case.batch, f"distance has shape {tuple(distance.shape)}")
    expect(bool((distance > 0).all()), "a point off the image has distance 0")
    latent = f.project(moved, side.context)
    expect(latent.shape == side.value.shape, f"project has shape {tuple(latent.shape)}")
