"""Ordinary differential equations: explicit methods, step control per batch or per sample, exact gradients."""

from flowkit.numerics.ode.solve import Solution, Stats, solve

__all__ = ["Solution", "Stats", "solve"]
