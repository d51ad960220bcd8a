"""The JAX process as seen from this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowkit.bench.jax_side.wire import Arrays, receive, send
from flowkit.bench.timing import Timer
from flowkit.core.errors import FlowkitError


class JaxError(FlowkitError, RuntimeError):
    """The JAX process answered with an error, or ended."""


class JaxProcess:
    """A process that builds flowjax's flows, jits their jobs and times them, each waited for with ``block_until_ready``.

    Args:
        threads: that JAX may use; the process is bound to as many processors.
    """

    def __init__(self, threads: int) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  what JAX writes to standard error; ``close`` closes it
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flowkit.bench.jax_side.worker", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment,
        )  # fmt: skip
        self.ask("hello")

    def ask(self, what: str, arrays: Mapping[str, np.ndarray] | None = None, **head: Any) -> tuple[dict[str, Any], Arrays]:
        """Send a request and wait for its answer.

        Raises:
            JaxError: the process failed; the message is its own.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, {"do": what, **head}, arrays)
            answer = receive(self._process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self._said.seek(0)
            last = self._said.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise JaxError(f"the JAX process ended: {last[0]}")
        if "error" in answer[0]:
            raise JaxError(answer[0]["error"])
        return answer

    def timer(self, job: int) -> Timer:
        """Clock of a job that an answer named."""
        return lambda repeats: [float(seconds) for seconds in self.ask("time", job=job, repeats=repeats)[0]["seconds"]]

    def forget(self, job: int) -> None:
        """Let a job's arrays go."""
        self.ask("forget", job=job)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()
