"""The kernels of solvers and diagonal chains without a GPU: every check of ``solver_checks`` through Triton's interpreter, in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from solver_cases import QUICK, THOROUGH

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is at hand: test_gpu_solvers runs the same checks on it"),
]


@cache
def outcomes(checks: tuple[str, ...]) -> dict[str, str | None]:
    """What became of each check: None, or its traceback."""
    command = [sys.executable, str(Path(__file__).parent / "interpreted_solvers_child.py"), *checks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    found = {line["check"]: line["failure"] for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"{done.stderr}\n{len(found)} checks before that"
    return found


@pytest.mark.parametrize("check", QUICK)
def test_interpreted(check: str) -> None:
    """continuous-E.7 (i), (ii), E.9.1, E.9.2."""
    failure = outcomes(QUICK)[check]
    assert failure is None, failure


@pytest.mark.slow
@pytest.mark.parametrize("check", THOROUGH)
def test_interpreted_thoroughly(check: str) -> None:
    """continuous-E.9.1: widths to 128, 43 features and more, 1000 rows."""
    failure = outcomes(THOROUGH)[check]
    assert failure is None, failure
