"""A report as a picture: bars of times with ratios, or lines of cost."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from flowkit.bench.cells import milliseconds, times
from flowkit.bench.report import Case, Curve, Report
from flowkit.bench.suites import SUITES

COLOURS = {"ours": "#1f77b4", "eager": "#d9a441", "compiled": "#c8743c", "jit": "#8b5a9c", "floor": "#9a9a9a"}
LABELS = {"ours": "flowkit", "eager": "eager peer", "compiled": "compiled peer", "jit": "JAX under jit", "floor": "floor"}
ACROSS = 2
TITLE = 80  # letters in a line of a title


def picture(report: Report, path: Path) -> None:
    """Write a PNG."""
    from matplotlib.figure import Figure

    parts: list[Case | Curve] = [*report.cases, *report.curves]
    across = min(ACROSS, len(parts)) or 1
    down = -(-len(parts) // across) or 1
    heights = [max((_height(part) for part in parts[row * across : (row + 1) * across]), default=2.0) for row in range(down)]
    figure = Figure(figsize=(7.5 * across, sum(heights) + 1.0), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, gridspec_kw={"height_ratios": heights})
    for place, ax in enumerate(axes.flat):
        if place >= len(parts):
            ax.set_axis_off()
            continue
        part = parts[place]
        if isinstance(part, Case):
            bars(ax, part)
        else:
            lines(ax, part)
    c = report.circumstances
    figure.suptitle(f"{SUITES[report.suite].title}: {c['device']}, {c['threads']} thread{'s' if c['threads'] != 1 else ''}, {c['date']}", fontsize=12)
    _legend(figure, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _height(part: Case | Curve) -> float:
    return 0.34 * len(part.rows) + 1.0 if isinstance(part, Case) else 4.0


def _legend(figure: Any, report: Report) -> None:
    from matplotlib.patches import Patch

    groups = [group for group in COLOURS if any(row.group == group for case in report.cases for row in case.rows)]
    if groups:
        figure.legend(handles=[Patch(color=COLOURS[group], label=LABELS[group]) for group in groups], loc="outside lower center", ncols=len(groups), fontsize=9)


def bars(ax: Any, case: Case) -> None:
    """Median times on a logarithmic axis, quartiles, and the ratio to ours."""
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = case.rows[::-1]
    known = [row.median for row in rows if row.median is not None]
    low = 0.5 * min(known) if known else 1e-3
    for place, row in enumerate(rows):
        if row.median is None or row.quartiles is None:
            ax.text(low * 1.05e3, place, "no time: does not agree or failed" if row.refused else "no time", va="center", fontsize=8, color="#aa3333")
            continue
        faint = 0.55 if row.group == "ours" and row.slower != 1 else 1.0
        ax.barh(place, 1e3 * (row.median - low), left=1e3 * low, color=COLOURS[row.group], height=0.72, alpha=faint)
        ax.plot([1e3 * row.quartiles[0], 1e3 * row.quartiles[1]], [place, place], color="black", linewidth=1.2)
        ratio = f"  {times(row.slower)}" if row.slower is not None and row.slower != 1 else ""
        unit = "" if row.median >= 10 else " ms"
        ax.text(1e3 * max(row.quartiles[1], row.median) * 1.06, place, f"{milliseconds(row.median)}{unit}{ratio}", va="center", fontsize=8)
    ax.set_xscale("log")
    if known:
        ax.set_xlim(1e3 * low, 1e3 * max(known) * (max(known) / low) ** 0.3)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if known and max(known) < 100 * low else (1.0,)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    ax.set_xlabel("ms", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.set_title(textwrap.fill(case.title, TITLE), fontsize=9, loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def lines(ax: Any, curve: Curve) -> None:
    """Seconds and bytes against size, both axes logarithmic, with a line of slope 1."""
    beside = ax.twinx()
    for number, job in enumerate(curve.seconds):
        colour = ("#1f77b4", "#c8743c", "#8b5a9c")[number % 3]
        for axis, values, style, what in ((ax, curve.seconds[job], "-o", job), (beside, curve.bytes[job], "--s", f"{job}, memory")):
            slope = curve.overall.get(what)
            label = what if slope is None else f"{what} (slope {slope:.2f})"
            scale = 1e3 if axis is ax else 1e-6
            points = [(x, scale * y) for x, y in zip(curve.x, values, strict=True) if y is not None]
            axis.plot(*zip(*points, strict=True), style, color=colour, markersize=4, linewidth=1.2, label=label, alpha=1 if axis is ax else 0.6)
    known = [y for values in curve.seconds.values() for y in values[-1:] if y is not None]
    if known:
        end = 1e3 * max(known)
        ax.plot([curve.x[0], curve.x[-1]], [end * curve.x[0] / curve.x[-1], end], ":", color="grey", linewidth=1, label="slope 1")
    for axis in (ax, beside):
        axis.set_yscale("log")
        axis.tick_params(labelsize=8)
    ax.set_xscale("log")
    ax.set_xlabel(curve.axis, fontsize=9)
    ax.set_ylabel("ms", fontsize=9)
    beside.set_ylabel("MB (dashed)", fontsize=9)
    handles = [*ax.get_legend_handles_labels()[0], *beside.get_legend_handles_labels()[0]]
    ax.legend(handles=handles, fontsize=7, loc="best")
    ax.set_title(textwrap.fill(curve.title, TITLE), fontsize=9, loc="left")
