"""One run on two processes: gradients are shared, weights agree, one process writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(run_dir: Path, stop_after: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT), str(run_dir), str(stop_after)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_agree_and_resume(tmp_path: Path) -> None:
    launch(tmp_path / "run", 4)
    weights = [torch.load(tmp_path / "run" / f"final-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 5 and rows[-1].startswith("16.0,4.0")
