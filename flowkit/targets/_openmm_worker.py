"""A process that evaluates energies: run as a script, without torch or flowkit.

Reads from standard input the platform and the system, then requests: the numbers n and N, and positions (n, N, 3). Answers each on
standard output with n energies and forces (n, N, 3). Numbers are float64, sizes int64, texts their length and UTF-8. Ends with its input.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the input ends."""
    import numpy as np
    import openmm

    platform, system = _text(source), _text(source)
    options = {"Threads": "1"} if platform == "CPU" else {}
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(openmm.XmlSerializer.deserialize(system), integrator, openmm.Platform.getPlatformByName(platform), options)
    while head := source.read(16):
        n, atoms = struct.unpack("<qq", head)
        x = np.frombuffer(source.read(n * atoms * 24), dtype=np.float64).reshape(n, atoms, 3)
        answer = np.full((n, 1 + 3 * atoms), np.nan)
        for i in range(n):
            if np.isfinite(x[i]).all():
                try:
                    context.setPositions(x[i])
                    state = context.getState(getEnergy=True, getForces=True)
                except openmm.OpenMMException:  # the row stays NaN
                    continue
                answer[i, 0] = state.getPotentialEnergy()._value
                answer[i, 1:] = state.getForces(asNumpy=True)._value.reshape(-1)
        sink.write(answer.tobytes())
        sink.flush()


def _text(source: BinaryIO) -> str:
    (size,) = struct.unpack("<q", source.read(8))
    return source.read(size).decode()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    serve(sys.stdin.buffer, answers)
