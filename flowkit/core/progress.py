"""A progress bar for long work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(word: str, total: int, *, show: bool) -> Iterator[Any]:
    """A bar on standard error if ``show`` and that is a terminal; yields a call that takes how many more are done."""
    if not (show and sys.stderr.isatty()):  # a log file or a pipe is left alone
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn(word), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.advance(task, count)
