"""The conformance suite of maps that lose information in one direction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowkit.core.surjection import Surjection
from flowkit.testing import (  # noqa: F401  these files fill the suite
    _transform_context,
    _transform_domain,
    _transform_gradients,
    _transform_state,
    _transform_values,
)
from flowkit.testing._calls import call, has_inverse, sides
from flowkit.testing._case import Case
from flowkit.testing._compare import close, scale_of
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import SURJECTION


def check_surjection(instance: Surjection, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that a surjection's traits allow, each on a perturbed float64 copy.

    Args:
        instance: the map to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return SURJECTION.run_all(instance, only, case)


def right_invertible(f: Any) -> bool:
    return has_inverse(f)


@register(SURJECTION, applies=right_invertible)
def right_inverse(f: Any, case: Case) -> None:
    """f(f^-1(x)) = x for points of the image."""
    side = sides(f, case)[1]
    there, _ = side(f)
    back, _ = call(f, there, side.context)
    close(back, side.value, 1e-9 * scale_of(side.value), "forward(inverse(x))")
