"""The public conformance kit: what flowkit's own classes are held to, for classes of your own.

Each ``check_*`` takes an instance, runs every check its traits allow on a perturbed copy, and raises once with a line
and a reproducer for each that failed.
"""

from flowkit.testing._case import Case
from flowkit.testing._suite import CheckReport, ConformanceError
from flowkit.testing.bijectors import check_bijector
from flowkit.testing.distributions import check_distribution
from flowkit.testing.fields import check_field
from flowkit.testing.injections import check_injection
from flowkit.testing.objectives import check_objective
from flowkit.testing.ops import check_op
from flowkit.testing.surjections import check_surjection
from flowkit.testing.targets import check_target
from flowkit.testing.univariates import check_univariate

__all__ = [
    "Case",
    "CheckReport",
    "ConformanceError",
    "check_bijector",
    "check_distribution",
    "check_field",
    "check_injection",
    "check_objective",
    "check_op",
    "check_surjection",
    "check_target",
    "check_univariate",
]
