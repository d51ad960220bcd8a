"""A library that solves differential equations, as the suite ``ode`` meets it; each subclass registers itself by being defined."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from flowkit.bench.contender import Contender
    from flowkit.bench.ode_models import OdeJob
    from flowkit.bench.session import Session

ODE_PEERS: dict[str, OdePeer] = {}


class OdePeer:
    """A library. The suites of flows do not know it.

    Attributes:
        name: of the library.
        packages: that have to be importable.
    """

    name: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        ODE_PEERS[cls.name] = cls()

    def missing(self, session: Session) -> str | None:
        """Why it cannot run here, or None."""
        lost = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(lost)} not installed (pip install {' '.join(lost)})" if lost else None

    def contenders(self, job: OdeJob, session: Session) -> Iterator[Contender]:
        """Its ways to do the job."""
        yield from ()


def ode_peers(session: Session) -> list[OdePeer]:
    """Those that can run; why the others cannot is written down in the session."""
    found = []
    for name, peer in ODE_PEERS.items():
        reason = peer.missing(session)
        if reason is None:
            found.append(peer)
        else:
            session.skipped[name] = reason
    return found
