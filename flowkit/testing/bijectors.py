"""The conformance suite of bijectors."""

from __future__ import annotations

from collections.abc import Iterable

from flowkit.core.transform import Bijector
from flowkit.testing import (  # noqa: F401  these files fill the suite
    _transform_algebra,
    _transform_compiled,
    _transform_context,
    _transform_domain,
    _transform_gradients,
    _transform_state,
    _transform_values,
)
from flowkit.testing._case import Case
from flowkit.testing._suite import CheckReport
from flowkit.testing._suites import BIJECTOR


def check_bijector(instance: Bijector, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that an instance's traits allow, each on a perturbed float64 copy.

    Volume changes are compared with autograd Jacobians, round trips, gradients, contexts, saved state, compiled and
    vectorised calls and the laws of the algebra are tried; the tolerances stand in the checks' docstrings.

    Args:
        instance: the map to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Returns:
        Names of the checks that held, and declared known failures that failed as declared.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.

    Example:
        >>> from flowkit.bijectors import Permutation
        >>> from flowkit.testing import check_bijector
        >>> check_bijector(Permutation.reverse(3), only=["round_trip", "log_det_jacobian"]).passed
        ['round_trip', 'log_det_jacobian']
    """
    return BIJECTOR.run_all(instance, only, case)
