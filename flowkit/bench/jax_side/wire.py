"""Messages between the two processes: a line of JSON, then arrays in numpy's own format."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

Arrays = dict[str, np.ndarray]


def send(stream: IO[bytes], head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a message."""
    body = b""
    if arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        body = buffer.getvalue()
    stream.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n" + body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays] | None:
    """Read a message; None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    head = json.loads(line)
    size = head.pop("bytes")
    if not size:
        return head, {}
    with np.load(io.BytesIO(stream.read(size)), allow_pickle=False) as found:
        return head, {name: found[name] for name in found.files}
