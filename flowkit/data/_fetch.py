"""Finding a public file: a local folder first, then the cache, then a download, always checked against its SHA-256."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from flowkit.core.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicFile:
    """A file, or the first ``size`` bytes of one, that anybody may fetch.

    Args:
        folder, file: its place under ``$FLOWKIT_DATA`` and under the cache.
        url: where it is published.
        size: bytes that are used and checked.
        sha256: of those bytes, in hex.
    """

    folder: str
    file: str
    url: str
    size: int
    sha256: str


def cache_folder() -> Path:
    """``$FLOWKIT_CACHE``, or ``~/.cache/flowkit``."""
    return Path(os.environ.get("FLOWKIT_CACHE") or Path.home() / ".cache" / "flowkit").expanduser()


def find(wanted: PublicFile) -> Path | None:
    """Where a public file lies on this machine: under ``$FLOWKIT_DATA`` or the cache."""
    local = os.environ.get("FLOWKIT_DATA")
    places = [Path(local).expanduser(), cache_folder()] if local else [cache_folder()]
    paths = (place / wanted.folder / wanted.file for place in places)
    return next((path for path in paths if path.is_file()), None)


def fetch(wanted: PublicFile, who: str) -> bytes:
    """The bytes of a public file.

    Raises:
        DataError: a file at hand is not the published one, or there is none and it cannot be downloaded.
    """
    path = find(wanted)
    if path is not None:
        with path.open("rb") as file:
            return _verified(file.read(wanted.size), wanted, f"{who}: {path}", "Remove the file to have it downloaded.")
    return _download(wanted, cache_folder() / wanted.folder / wanted.file, who)


def _verified(content: bytes, wanted: PublicFile, where: str, remedy: str) -> bytes:
    got = hashlib.sha256(content).hexdigest()
    if got != wanted.sha256:
        raise DataError(f"{where}: expected SHA-256 {wanted.sha256}; got {got}. {remedy}")
    return content


def _download(wanted: PublicFile, path: Path, who: str) -> bytes:
    remedy = f"Put the file at $FLOWKIT_DATA/{wanted.folder}/{wanted.file} yourself."
    logger.info("downloading %s to %s", wanted.url, path)
    try:
        with urllib.request.urlopen(wanted.url, timeout=30) as response:
            content = response.read(wanted.size)
    except (OSError, ValueError) as error:
        raise DataError(f"{who}: cannot download {wanted.url} ({error}). {remedy}") from None
    _verified(content, wanted, f"{who}: {wanted.url}", remedy)
    try:
        _write_whole(path, content)
    except OSError as error:
        raise DataError(f"{who}: cannot write {path} ({error}). Point $FLOWKIT_CACHE at a folder you may write to.") from None
    return content


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the place and move: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
