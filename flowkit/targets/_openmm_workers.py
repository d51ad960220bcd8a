"""A pool of processes that evaluate energies, one thread each."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import FlowkitError

Array = NDArray[np.float64]
SCRIPT = Path(__file__).with_name("_openmm_worker.py")


class Workers:
    """Fresh interpreters behind pipes: they import neither torch nor the caller's script, and nothing of this process is forked.

    They end when they are closed, when the pool is collected, and when this process ends, however it ends: their input closes then.

    Args:
        system: an openmm.System as XML; platform: an OpenMM platform; count: number of processes.
    """

    def __init__(self, system: str, platform: str, count: int) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENMM_CPU_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, **threads}}
        # -P: the script's folder is no place to import from
        self.processes = [subprocess.Popen([sys.executable, "-P", str(SCRIPT)], **options) for _ in range(count)]
        self._end = weakref.finalize(self, _end, self.processes, os.getpid())
        for process in self.processes:
            self._send(process, *(_text(part) for part in (platform, system)))

    def __call__(self, x: Array, who: str) -> tuple[Array, Array]:
        """Energies (n,) and forces (n, N, 3) at positions (n, N, 3), in order."""
        parts = [np.ascontiguousarray(part) for part in np.array_split(x, len(self.processes))]
        try:
            # a worker reads its whole request before it writes, so that no two ends wait for each other
            for process, part in zip(self.processes, parts, strict=True):
                self._send(process, struct.pack("<qq", len(part), x.shape[1]), part.tobytes())
            answers = [self._receive(process, len(part), x.shape[1]) for process, part in zip(self.processes, parts, strict=True)]
        except (OSError, EOFError) as error:
            said = self._last_words()
            self.close()
            raise FlowkitError(f"{who}: a worker process ended ({said or error}). Evaluate in this process with workers=0 to see why.") from None
        answer = np.concatenate(answers)
        return answer[:, 0].copy(), answer[:, 1:].reshape(x.shape).copy()

    def close(self) -> None:
        """End the processes and wait for them."""
        self._end()

    def _send(self, process: Any, *parts: bytes) -> None:
        for part in parts:
            process.stdin.write(part)
        process.stdin.flush()

    def _receive(self, process: Any, n: int, atoms: int) -> Array:
        wanted = n * (1 + 3 * atoms) * 8
        content = process.stdout.read(wanted)
        if len(content) < wanted:
            raise EOFError("its output ended")
        return np.frombuffer(content, dtype=np.float64).reshape(n, 1 + 3 * atoms)

    def _last_words(self) -> str:
        """The last line that a process which has ended wrote as an error."""
        for process in self.processes:
            try:
                process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                continue
            if process.returncode and process.stderr is not None:
                return (process.stderr.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        return ""


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<q", len(content)) + content


def _end(processes: list[Any], owner: int) -> None:
    if os.getpid() != owner:  # a forked child's copy: the processes are not its own
        return
    for process in processes:
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # what was not sent stays unsent
                pipe.close()
    for process in processes:
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
