"""What the suites share while they run: the setting, the JAX process, and the comparison itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flowkit.bench.contender import Check, Contender, Refusal
from flowkit.bench.report import Case, Row
from flowkit.bench.setting import Setting
from flowkit.bench.timing import LONG, Timer, race, timer

if TYPE_CHECKING:
    from flowkit.bench.jax_side.client import JaxProcess


class Session:
    """One run of a suite.

    Args:
        setting: device, threads, rounds, sizes.
        watch: told what is going on.
    """

    def __init__(self, setting: Setting, watch: Callable[[str], None] = lambda stage: None) -> None:
        self.setting, self.watch = setting, watch
        self.skipped: dict[str, str] = {}
        self._jax: JaxProcess | None = None

    @property
    def jax(self) -> JaxProcess:
        """The process beside this one that runs JAX, started at first use."""
        if self._jax is None:
            self._jax = self.fresh_jax()
        return self._jax

    def fresh_jax(self) -> JaxProcess:
        """Another such process, which has compiled nothing; the caller closes it."""
        from flowkit.bench.jax_side.client import JaxProcess

        return JaxProcess(self.setting.threads or 1)

    def close(self) -> None:
        """End the JAX process."""
        if self._jax is not None:
            self._jax.close()
            self._jax = None

    def timer(self, call: Callable[[], Any]) -> Timer:
        """A clock for calls in this process, on the setting's device."""
        return timer(call, self.setting.device)

    def compare(self, title: str, contenders: Iterable[Contender], usual: int, *, notes: Iterable[str] = (), single: bool = False) -> Case:
        """Verify all contenders, then time by turns those whose results agree.

        Args:
            title: of the job.
            contenders: all who do it; one that fails or disagrees gets no time, but a reason.
            usual: rounds, where the setting does not say.
            notes: sentences for below the table.
            single: each round is one whole run with its compilation; checks come after it.
        """
        case, timers = Case(title, [], notes=list(notes)), {}
        alive = list(contenders)
        try:
            for contender in alive:
                row = Row.of(contender)
                case.rows.append(row)
                self.watch(f"{title}: verifying {contender.name}")
                if not single:
                    _attempt(row, partial(_first_and_check, row, contender))
                if row.refused is None:
                    timers[contender.name] = _guarded(row, contender.timer)
            rounds, warmups = self.setting.rounds_of(usual), 1 if self.setting.quick else 3
            case.record(race(timers, rounds, warmups=warmups, warm=_warm(case.rows), watch=lambda stage: self.watch(f"{title}: {stage}"), single=single))
            for row, contender in zip(case.rows, alive, strict=True):
                if single and row.refused is None:
                    _attempt(row, partial(_check, row, contender))
                if row.refused is not None:
                    row.times, row.median, row.quartiles, row.slower, row.gain = [], None, None, None, {}
        finally:
            for contender in alive:
                if contender.close is not None:
                    contender.close()
        return case


def _warm(rows: Iterable[Row]) -> dict[str, float]:
    """Who compiles nothing and whose first call took long: seconds of that call, with which it is warm."""
    return {row.name: row.first for row in rows if row.group == "eager" and row.first is not None and row.first > LONG}


def _attempt(row: Row, step: Callable[[], None]) -> None:
    """Take a step; where it fails the row says why. A peer may raise anything; the others are to be timed all the same."""
    try:
        step()
    except Exception as error:
        row.refused = " ".join(f"{'' if isinstance(error, Refusal) else type(error).__name__ + ': '}{error}".split())[:200]


def _guarded(row: Row, timer: Timer) -> Timer:
    """A clock that never raises; once it has failed, its times are infinite and do not count."""

    def take(repeats: int) -> list[float]:
        found = [math.inf] * repeats
        if row.refused is None:
            _attempt(row, lambda: found.__setitem__(slice(None), timer(repeats)))
        return found

    return take


def _first_and_check(row: Row, contender: Contender) -> None:
    first = contender.timer(1)[0]  # before the check, which would compile
    _check(row, contender)
    row.first = first if row.refused is None else None


def _check(row: Row, contender: Contender) -> None:
    if contender.check is not None:
        _judge(row, contender.check())


def _judge(row: Row, check: Check | None) -> None:
    """What the check found, into the row."""
    if check is None:
        return
    row.error, row.verified = check.error, check.what
    if not check.agrees:
        row.refused = f"differs from ours by {check.error:.1e} where {check.tolerance:.0e} is allowed ({check.what})"
