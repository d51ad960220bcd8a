"""The libraries that are measured beside flowkit, one file each; one that is not installed is skipped by name."""

from __future__ import annotations

import importlib
import pkgutil

from flowkit.bench.peers.peer import PEERS, Peer

for _info in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_info.name}")

__all__ = ["PEERS", "Peer"]
