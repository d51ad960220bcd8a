"""Time to compile a deep stack of equal layers: Chain against Scan. Writes benchmarks/results/scan_compile.md.

Run: python benchmarks/scan_compile.py [--backend aot_eager inductor] [--depths 4 16 64]
"""

from __future__ import annotations

import argparse
import os

import torch
from _report import heading, write

from flowkit.bijectors import Affine, Chain, Coupling, Permutation, Scan
from flowkit.core.transform import Bijector
from flowkit.univariates import Affine as AffineUnivariate

FEATURES, ROWS = 8, 256


def layer() -> Bijector:
    return Chain([Affine(FEATURES), Coupling(FEATURES, AffineUnivariate(), (32, 32)), Permutation.reverse(FEATURES)])


def cpu_seconds() -> float:
    """Processor time of this process and the compilers it ran: what others do on the machine hardly changes it."""
    return sum(os.times()[:4])


def measured(model: Bijector, backend: str, calls: int = 10) -> tuple[float, float]:
    """Processor seconds of the first loss and gradient, which compile, and of one of the following."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        z, log_det = model.inverse(x)
        return (0.5 * z.square().sum(-1) - log_det).mean()

    torch._dynamo.reset()
    x = torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    start = cpu_seconds()
    compiled(x).backward()
    first = cpu_seconds() - start
    start = cpu_seconds()
    for _ in range(calls):
        compiled(x).backward()
    return first, (cpu_seconds() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", nargs="+", default=["aot_eager", "inductor"])
    parser.add_argument("--depths", nargs="+", type=int, default=[4, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.compiler.config.force_disable_caches = True
    torch._inductor.config.compile_threads = 1  # in this process, where it is counted
    lines = ["| backend | depth | compile, Chain (s) | compile, Scan (s) | step, Chain (ms) | step, Scan (ms) |", "|---|---|---|---|---|---|"]
    about = (
        f"\nLoss and gradient of `depth` layers (affine, coupling with 32-32 conditioner, permutation) on {ROWS} rows of {FEATURES} features, one thread, "
        "`fullgraph=True`, compile caches off. Processor seconds. `Scan` traces its layer once, `Chain` every layer.\n\n"
    )
    for backend in options.backend:
        measured(Chain([layer()]), backend)  # what the first compilation of a process costs is not the layers'
        measured(Scan(layer(), 2), backend)
        for depth in options.depths:
            torch.manual_seed(0)
            chain = Chain([layer() for _ in range(depth)])
            first, then = measured(chain, backend)
            first_scan, then_scan = measured(Scan.from_chain(chain), backend)
            lines.append(f"| {backend} | {depth} | {first:.1f} | {first_scan:.1f} | {1e3 * then:.1f} | {1e3 * then_scan:.1f} |")
            write("scan_compile.md", heading("Time to compile repeated layers") + about + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
