"""Compile what the launchers of ``launch_cases`` start for a GPU that is not there: ``python compile_launches_child.py 90``; a line of JSON each."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import triton
from compile_child import NoDevice, usage
from launch_cases import CASES, SLOW

from flowkit.kernels.gpu import launch


def main(capability: int, chosen: list[str]) -> None:
    triton.runtime.driver.set_active(NoDevice(capability))
    made: list[Any] = []

    def compile_only(source: str, kernel: str, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any], **options: Any) -> None:
        module = importlib.import_module(f"flowkit.kernels.gpu.{source}")
        made.append((kernel, getattr(module, kernel).run(*arguments, grid=(programs,), warmup=True, **constants, **options)))

    launch.start = compile_only
    for name in chosen or CASES:
        made.clear()
        (CASES | SLOW)[name]()
        for kernel, compiled in made:
            found = {"capability": capability, "case": name, "kernel": kernel, "shared": compiled.metadata.shared, "warps": compiled.metadata.num_warps}
            sys.stdout.write(json.dumps(found | usage(compiled.asm["cubin"])) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
