"""What a suite found, as plain data: cases of rows, and circumstances."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from flowkit.bench.contender import PEERS, Contender, Group
from flowkit.bench.summary import best, quartiles, ratio
from flowkit.bench.timing import Race

FORMAT = 1


@dataclass
class Row:
    """A contender in a case.

    Args:
        name, group, parameters, note, facts: the contender's.
        refused: why it has no time.
        error, verified: largest relative difference from the true results, and what was compared.
        first: seconds of the first call.
        median, quartiles, times: seconds, of the rounds that count.
        slower: its time over the leader's, the median over rounds.
        gain: for our own rows, by group of peers: the best peer's time over this one's, the median over rounds.
    """

    name: str
    group: Group
    parameters: int | None = None
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None
    error: float | None = None
    verified: str = ""
    first: float | None = None
    median: float | None = None
    quartiles: tuple[float, float] | None = None
    times: list[float] = field(default_factory=list)
    slower: float | None = None
    gain: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, contender: Contender) -> Row:
        """A row without times."""
        return cls(contender.name, contender.group, contender.parameters, contender.note, contender.facts)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)


@dataclass
class Case:
    """One job and all who do it.

    Args:
        title: what is done.
        rows: in the order of the table; the leader is the first of our own.
        rounds, kept: taken, and those that count.
        idle: lowest share of the machine that was free before a round that counts.
        notes: sentences for below the table.
    """

    title: str
    rows: list[Row]
    rounds: int = 0
    kept: int = 0
    idle: float | None = None
    notes: list[str] = field(default_factory=list)

    def record(self, found: Race) -> None:
        """Put times into the rows."""
        self.rounds, self.kept = len(found.idle), len(found.kept)
        self.idle = min((found.idle[number] for number in found.kept), default=None)
        timed = [row for row in self.rows if found.times.get(row.name) and row.refused is None]
        for row in timed:
            row.times = found.of(row.name)
            row.median, row.quartiles = statistics.median(row.times), quartiles(row.times)
        leader = next((row for row in timed if row.group == "ours"), None)
        for row in timed:
            if leader is not None:
                row.slower = ratio(row.times, leader.times)
            if row.group == "ours":
                groups = {group: [other.times for other in timed if other.group == group] for group in PEERS}
                groups["peers"] = [other.times for other in timed if other.group in PEERS]  # type: ignore[index]
                row.gain = {group: ratio(best(times), row.times) for group, times in groups.items() if times}


@dataclass
class Curve:
    """Cost along one axis.

    Args:
        title, axis: what is measured, and against what.
        x: the sizes.
        seconds, bytes: by job, a number for every size; None where it was not measured.
        slopes: by job, between neighbouring sizes, and ``overall``.
        notes: sentences for below the table.
    """

    title: str
    axis: str
    x: list[float]
    seconds: dict[str, list[float | None]]
    bytes: dict[str, list[float | None]]
    slopes: dict[str, list[float | None]]
    overall: dict[str, float | None]
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """All that a suite found.

    Args:
        suite, about: its name, and what it does in a few sentences.
        circumstances: machine, versions, command, date.
        cases, curves: what was measured.
        skipped: peers that did not run, with the reason.
    """

    suite: str
    about: str
    circumstances: dict[str, Any]
    cases: list[Case] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {"format": FORMAT, **asdict(self)}
