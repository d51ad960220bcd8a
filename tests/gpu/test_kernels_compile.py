"""The Triton kernels compile for real GPUs, without one, and what they hold fits the registers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
SHARED = 48 * 1024  # what every GPU lends a program
FEW = 64  # bytes of registers a thread may keep in memory in the cases below
LOOSE = {90: ("spline_float64", "spline_64_bins"), 80: ("spline_float64", "spline_64_bins", "spline_long_rows")}


@cache
def kernels(capability: int, folder: str) -> list[dict[str, Any]]:
    """All compiled kernels for a compute capability, with what they use."""
    environment = {**os.environ, "TRITON_CACHE_DIR": folder}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).parent / "compile_child.py"), str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(capability: int, folder: Path) -> None:
    found = kernels(capability, str(folder))
    assert {line["kernel"] for line in found} == {"forward_kernel", "backward_kernel"} and len(found) == 34
    for line in found:
        assert line["shared"] <= SHARED, line
        assert line["stack"] <= (FEW if line["case"] in LOOSE[capability] else 0), f"registers are spilled: {line}"


def test_compile_for_hopper(tmp_path: Path) -> None:
    judge(90, tmp_path)


@pytest.mark.slow
def test_compile_for_ampere(tmp_path: Path) -> None:
    judge(80, tmp_path)
