"""A small fit in a process of its own, for tests that kill it.

``python killed_run.py`` imports torch once and forks a run for each folder on a line of standard input: a line with its
process id when it starts, a line with its exit code when it has ended.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import torch
from torch import nn

import flowkit as fk
from flowkit.training import checkpoint


class Noisy(nn.Module):
    """A conditioner with dropout, so that the run depends on the default generator too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return self.body(x)


def main(run_dir: Path) -> None:
    """Train 400 steps and write a checkpoint at every fifth chance, so that a kill often falls into one."""
    torch.set_num_threads(1)
    chances = itertools.count(1)
    checkpoint.Checkpoints.due = lambda self: next(chances) % 5 == 0  # type: ignore[method-assign]
    torch.manual_seed(0)
    affine = fk.univariates.Affine()
    layers = [fk.bijectors.Coupling(2, affine, mask=mask, conditioner=Noisy()) for mask in ((True, False), (False, True))]
    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Chain([*layers, fk.bijectors.ActNorm(2)]), standardize=True)
    x = torch.randn(512, 2).cumsum(1) ** 2
    fk.fit(flow, x, validation=0.2, max_steps=400, batch_size=64, ema=0.95, seed=3, run_dir=run_dir, resume=True, progress=False, schedule="one_cycle")
    torch.save([p.detach() for p in flow.parameters()], run_dir / "final.pt")


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            main(Path(line.strip()))
            os._exit(0)
        _say(child)
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
