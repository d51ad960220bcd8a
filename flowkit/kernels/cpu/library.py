"""The C++ sources of this folder as one shared library: carried by the wheel or compiled at first use, loaded once in a process.

Compiled here it lies in ``$FLOWKIT_CACHE/kernels`` (else ``~/.cache/flowkit/kernels``) under a name made of the sources, the
compiler and the processor, so an update of any of them compiles anew. One process compiles, others wait for it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu import compiler
from flowkit.kernels.cpu.compiler import CompilerError

TIME_LIMIT = 120.0  # seconds to wait until another process has compiled
GRAIN = 30_000  # entries of the largest tensor for each thread: with fewer, starting it costs more than it saves
_IMPORTED_IN = os.getpid()
_LOCK = threading.Lock()
_FOUND: list[tuple[ctypes.CDLL | None, str]] = []
_FUNCTIONS: dict[tuple[str, torch.dtype], Any] = {}
_LOG = logging.getLogger(__name__)


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None, with where it lies or why there is none."""
    try:
        path = _path()
        if not path.exists():
            with _locked(path.with_suffix(".lock")):
                if not path.exists():
                    _compile(path)
        library = ctypes.CDLL(str(path))
        library.use_openmp(ctypes.cast(_openmp(), ctypes.c_void_p))
        return library, str(path)
    except (CompilerError, OSError) as error:
        _LOG.warning("flowkit.kernels: plain torch serves in place of the CPU kernels: %s", error)
        return None, str(error)


def _openmp() -> Any:
    """What runs a function on the threads of the OpenMP library that torch has loaded, or None."""
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None)


def _library() -> tuple[ctypes.CDLL | None, str]:
    if not _FOUND:  # no lock once it is known: a fork may copy a lock that is held
        with _LOCK:
            if not _FOUND:
                _FOUND.append(_load())
    return _FOUND[0]


def unavailable() -> str | None:
    """Why the compiled kernels cannot serve on this machine, or None; the first call may compile them."""
    library, reason = _library()
    return reason if library is None else None


# what torch.compiler.assume_constant_result does, which takes a second to import; so the answer is a constant of a compiled graph
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def describe() -> str:
    """What serves, and where it lies."""
    return f"C++, {_library()[1]}"


def call(name: str, tensors: tuple[Tensor, ...], sizes: tuple[int, ...], work: int, *constants: int | float) -> None:
    """Call ``name_float32`` or ``name_float64`` of the library.

    Args:
        name: without the dtype.
        tensors: contiguous, of one dtype, in the order the function takes their addresses.
        sizes: whole numbers that follow them.
        work: entries of the largest tensor; it decides on the number of threads.
        constants: the arguments after the number of threads.
    """
    function = _FUNCTIONS.get((name, tensors[0].dtype)) or _function(name, tensors, sizes, constants)
    function(*(tensor.data_ptr() for tensor in tensors), *sizes, _threads(work), *constants)


def _function(name: str, tensors: tuple[Tensor, ...], sizes: tuple[int, ...], constants: tuple[int | float, ...]) -> Any:
    """The function for these tensors, with its types declared once: that makes a call cheap."""
    library, reason = _library()
    if library is None:
        raise RuntimeError(f"flowkit.kernels: {reason}")
    dtype = tensors[0].dtype
    function = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
    numbers = [ctypes.c_double if isinstance(value, float) else ctypes.c_int for value in constants]
    function.argtypes = [ctypes.c_void_p] * len(tensors) + [ctypes.c_int64] * len(sizes) + [ctypes.c_int, *numbers]
    function.restype = None
    return _FUNCTIONS.setdefault((name, dtype), function)


def _threads(work: int) -> int:
    """As many threads as torch uses, but one in a forked process, whose siblings share the cores."""
    return 1 if os.getpid() != _IMPORTED_IN else max(1, min(torch.get_num_threads(), work // GRAIN))


def _path() -> Path:
    """Where the library lies, once it is compiled."""
    found = compiler.carried()
    if found is not None:
        return found
    name = compiler.find()
    about = compiler.processor()
    key = compiler.digest(*compiler.native(), name, compiler.version(name), compiler.machine(), *(about[part] for part in sorted(about)))
    folder = _cache() / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and folder.stat().st_uid not in (os.getuid(), 0):
        raise CompilerError(f"{folder} belongs to another user. Point $FLOWKIT_CACHE at a folder of your own")
    return folder / f"flowkit_{key}.so"


def _cache() -> Path:
    """Where compiled libraries are kept."""
    try:
        return Path(os.environ.get("FLOWKIT_CACHE") or Path.home() / ".cache" / "flowkit").expanduser()
    except RuntimeError:
        raise CompilerError("there is no home folder to keep them in. Point $FLOWKIT_CACHE at a folder of your own") from None


def _compile(path: Path) -> None:
    start = time.monotonic()
    compiler.build(path, *compiler.native())
    _LOG.info("flowkit.kernels: compiled %s in %.1f s", path, time.monotonic() - start)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes see; its holder's end frees it."""
    import fcntl

    with path.open("w") as file:
        deadline = time.monotonic() + TIME_LIMIT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise CompilerError(f"another process has held {path} for {TIME_LIMIT:.0f} s") from None
                time.sleep(0.05)
        yield
