"""The Triton kernels without a GPU: every check of ``scalar_map_checks`` through Triton's interpreter, in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from kernel_cases import QUICK, THOROUGH

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is at hand: test_gpu_kernels runs the same checks on it"),
]
LIMIT = {"quick": 600.0, "thorough": 3000.0}


@cache
def outcomes(which: str) -> dict[tuple[str, str], str | None]:
    """What became of each check: None, or its traceback."""
    command = [sys.executable, str(Path(__file__).parent / "interpreted_child.py"), which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT[which], check=False)
    found = {(line["check"], line["op"]): line["failure"] for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"{done.stderr}\n{len(found)} checks before that"
    return found


@pytest.mark.parametrize(("check", "op"), [pytest.param(*pair, id="-".join(reversed(pair))) for pair in QUICK])
def test_interpreted(check: str, op: str) -> None:
    failure = outcomes("quick")[check, op]
    assert failure is None, failure


@pytest.mark.slow
@pytest.mark.parametrize(("check", "op"), [pytest.param(*pair, id="-".join(reversed(pair))) for pair in THOROUGH])
def test_interpreted_thoroughly(check: str, op: str) -> None:
    failure = outcomes("thorough")[check, op]
    assert failure is None, failure
