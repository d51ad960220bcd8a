"""Every op against the conformance suite, and how the dispatch chooses."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import flowkit  # noqa: F401  fills the registries
from flowkit.core.errors import ConfigError
from flowkit.kernels import OPS, KernelError, use
from flowkit.kernels.cpu import compiler, library
from flowkit.testing import check_op  # noqa: F401  fills the suite
from flowkit.testing._suites import OP

CALLS = [pytest.param(op, check, id=f"{name}-{check}") for name, op in OPS.items() for check in OP.names(op)]


@pytest.mark.parametrize(("op", "check"), CALLS)
def test_op(op: Any, check: str) -> None:
    OP.run(check, op)


def _spline() -> Any:
    return OPS["rational_quadratic_spline"]


def _args() -> Any:
    return next(iter(_spline().examples()))[1]


def _runs_fused(*args: Any) -> bool:
    value = args[0].detach().requires_grad_()
    return "flowkit" in type(_spline()(value, *args[1:])[0].grad_fn).__name__.lower()


def _served() -> bool:
    return library.unavailable() is None


fused = pytest.mark.skipif("not _served()", reason="no C++ compiler")


@fused
def test_choices() -> None:
    args = _args()
    assert _runs_fused(*args)
    with use("reference"):
        assert not _runs_fused(*args)
        with use("fused"):
            assert _runs_fused(*args)
    assert _runs_fused(*args)
    with pytest.raises(ConfigError, match="fast"), use("fast"):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v, p, bins, *rest: (v, p.float(), bins, *rest), "differ in dtype"),
        (lambda v, p, bins, *rest: (v.to("meta"), p.to("meta"), bins, *rest), "meta tensors"),
        (lambda v, p, bins, *rest: (v[:1], p, bins, *rest), "do not belong"),
        (lambda v, p, bins, *rest: (v, torch.zeros(*v.shape, 3 * 65 - 1, dtype=v.dtype), 65, *rest), "65 bins"),
    ],
)
def test_forced_kernel_says_why_it_cannot_serve(change: Any, why: str) -> None:
    with use("fused"), pytest.raises(KernelError, match=why):
        _spline()(*change(*_args()))


def test_forced_kernel_under_transforms() -> None:
    value, params, *rest = _args()
    with use("fused"), pytest.raises(KernelError, match=r"torch\.func"):
        torch.func.vmap(lambda v, p: _spline()(v, p, *rest))(value, params)
    with use("fused"), torch.autograd.forward_ad.dual_level(), pytest.raises(KernelError, match="forward-mode"):
        _spline()(value, params, *rest)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The reference serves, with one line in the log; asked for, the kernel says what is missing."""
    monkeypatch.setattr(library, "_FOUND", [])
    monkeypatch.setattr(compiler, "COMPILERS", ("no_such_compiler",))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert not _runs_fused(*_args()) and not _runs_fused(*_args())
    assert len(caplog.records) == 1 and "no_such_compiler" in caplog.text
    with use("fused"), pytest.raises(KernelError, match="no C\\+\\+ compiler"):
        _spline()(*_args())
    assert "no C++ compiler" in _spline().status()["cpu"]


@fused
def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half made is left behind, and the error names the compiler's own words."""
    monkeypatch.setattr(library, "_FOUND", [])
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "--no-such-flag"))
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    assert "no-such-flag" in str(library.unavailable())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".so", ".part")]


@fused
def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    # without optimisation: five times as fast to compile, and far longer still than the processes' start differs
    code = (
        "from flowkit.kernels.cpu import compiler, library; compiler.FLAGS = tuple(flag for flag in compiler.FLAGS if flag != '-O3')\n"
        "assert library.unavailable() is None, library.unavailable()"
    )
    environment = {**os.environ, "FLOWKIT_CACHE": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(list(tmp_path.rglob("*.so"))) == 1 and not list(tmp_path.rglob("*.part"))


FORKED = """
import os, sys, torch
from flowkit.kernels import OPS
from flowkit.kernels.cpu import library
op = OPS["rational_quadratic_spline"]
args = next(iter(op.examples(20_000)))[1]
torch.set_num_threads(2)
wanted = op(*args)[0].tolist()
assert library._threads(args[1].numel()) == 2
child = os.fork()
if child == 0:
    alone = library._threads(args[1].numel()) == 1
    os._exit(0 if alone and op(*args)[0].tolist() == wanted else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@fused
def test_forked_worker_uses_one_thread() -> None:
    """After a call on two threads a forked child still answers, alone."""
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=120, check=False).returncode == 0


def test_listing() -> None:
    from flowkit.experiment.listing import list_kind, list_kinds

    text = list_kind("kernels")
    assert all(name in text for name in OPS) and "cpu  " in text and "gpu  " in text
    assert "kernels" in list_kinds()
