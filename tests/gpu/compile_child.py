"""Compile the Triton maps' kernels for a GPU that is not there: ``python compile_child.py 80 90``; one line of JSON for each kernel.

The launchers run as always, on CPU tensors, with a driver in place of CUDA's that names the GPU and a launch that only compiles.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from flowkit.kernels.gpu import maps, scalar_map, tiles

SPLINE = (8, -3.0, 3.0, "linear")
CASES = {
    "spline": (maps.RATIONAL_QUADRATIC_SPLINE, SPLINE, (4096, 16), torch.float32),
    "spline_bounded": (maps.RATIONAL_QUADRATIC_SPLINE, (8, 0.0, 1.0, "bounded"), (4096, 63), torch.float32),
    "spline_long_rows": (maps.RATIONAL_QUADRATIC_SPLINE, SPLINE, (100, 300), torch.float32),
    "spline_64_bins": (maps.RATIONAL_QUADRATIC_SPLINE, (64, -3.0, 3.0, "linear"), (4096, 16), torch.float32),
    "spline_float64": (maps.RATIONAL_QUADRATIC_SPLINE, SPLINE, (4096, 16), torch.float64),
    "spline_bfloat16": (maps.RATIONAL_QUADRATIC_SPLINE, SPLINE, (4096, 16), torch.bfloat16),
    "piecewise_linear_spline": (maps.PIECEWISE_LINEAR_SPLINE, SPLINE, (4096, 16), torch.float32),
    "piecewise_quadratic_spline": (maps.PIECEWISE_QUADRATIC_SPLINE, SPLINE, (4096, 16), torch.float32),
    "piecewise_quadratic_spline_bounded": (maps.PIECEWISE_QUADRATIC_SPLINE, (8, 0.0, 1.0, "bounded"), (4096, 63), torch.float32),
    "bounded_affine": (maps.BOUNDED_AFFINE, (5.0,), (4096, 16), torch.float32),
    "affine": (maps.AFFINE, (), (4096, 16), torch.float32),
    "logistic_mixture_cdf": (maps.logistic_mixture_cdf(3.0), (8,), (4096, 16), torch.float32),
}
BOTH_WAYS = ("spline", "piecewise_linear_spline", "piecewise_quadratic_spline", "affine", "logistic_mixture_cdf")


class NoDevice:
    """What Triton asks of a driver when it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack, on which spilled registers lie."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(re.search(rf"{name.upper()}:(\d+)", text).group(1)) for name in ("reg", "stack")}  # type: ignore[union-attr]


def main(capability: int) -> None:
    triton.runtime.driver.set_active(NoDevice(capability))
    made: list[Any] = []

    def compile_only(kernel: str, programs: int, tensors: tuple[Any, ...], sizes: tuple[int, ...], constants: dict[str, Any]) -> None:
        compiled = getattr(tiles, kernel).run(*tensors, *sizes, grid=(programs,), warmup=True, **constants, **scalar_map.OPTIONS)
        made.append((kernel, compiled))

    scalar_map._launch = compile_only
    for case, (kernels, constants, shape, dtype) in CASES.items():
        for inverse in (False, True) if case in BOTH_WAYS else (False,):
            value, params = torch.zeros(shape, dtype=dtype), torch.zeros(*shape, kernels.table(*constants).count, dtype=dtype)
            made.clear()
            out, log_det = kernels.forward(inverse, value, params, *constants, 1, "normal")
            kernels.backward(inverse, out, log_det, value, params, *constants, 1, "normal")
            for kernel, compiled in made:
                found = {"capability": capability, "case": case, "inverse": inverse, "kernel": kernel, "shared": compiled.metadata.shared}
                sys.stdout.write(json.dumps(found | usage(compiled.asm["cubin"])) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    for number in sys.argv[1:]:
        main(int(number))
