"""Which compiled library serves: one that came with the wheel, by the processor's level, else one compiled here."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flowkit.kernels import diagonal_chain, mixture_cdf, spline_ends
from flowkit.kernels.cpu import compiler, library

ROOT = Path(__file__).parents[2]
LEVELS = list(compiler.LEVELS)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (" ".join(sorted(set().union(*compiler.LEVELS.values()))), LEVELS[0]),
        (" ".join(sorted(compiler.LEVELS[LEVELS[1]])), LEVELS[1]),
        ("sse2 avx", None),
    ],
)
def test_level_by_processor(flags: str, wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CARRIED", tmp_path)
    monkeypatch.setattr(compiler, "processor", lambda: {"flags": flags})
    assert compiler.carried() is None
    for level in LEVELS:
        (tmp_path / compiler._carried_name(level)).touch()
    found = compiler.carried()
    assert found == (None if wanted is None else tmp_path / compiler._carried_name(wanted))


def test_library_of_other_sources_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CARRIED", tmp_path)
    for level in LEVELS:
        (tmp_path / compiler._carried_name(level)).touch()
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DOTHER"))
    assert compiler.carried() is None


def test_library_that_does_not_load_leaves_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(library, "_FOUND", [])
    monkeypatch.setattr(compiler, "CARRIED", tmp_path)
    for level in (*LEVELS, "generic"):
        (tmp_path / compiler._carried_name(level)).write_bytes(b"not a library")
    assert library.unavailable() is not None and "plain torch serves" in caplog.text


def test_nowhere_to_keep_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(library, "_FOUND", [])
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("FLOWKIT_CACHE", raising=False)
    assert "FLOWKIT_CACHE" in str(library.unavailable())


def test_limits_are_those_of_the_sources() -> None:
    """A larger number in Python than in C++ would overrun the kernels' arrays."""
    text = "".join(source.read_text() for source in compiler.sources())

    def constant(name: str) -> int:
        return int(re.search(rf"constexpr int (?:\w+ = \w+, )*{name} = (\d+)", text).group(1))  # type: ignore[union-attr]

    assert constant("MOST_BINS") == spline_ends.MOST_BINS and constant("MOST_STEPS") == diagonal_chain.MOST_STEPS
    assert constant("MOST_PARAMETERS") >= 3 * mixture_cdf.MOST_COMPONENTS + 2


@pytest.mark.slow
def test_wheel_carries_the_kernels(tmp_path: Path) -> None:
    if library.unavailable():
        pytest.skip("no C++ compiler")
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "."]
    subprocess.run(command, check=True, cwd=source)
    (wheel,) = tmp_path.glob("flowkit-*-py3-none-*.whl")
    inside = zipfile.ZipFile(wheel)
    inside.extractall(tmp_path / "site")
    assert any("kernels/cpu/carried/" in name for name in inside.namelist())
    code = "from flowkit.kernels.cpu import library; assert '/carried/' in library.describe(), library.describe()"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "FLOWKIT_CACHE": str(tmp_path / "cache"), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    assert not (tmp_path / "cache").exists()
