"""Resuming: a killed run ends like one left alone; damaged checkpoints are passed over; changed settings are refused."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import flowkit as fk
from flowkit.core.errors import CheckpointError, ConfigError
from flowkit.training.checkpoint import Checkpoints

SCRIPT = Path(__file__).with_name("killed_run.py")


class Runs:
    """One run after the other, each in a process of its own that ``killed_run.py`` forks before it has drawn or computed anything.

    Two interpreters take turns, so that a run is resumed under another seed of Python's hashes than it was started with.
    """

    def __init__(self) -> None:
        self.servers = [subprocess.Popen([sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
        self.server = self.servers[0]

    def _line(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def start(self, run_dir: Path) -> int:
        """The process id of a new run."""
        self.servers.reverse()
        self.server = self.servers[0]
        assert self.server.stdin is not None
        self.server.stdin.write(f"{run_dir}\n".encode())
        self.server.stdin.flush()
        return self._line()

    def alive(self) -> bool:
        return not select.select([self.server.stdout], [], [], 0)[0]

    def wait(self) -> int:
        """The exit code of the run."""
        return self._line()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    made = Runs()
    yield made
    for server in made.servers:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def undisturbed(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    folder = tmp_path_factory.mktemp("undisturbed")
    runs.start(folder)
    assert runs.wait() == 0
    return torch.load(folder / "final.pt")


def reached(folder: Path) -> int:
    """The step of the newest checkpoint that can be seen from outside."""
    return max((int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("step-?????????")), default=-1)


def killed_and_resumed(runs: Runs, folder: Path, kills: int, seed: int) -> int:
    """Kill a run ``kills`` times at random moments of its course, then let it finish; returns how often it was caught alive."""
    draw, caught = random.Random(seed), 0
    for step in sorted(draw.sample(range(380), kills)):
        process = runs.start(folder)
        while runs.alive() and reached(folder) < step:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.05))
        if runs.alive():
            os.kill(process, signal.SIGKILL)
        caught += runs.wait() == -signal.SIGKILL
    runs.start(folder)
    assert runs.wait() == 0
    return caught


def compare(folder: Path, weights: list[torch.Tensor]) -> None:
    final = torch.load(folder / "final.pt")
    assert all(torch.equal(a, b) for a, b in zip(final, weights, strict=True))


def test_killed_three_times(runs: Runs, tmp_path: Path, undisturbed: list[torch.Tensor]) -> None:
    assert killed_and_resumed(runs, tmp_path / "run", 3, seed=1) == 3
    compare(tmp_path / "run", undisturbed)
    steps = [float(line.split(",")[0]) for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps)) and steps[-1] == 400


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_twenty_times(runs: Runs, tmp_path: Path, undisturbed: list[torch.Tensor], seed: int) -> None:
    assert killed_and_resumed(runs, tmp_path / "run", 5, seed=10 + seed) == 5
    compare(tmp_path / "run", undisturbed)


def run(folder: Path, **options: object) -> fk.FitResult:
    torch.manual_seed(0)
    flow = fk.flows.RealNVP(2, layers=2, hidden=(8,))
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)).cumsum(1)
    settings = {"max_epochs": 4, "batch_size": 64, "seed": 0, "progress": False, "run_dir": folder} | options
    return fk.fit(flow, x, **settings)


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    again = run(tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert again.history == first.history


def test_interrupted_run_writes_a_checkpoint(tmp_path: Path) -> None:
    def interrupt(state: fk.training.Progress) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", callbacks=[interrupt])
    left_alone = run(tmp_path / "other")
    resumed = run(tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), left_alone.model.parameters(), strict=True))
    assert resumed.history["step"] == left_alone.history["step"]


@pytest.mark.parametrize("step", [6, 8])  # 8 ends an epoch
def test_ctrl_c_waits_for_the_step_and_resumes_exactly(tmp_path: Path, step: int) -> None:
    class Pressed(fk.objectives.MaximumLikelihood):
        def loss(self, model, batch, generator=None, *, phase="main"):  # type: ignore[no-untyped-def]
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == step and reached(tmp_path / "run") == 0:
                signal.raise_signal(signal.SIGINT)
            return super().loss(model, batch, generator, phase=phase)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", objective=Pressed())
    assert signal.getsignal(signal.SIGINT) is before
    assert reached(tmp_path / "run") == step
    resumed, left_alone = run(tmp_path / "run", resume=True, objective=Pressed()), run(tmp_path / "other")
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), left_alone.model.parameters(), strict=True))
    assert resumed.history["step"] == left_alone.history["step"] and resumed.history["loss"] == left_alone.history["loss"]


def test_damaged_newest_checkpoint_falls_back(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    content = bytearray((newest / "tensors.safetensors").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newest / "tensors.safetensors").write_bytes(content)
    again = run(tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_all_checkpoints_damaged_is_an_error(tmp_path: Path) -> None:
    run(tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (folder / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        run(tmp_path / "run", resume=True)


def test_changed_settings_are_listed(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"training\.lr: 0\.001 -> 0\.002"):
        run(tmp_path / "run", resume=True, lr=0.002)
    with pytest.raises(ConfigError, match="already holds a run"):
        run(tmp_path / "run")


def test_without_a_checkpoint_the_recorded_seed_is_used(tmp_path: Path) -> None:
    first = run(tmp_path / "run", seed=None)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = run(tmp_path / "run", seed=None, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_checkpoints_keep_two_and_leave_no_litter(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    for step in range(5):
        checkpoints.write(step, {"a": torch.ones(3) * step}, {"step": step})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-000000003", "step-000000004"]
    found = checkpoints.newest()
    assert found is not None and found[1] == {"step": 4} and found[0]["a"].tolist() == [4.0, 4.0, 4.0]


def test_changed_weights_validation_and_context_are_noticed(tmp_path: Path) -> None:
    options = {"sample_weight": torch.arange(1.0, 257.0), "validation": torch.ones(8, 2)}
    run(tmp_path / "run", **options)
    run(tmp_path / "run", resume=True, **options)
    with pytest.raises(ConfigError, match=r"data\.weight"):
        run(tmp_path / "run", resume=True, **options | {"sample_weight": torch.arange(1.0, 257.0) ** 2})
    with pytest.raises(ConfigError, match=r"validation\.sum"):
        run(tmp_path / "run", resume=True, **options | {"validation": torch.zeros(8, 2)})
    with pytest.raises(ConfigError, match="validation"):
        run(tmp_path / "run", resume=True, sample_weight=options["sample_weight"])
    flow, x = fk.flows.RealNVP(2, 1, layers=1, hidden=(4,)), torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    settings = {"max_epochs": 1, "batch_size": 64, "seed": 0, "progress": False, "run_dir": tmp_path / "conditional"}
    fk.fit(flow, (x, x[:, :1]), **settings)
    with pytest.raises(ConfigError, match=r"data\.context"):
        fk.fit(flow, (x, x[:, :1] + 1.0), resume=True, **settings)
