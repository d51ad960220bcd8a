"""Pure numerical functions that know nothing of flows."""

from flowkit.numerics.root_finding import solve_increasing

__all__ = ["solve_increasing"]
