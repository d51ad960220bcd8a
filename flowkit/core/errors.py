"""Every error flowkit raises on purpose: who, expected, got, remedy, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlowkitError(Exception):
    """Base of all errors raised by flowkit for a reason a caller can act on."""


class ShapeError(FlowkitError, ValueError):
    """A tensor has the wrong shape or dtype, or a context is missing or not wanted."""


class DomainError(FlowkitError, ValueError):
    """A value lies outside the set a map or a distribution is defined on."""


class DataError(FlowkitError, ValueError):
    """A data set cannot be used as it is: empty, not finite, a constant column, a missing file."""


class NotInvertibleError(FlowkitError, RuntimeError):
    """A direction that does not exist, or an iterative inverse that did not converge."""


class IntegrationError(FlowkitError, RuntimeError):
    """A differential equation whose solution could not be followed to the end: too many steps, or a step too small."""


class NonFiniteError(FlowkitError, ArithmeticError):
    """A loss, gradient or layer output became NaN or infinite."""


class UnknownNameError(FlowkitError, KeyError):
    """A name that no registry, config or option list knows."""

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(FlowkitError, ValueError):
    """A config, description or argument that cannot be built."""


class CheckpointError(FlowkitError, RuntimeError):
    """A saved flow or checkpoint that is missing, damaged or foreign."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name is closest: ``Nearest: 'affine'.`` or the whole list when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"Nearest: '{close[0]}'."
    return f"Known: {', '.join(names)}." if names else "None is known."
