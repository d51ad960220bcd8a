"""Ordinary differential equations: explicit and reversible methods, step control per batch or per sample, exact gradients, events."""

from flowkit.numerics.ode import compat
from flowkit.numerics.ode.continuous_adjoint import AdjointOptions
from flowkit.numerics.ode.events import Met, first_event
from flowkit.numerics.ode.reversible import AsynchronousLeapfrog, Reversible, ReversibleHeun
from flowkit.numerics.ode.solve import Solution, Stats, solve

__all__ = ["AdjointOptions", "AsynchronousLeapfrog", "Met", "Reversible", "ReversibleHeun", "Solution", "Stats", "compat", "first_event", "solve"]
