"""One defect of a peer: a measurement stated once, taken on the peer, which fails its criterion, and on flowkit, which meets it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

PEERS = {  # module: distribution on the package index and the version every defect below was seen with
    "nflows": ("nflows", "0.14"),
    "normflows": ("normflows", "1.7.3"),
    "zuko": ("zuko", "1.6.0"),
    "FrEIA": ("FrEIA", "0.2"),
    "pyro": ("pyro-ppl", "1.9.2"),
}


class Outcome(NamedTuple):
    """What a measurement gave: a value, or the exception that ended it."""

    value: Any
    error: str  # name of the exception's class, empty if none
    message: str
    right: bool

    def __str__(self) -> str:
        if self.error:
            return f"{self.error}: {self.message}".rstrip(": ")
        return f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)


@dataclass(frozen=True)
class Defect:
    """A statement about one peer that a run can refute.

    Attributes:
        name: identifier in tests.
        peer: module of the peer.
        statement: what is wrong there, in a line.
        source: where it is listed: an issue, a pull request, a section of the survey, or "found here".
        quantity: what is measured.
        measure: takes the subject, returns the quantity.
        right: the criterion, the same for both.
        wanted: the criterion in words.
        theirs, ours: make the subject.
        raises: name of the exception the peer ends with, empty where it returns a wrong value.
    """

    name: str
    peer: str
    statement: str
    source: str
    quantity: str
    wanted: str
    right: Callable[[Any], bool]
    measure: Callable[[Any], Any]
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    raises: str = ""

    @property
    def tested_version(self) -> str:
        """Version the defect was seen with."""
        return PEERS[self.peer][1]

    @property
    def installed_version(self) -> str:
        """Version at hand; raises PackageNotFoundError without one."""
        return version(PEERS[self.peer][0])

    def on_peer(self) -> Outcome:
        """Measure the peer, with the argument checks of torch's distributions as its import leaves them."""
        checked = torch.distributions.Distribution._validate_args
        torch.distributions.Distribution.set_default_validate_args(self.peer != "zuko")
        try:
            return self._run(self.theirs)
        finally:
            torch.distributions.Distribution.set_default_validate_args(checked)

    def on_flowkit(self) -> Outcome:
        """Measure flowkit."""
        return self._run(self.ours)

    def shown_by(self, outcome: Outcome) -> bool:
        """Whether the peer's outcome is the defect, and not another failure."""
        return not outcome.right and outcome.error == self.raises

    def _run(self, make: Callable[[], Any]) -> Outcome:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            try:
                value = self.measure(make())
                if isinstance(value, torch.Tensor):
                    value = float(value.detach())
            except Exception as error:
                text = str(error).split("\n", 1)[0]
                return Outcome(None, type(error).__name__, text[:150] + ("..." if len(text) > 150 else ""), False)
        return Outcome(value, "", "", bool(self.right(value)))


def at_most(limit: float) -> dict[str, Any]:
    """Criterion: a number that is not NaN and at most ``limit``."""
    return {"right": lambda value: value <= limit, "wanted": f"at most {limit:g}"}


def exactly(wanted: Any, words: str = "") -> dict[str, Any]:
    """Criterion: this very value."""
    return {"right": lambda value: value == wanted, "wanted": words or str(wanted)}
