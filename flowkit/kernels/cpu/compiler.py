"""The C++ sources of this folder made into one shared library by the system's compiler.

Uses Python's own library only, so that building a wheel needs no more. On x86 a wheel carries a library for each level of the
instruction set in ``LEVELS``, elsewhere one for any processor of the kind.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
CARRIED = FOLDER / "carried"  # libraries that came with the wheel
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-pthread")
COMPILERS = ("g++", "c++", "clang++")
TIME_LIMIT = 120.0  # seconds for compiling
X86 = ("x86_64", "amd64")
# best first: the compiler's name of a level, and what of it the processor must list
LEVELS = {
    "x86-64-v4": {"avx512f", "avx512dq", "avx512bw", "avx512cd", "avx512vl", "avx2", "fma", "bmi2"},
    "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
}


class CompilerError(Exception):
    """Why nothing could be compiled."""


def sources() -> list[Path]:
    """What is compiled, and the headers."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix in (".cpp", ".h"))


def digest(*more: str) -> str:
    """A short name for the sources and what else decides on the result."""
    key = hashlib.sha256(" ".join([*FLAGS, *more]).encode())
    for source in sources():
        key.update(source.name.encode() + source.read_bytes())
    return key.hexdigest()[:24]


def find() -> str:
    """The compiler: ``$CXX`` or the first of COMPILERS that is installed."""
    if os.name != "posix":
        raise CompilerError(f"they are not built on {platform.system()}")
    for name in (os.environ.get("CXX"), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise CompilerError(f"no C++ compiler ({', '.join(COMPILERS)}) is installed")


def version(compiler: str) -> str:
    """What it says of itself."""
    return _run([compiler, "--version"], 10.0)


def native() -> tuple[str, ...]:
    """Flags for the processor of this machine."""
    return ("-march=native",) if machine() in X86 else ("-mcpu=native",)


def machine() -> str:
    """The kind of processor."""
    return platform.machine().lower()


def processor() -> dict[str, str]:
    """What the system tells about the processor: its instruction sets under ``flags`` (x86) or ``Features`` (ARM)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"processor": platform.processor()}
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    wanted = ("flags", "Features", "model name", "CPU part")
    return {name.strip(): value.strip() for name, value in reversed(pairs) if name.strip() in wanted}


def build(path: Path, *flags: str) -> None:
    """Compile in a temporary folder beside ``path`` and rename the library, so that nobody sees half of it."""
    command = [find(), *FLAGS, *flags, "-I", str(FOLDER)]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.stem) as folder:

        def compiled(number: int, unit: str) -> str:
            made = str(Path(folder) / f"{number}.o")
            _run([*command, "-c", "-o", made, "-x", "c++", "-"], TIME_LIMIT, unit)
            return made

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compiled, *zip(*enumerate(_units()), strict=True)))
        library = Path(folder) / path.name
        _run([*command, "-o", str(library), *objects], TIME_LIMIT)
        library.chmod(0o755)
        library.replace(path)


def _units() -> list[str]:
    """The sources as one unit for each processor: read one by one, they would have most of their templates compiled anew."""
    lines = [f'#include "{source.name}"\n' for source in sources() if source.suffix == ".cpp"]
    each = -(-len(lines) // (os.cpu_count() or 1))
    return ["".join(lines[first : first + each]) for first in range(0, len(lines), each)]


def carry(folder: Path) -> None:
    """Compile what a wheel carries, into ``folder``; of what it was compiled with only the standard C++ library is carried along."""
    folder.mkdir(parents=True, exist_ok=True)
    for level in LEVELS if machine() in X86 else ("generic",):
        flags = (f"-march={level}",) if level in LEVELS else ()
        build(folder / _carried_name(level), *flags, *(() if platform.system() == "Darwin" else ("-static-libstdc++", "-static-libgcc")))


def carried() -> Path | None:
    """The best library that came with the wheel for this processor, if one did."""
    known = set(processor().get("flags", "").split())
    for level in (*LEVELS, "generic"):
        path = CARRIED / _carried_name(level)
        if path.exists() and LEVELS.get(level, set()) <= known:
            return path
    return None


def _carried_name(level: str) -> str:
    return f"flowkit_{digest()}_{level}.so"


def _run(command: list[str], limit: float, given: str = "") -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{command[0]} took more than {limit:.0f} s") from None
    if done.returncode != 0:
        raise CompilerError(f"{command[0]} failed: {' '.join(done.stderr.split())[:300]}")
    return done.stdout
