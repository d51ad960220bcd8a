"""A fit on two processes, for ``torchrun``: ``two_processes.py RUN_DIR STEPS``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import flowkit as fk


def main(run_dir: Path, stop_after: int) -> None:
    """Train, stopping after some epochs; every process leaves its final weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flow = fk.flows.RealNVP(2, layers=2, hidden=(8,))
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)).cumsum(1)
    stop = [lambda state: state.epoch == stop_after]
    fk.fit(flow, x, max_epochs=4, batch_size=32, run_dir=run_dir, resume=True, progress=False, callbacks=stop, seed=1)
    torch.save([p.detach() for p in flow.parameters()], run_dir / f"final-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
