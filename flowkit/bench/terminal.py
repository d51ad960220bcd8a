"""Tables and a progress line on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from flowkit.bench.cells import Table, gains, of_case, of_curve, refusals, rounds_of, sizes
from flowkit.bench.report import Case, Curve


@contextlib.contextmanager
def watching() -> Iterator[tuple[Callable[[str], None], Callable[[Case | Curve], None]]]:
    """A progress line on standard error, told what is going on; and tables on standard output, as they are done."""
    errors, out = Console(stderr=True), Console()
    bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), console=errors, transient=True)
    task = bar.add_task("starting", total=None)

    def watch(stage: str) -> None:
        number, of, count = stage.rpartition("round ")[2].partition(" of ")
        known = bool(of) and number.strip().isdigit() and count.strip().isdigit()
        bar.update(task, description=stage, total=int(count) if known else None, completed=int(number) - 1 if known else 0)

    def show(part: Case | Curve) -> None:
        out.print(rich_table(part.title, of_case(part, brief=True) if isinstance(part, Case) else of_curve(part)))
        lines = [rounds_of(part), *gains(part), *sizes(part), *refusals(part), *part.notes] if isinstance(part, Case) else part.notes
        for line in lines:
            out.print(line, highlight=False)
        out.print()

    with bar:
        yield watch, show


def rich_table(title: str, cells: Table) -> RichTable:
    """A table with its numbers on the right."""
    made = RichTable(title=title, title_justify="left")
    for number, name in enumerate(cells[0]):
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in cells[1]:
        made.add_row(*row)
    return made
