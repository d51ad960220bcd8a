"""Named checks of one kind of object, each generated only where it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from flowkit.core.errors import UnknownNameError, nearest
from flowkit.testing._case import Case, Predicate, known_failures, one_line, prepared

Run = Callable[[Any, Case], None]


@dataclass(frozen=True)
class Check:
    """One property. ``drawn`` checks hold for any seed and batch; ``costly`` ones take a good part of a second."""

    name: str
    run: Run
    applies: Predicate
    drawn: bool = False
    costly: bool = False


@dataclass
class CheckReport:
    """What was checked.

    Attributes:
        passed: names of the checks that held.
        expected_failures: declared known failures that did fail: name -> reason.
    """

    passed: list[str] = field(default_factory=list)
    expected_failures: dict[str, str] = field(default_factory=dict)


_FIRST = ("shapes", "round_trip", "log_det_jacobian")  # what other failures follow from is told first


class ConformanceError(AssertionError):
    """Some checks failed; ``failures`` maps their names to what went wrong."""

    def __init__(self, who: str, failures: dict[str, str]) -> None:
        self.failures = failures
        lines = "\n".join(f"  {name}: {message}" for name, message in failures.items())
        super().__init__(f"{who} fails {len(failures)} checks:\n{lines}")


class Suite:
    """The checks of one kind.

    Args:
        caller: the public function that runs the suite, for reproducers.
        contract: class that a description is built as, for reproducers.
        prepare: makes the copy that is judged.
    """

    def __init__(self, caller: str, contract: str, prepare: Callable[[Any], Any] = prepared) -> None:
        self.caller, self.contract, self.prepare = caller, contract, prepare
        self.checks: dict[str, Check] = {}

    def names(self, instance: Any) -> list[str]:
        """The checks that apply to an instance."""
        applying = [name for name, check in self.checks.items() if _applies(check, instance)]
        return sorted(applying, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))

    def run(self, name: str, instance: Any, case: Case | None = None) -> None:
        """Run one check; raise AssertionError with a one-line reproducer if it fails. Global randomness is left alone."""
        if name not in self.checks:
            raise UnknownNameError(f"{self.caller}: no check named {name!r}. {nearest(name, self.checks)}")
        case = Case() if case is None else case
        with torch.random.fork_rng(devices=[]):
            # not the seed an example was built under, or what is drawn when built would go unnoticed; torch.manual_seed takes 0.6 ms for its stacks
            torch.default_generator.manual_seed(7919 + case.seed)
            try:
                self.checks[name].run(self.prepare(instance), case)
            except Exception as error:
                what = str(error) if isinstance(error, AssertionError) else f"raised {type(error).__name__}: {error}"
                again = one_line(self.caller, self.contract, instance, name, case)
                raise AssertionError(f"{name}: {_short(what)} | reproduce: {_short(again)}") from error

    def run_all(self, instance: Any, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
        """Run every check that applies, or those named, and raise once with all that failed."""
        names = self.names(instance) if only is None else [only] if isinstance(only, str) else list(only)
        known, report, failures = known_failures(instance), CheckReport(), {}
        for name in names:
            try:
                self.run(name, instance, case)
            except AssertionError as error:
                if name in known:
                    report.expected_failures[name] = known[name]
                else:
                    failures[name] = str(error).removeprefix(f"{name}: ")
                continue
            if name in known:
                failures[name] = f"passes though traits.known_failures declares '{known[name]}'; drop the declaration"
            report.passed.append(name)
        if failures:
            raise ConformanceError(type(instance[0] if isinstance(instance, tuple) else instance).__name__, failures)
        return report


def register(*suites: Suite, applies: Predicate = lambda instance: True, drawn: bool = False, costly: bool = False) -> Callable[[Run], Run]:
    """File a check under its function's name in each suite."""

    def decorate(run: Run) -> Run:
        for suite in suites:
            name = run.__name__.strip("_")
            suite.checks[name] = Check(name, run, applies, drawn, costly)
        return run

    return decorate


def _applies(check: Check, instance: Any) -> bool:
    try:
        return check.applies(instance)
    except Exception:  # an instance that cannot be asked is asked again by the check itself, which then reports why
        return True


def _short(text: str, limit: int = 1200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + " ..."
