"""What a suite is; each subclass registers itself by being defined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from flowkit.bench.report import Case, Curve
from flowkit.bench.session import Session

SUITES: dict[str, Suite] = {}


class Suite:
    """A set of comparisons.

    Attributes:
        name: by which it is run.
        title: of its table.
        about: what it does, in a few sentences for above the table.
        devices: that it can run on.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    about: ClassVar[str] = ""
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        SUITES[cls.name] = cls()

    def cases(self, session: Session) -> Iterator[Case]:
        """Its comparisons, run one after the other."""
        yield from ()

    def curves(self, session: Session) -> Iterator[Curve]:
        """Its measurements along an axis."""
        yield from ()
