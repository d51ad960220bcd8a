"""The suites, one a kind; the check files fill them."""

from __future__ import annotations

from typing import Any

from flowkit.testing._suite import Suite


def _objective_prepared(problem: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    return problem  # a training problem is judged as it starts, and every check copies what it trains


BIJECTOR = Suite("check_bijector", "Bijector")
INJECTION = Suite("check_injection", "Injection")
SURJECTION = Suite("check_surjection", "Surjection")
UNIVARIATE = Suite("check_univariate", "Univariate")
DISTRIBUTION = Suite("check_distribution", "Distribution")
TARGET = Suite("check_target", "Target")
OBJECTIVE = Suite("check_objective", "Objective", _objective_prepared)
FIELD = Suite("check_field", "VectorField")
DOMAIN = Suite("check_domain", "Domain")
NET = Suite("check_net", "NETS")
OP = Suite("check_op", "Op", lambda op: op)

TRANSFORMS = (BIJECTOR, INJECTION, SURJECTION)
