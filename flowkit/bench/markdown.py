"""A report as a page of Markdown."""

from __future__ import annotations

from flowkit.bench.cells import Table, gains, of_case, of_curve, rounds_of
from flowkit.bench.report import Report
from flowkit.bench.suites import SUITES


def markdown(report: Report, picture: str | None = None) -> str:
    """The page.

    Args:
        report: what was found.
        picture: file name of its plot, if there is one.
    """
    c = report.circumstances
    versions = ", ".join(f"{name} {version}" for name, version in c["versions"].items())
    gpu = f"Device: {c['device']}." if c["device"] != c["processor"] else "On a GPU: not measured."
    lines = [
        f"# {SUITES[report.suite].title}", "",
        f"Machine: {c['processor']}, {c['cores']} cores, {c['threads']} thread{'s' if c['threads'] != 1 else ''}. {gpu}",
        f"flowkit {c['flowkit']}, Python {c['python']}, {versions}.",
        f"Command: `{c['command']}`. Date: {c['date']}.{' Quick run: sizes and rounds say nothing about speed.' if c['quick'] else ''}", "",
        report.about, "",
    ]  # fmt: skip
    if report.cases:
        lines += [
            "Contenders take turns in rotated order. Times are medians over rounds; 'time over ours' and 'best peer over this' are medians over rounds of the "
            "ratio within a round. A number of a round is the median of as many calls as fit in 30 ms, or one call; rounds end after 20 s, but "
            "not before the fifth. "
            "'Verified' is the largest difference over the largest true number; who disagrees gets no time. The first call compiles.", "",
        ]  # fmt: skip
    lines += [f"Not run: {name}: {reason}." for name, reason in report.skipped.items()]
    if picture is not None:
        lines += ["", f"![times]({picture})", ""]
    for case in report.cases:
        lines += [f"## {case.title}", "", *table(of_case(case)), "", " ".join([rounds_of(case), *gains(case), *case.notes]), ""]
    for curve in report.curves:
        lines += [f"## {curve.title}", "", *table(of_curve(curve)), "", *curve.notes, ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def table(cells: Table) -> list[str]:
    """Lines of a Markdown table."""
    head, rows = cells
    return ["| " + " | ".join(row) + " |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *([cell.replace("|", "/") for cell in row] for row in rows)]]
