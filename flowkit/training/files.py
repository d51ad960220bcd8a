"""Writing files and folders so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowkit.core.errors import CheckpointError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once: to a sibling, flushed to disk, then renamed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def make_folder(path: Path, what: str) -> None:
    """Create a folder that can be written to.

    Raises:
        CheckpointError: it cannot be created, or is a file, or is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CheckpointError(f"{what}: expected a folder that can be written to; got {path} ({error.strerror}). Choose another path.") from None


@contextmanager
def replaced_folder(target: Path, what: str, *, keep_previous: bool) -> Iterator[Path]:
    """Fill a new folder and put it in the place of ``target`` when the block succeeds.

    Until then the old one stays; it is kept as ``<name>.previous`` while the swap is made, and removed after it unless
    ``keep_previous``.
    """
    make_folder(target.parent, what)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield fresh
        previous = target.with_name(f"{target.name}.previous")
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(target, previous)
        os.chmod(fresh, 0o755)
        os.replace(fresh, target)
        if not keep_previous:
            shutil.rmtree(previous, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()
