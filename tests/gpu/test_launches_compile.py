"""The kernels of solvers and diagonal chains compile for real GPUs, without one, and what they hold fits the registers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
SHARED = 227 * 1024  # what a program may have on Hopper; 48 KB without asking for more
ELSEWHERE = {"trajectory": 256, "adaptive": 4096, "gated": 4096, "many_rows": 4096, "wide": 16384}  # bytes of a thread's registers in memory


def kernels(folder: Path, *cases: str) -> list[dict[str, Any]]:
    """Compiled kernels with what they use."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).parent / "compile_launches_child.py"), "90", *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(found: list[dict[str, Any]]) -> None:
    for line in found:
        assert line["shared"] <= SHARED and line["stack"] <= ELSEWHERE.get(line["case"], 0), line


def test_compile_for_hopper(tmp_path: Path) -> None:
    """continuous-E.7: stages and errors in one pass each, a trajectory in one kernel each way."""
    found = kernels(tmp_path)
    assert len(found) == 14 and {line["kernel"] for line in found if line["case"] == "trajectory"} == {"fixed_kernel", "backward_kernel"}
    judge(found)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["adaptive", "gated", "many_rows", "wide"])
def test_compile_more_for_hopper(case: str, tmp_path: Path) -> None:
    found = kernels(tmp_path, case)
    assert len(found) == 2
    judge(found)
