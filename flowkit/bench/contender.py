"""One way to do a job: how it is verified, and how it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from flowkit.bench.timing import Timer
from flowkit.core.errors import FlowkitError

Group = Literal["ours", "eager", "compiled", "jit", "floor"]
PEERS: tuple[Group, ...] = ("eager", "compiled", "jit")


class Refusal(FlowkitError, RuntimeError):
    """Why a contender is not timed; the message is for the table."""


@dataclass(frozen=True)
class Check:
    """How far a contender's results are from the true ones.

    Args:
        error: largest difference, relative to the largest true number of each result.
        tolerance: largest error with which the contender is still timed.
        what: was compared, in a few words.
    """

    error: float
    tolerance: float
    what: str

    @property
    def agrees(self) -> bool:
        """Whether it may be timed; a NaN does not agree."""
        return self.error <= self.tolerance


@dataclass
class Contender:
    """One way to do a job.

    Args:
        name: as the table shows it.
        timer: (repeats) -> seconds of as many runs of the job, each waited for.
        check: verifies the results; None for a floor, which has none.
        group: ``ours``, ``floor``, or what kind of peer it is.
        parameters: of the model.
        note: what the table should say about it.
        facts: numbers to show beside the times, such as a round-trip error.
        close: called when its times are taken.
    """

    name: str
    timer: Timer
    check: Callable[[], Check] | None
    group: Group
    parameters: int | None = None
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    close: Callable[[], None] | None = None


def refused(name: str, error: Exception) -> Contender:
    """A contender that could not be built, for the table to say why."""
    reason = f"{type(error).__name__}: {error}"

    def refuse(repeats: int) -> list[float]:
        raise Refusal(reason)

    return Contender(name, refuse, None, "eager")
