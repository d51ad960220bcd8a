"""The checks of ``solver_cases`` on a device."""

from __future__ import annotations

import diagonal_chain_checks
import runge_kutta_checks
import trajectory_checks


def run(check: str, device: str) -> None:
    checks = runge_kutta_checks.CHECKS | diagonal_chain_checks.CHECKS
    if check in checks:
        checks[check](device)
    elif check == "strange":
        trajectory_checks.strange(device)
    else:
        more, kind = check.startswith("more_"), check.removeprefix("more_")
        fixed = trajectory_checks.THOROUGH if more else trajectory_checks.QUICK
        adaptive = trajectory_checks.MORE_ADAPTIVE if more else trajectory_checks.ADAPTIVE
        for case in fixed if kind == "fixed" else adaptive:
            getattr(trajectory_checks, kind)(case, device)
