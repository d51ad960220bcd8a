"""The numbers of a case or a curve as the cells of a table, the same for the terminal and for Markdown."""

from __future__ import annotations

from flowkit.bench.report import Case, Curve, Row
from flowkit.bench.timing import IDLE

Table = tuple[list[str], list[list[str]]]


def milliseconds(seconds: float | None) -> str:
    """With three digits, in ms; in s from 10 s on."""
    if seconds is None:
        return ""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def times(ratio: float | None) -> str:
    """A ratio as people read it."""
    return "" if ratio is None else f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def megabytes(size: float | None) -> str:
    """In MB, with three digits."""
    return "" if size is None else f"{size / 1e6:.3g}"


def of_case(case: Case, *, brief: bool = False) -> Table:
    """A row for each contender; columns that would be empty are left out, and with ``brief``, for a terminal, the wide ones."""
    head = ["", "parameters", "median, ms", "quartiles, ms", "time over ours", "best peer over this", "first call, ms"]
    head += ["test NLL", "epochs", "round trip", "verified"]
    rows = [_row(row, brief) for row in case.rows]
    if brief:
        head[2:6] = ["ms", "", "over ours", "best peer over"]
    hidden = (1, 3, 6) if brief else ()
    used = [i for i in range(len(head)) if i not in hidden and (i in (0, 2) or any(row[i] for row in rows))]
    return [head[i] for i in used], [[row[i] for i in used] for row in rows]


def _row(row: Row, brief: bool) -> list[str]:
    spread = "" if row.quartiles is None else f"{milliseconds(row.quartiles[0])} - {milliseconds(row.quartiles[1])}"
    nll, trip = row.facts.get("test_nll"), row.facts.get("round_trip")
    verified = "" if row.error is None else f"{row.error:.1e}" if brief else f"{row.verified}: {row.error:.1e}"
    name = row.name if brief or not row.note else f"{row.name} ({row.note})"
    return [
        name,
        f"{row.parameters:,}" if row.parameters else "",
        milliseconds(row.median) if row.refused is None else "no time",
        spread if row.refused is None else row.refused,
        times(row.slower),
        times(row.gain.get("peers")),
        milliseconds(row.first),
        f"{nll:.3f}" if nll is not None else "",
        str(row.facts.get("epochs", "")),
        f"{trip:.1e}" if trip is not None else "",
        verified if row.refused is None else "",
    ]


def gains(case: Case) -> list[str]:
    """A sentence for each of our rows: how many times faster it is than the best of every kind of peer."""
    words = {"eager": "the best eager peer", "compiled": "the best compiled peer", "jit": "flowjax under jit"}
    found = []
    for row in case.rows:
        parts = [f"{times(row.gain[group])} {word}" for group, word in words.items() if group in row.gain]
        if parts:
            found.append(f"{row.name} is faster by: {', '.join(parts)}.")
    return found


def sizes(case: Case) -> list[str]:
    """A sentence about the number of parameters, where the table has no column for it."""
    counts: dict[int, list[str]] = {}
    for row in case.rows:
        if row.parameters:
            counts.setdefault(row.parameters, []).append(row.name)
    if not counts:
        return []
    most, *others = sorted(counts.items(), key=lambda item: -len(item[1]))
    exceptions = "".join(f"; {', '.join(names)}: {count:,}" for count, names in others)
    return [f"Parameters: {most[0]:,}{exceptions}."]


def refusals(case: Case) -> list[str]:
    """A sentence for each contender without a time."""
    return [f"{row.name} has no time: {row.refused}." for row in case.rows if row.refused is not None]


def rounds_of(case: Case) -> str:
    """How many rounds there were, and which count."""
    if not case.rounds:
        return "No rounds."
    free = case.idle or 0.0
    busy = "" if free >= IDLE else " The machine was busy: these times say little."
    return f"{case.rounds} rounds, of which {case.kept} count; at least {100 * free:.0f} % of the machine was free before each.{busy}"


def of_curve(curve: Curve) -> Table:
    """A row for each size."""
    head = [curve.axis]
    for job in curve.seconds:
        head += [f"{job}, ms", "slope", f"{job}, MB", "slope"]
    rows = []
    for number, size in enumerate(curve.x):
        row = [f"{size:,.0f}"]
        for job in curve.seconds:
            for values, shown, what in ((curve.seconds[job], milliseconds, job), (curve.bytes[job], megabytes, f"{job}, memory")):
                slope = curve.slopes.get(what, [None] * len(curve.x))[number]
                row += [shown(values[number]), "" if slope is None else f"{slope:.2f}"]
        rows.append(row)
    last = ["all"]
    for job in curve.seconds:
        for what in (job, f"{job}, memory"):
            slope = curve.overall.get(what)
            last += ["", "" if slope is None else f"{slope:.2f}"]
    return head, [*rows, last]
