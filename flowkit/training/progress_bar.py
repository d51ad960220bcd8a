"""The progress bar of a fit."""

from __future__ import annotations

from typing import Any


class ProgressBar:
    """A bar on standard error: steps done, time left, the newest losses. Does nothing when ``show`` is false.

    Args:
        total: steps in all; start: steps done before.
    """

    def __init__(self, total: int, start: int, *, show: bool) -> None:
        self._bar: Any = None
        if show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("fit"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total, completed=start)
            self._bar.start()

    def step(self, step: int) -> None:
        """Show how many steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def row(self, row: dict[str, float]) -> None:
        """Show the newest row of the history."""
        if self._bar is not None:
            shown = [f"{name.replace('validation_', 'val ')} {row[name]:.4g}" for name in ("loss", "validation_loss") if name in row]
            self._bar.update(self._task, description="  ".join([f"epoch {row['epoch']:.0f}", *shown]))

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
