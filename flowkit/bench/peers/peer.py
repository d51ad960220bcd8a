"""What a library offers to the suites; each subclass registers itself by being defined."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from flowkit.bench.contender import Contender
    from flowkit.bench.fits import FitJob
    from flowkit.bench.flow_models import Data, FlowModel
    from flowkit.bench.models import FlowSpec
    from flowkit.bench.session import Session
    from flowkit.bench.splines import SplineJob

PEERS: dict[str, Peer] = {}


class Peer:
    """A library. What it does not offer it yields nothing for.

    Attributes:
        name: of the library.
        packages: that have to be importable.
    """

    name: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        PEERS[cls.name] = cls()

    def missing(self, session: Session) -> str | None:
        """Why it cannot run here, or None."""
        lost = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(lost)} not installed (pip install 'flowkit[bench]')" if lost else None

    def splines(self, job: SplineJob, session: Session) -> Iterator[Contender]:
        """The rational-quadratic spline on given parameters."""
        yield from ()

    def flows(self, spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
        """A flow of the given sizes."""
        yield from ()

    def fits(self, job: FitJob, session: Session) -> Iterator[Contender]:
        """A whole fit."""
        yield from ()


def present(session: Session) -> list[Peer]:
    """The peers that can run; why the others cannot is written down in the session."""
    found = []
    for name, peer in PEERS.items():
        reason = peer.missing(session)
        if reason is None:
            found.append(peer)
        else:
            session.skipped[name] = reason
    return found
