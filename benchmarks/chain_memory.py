"""Peak activation memory of a training step against depth, with stored and with recomputed activations.

    python benchmarks/chain_memory.py

Every allocation and release of a step is replayed from torch's profiler; the peak excludes the gradients of the
parameters, which any training must hold. Gradients of both kinds are compared.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from _report import heading, write
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from flowkit.bijectors import Chain, Coupling
from flowkit.univariates import Affine

FEATURES, BATCH, WIDTH = 64, 4096, 64


def chain(depth: int, memory: Literal["store", "invert"], dtype: torch.dtype) -> Chain:
    """Affine couplings with alternating masks, their parameters perturbed."""
    generator = torch.Generator().manual_seed(0)
    masks = [tuple((i + layer) % 2 == 1 for i in range(FEATURES)) for layer in range(depth)]
    made = Chain([Coupling(FEATURES, Affine(), (WIDTH, WIDTH), mask, activation="silu") for mask in masks], memory=memory).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * (0.3 / parameter.shape[-1] ** 0.5))
    return made


def step(model: Chain, x: Tensor) -> None:
    """Loss of a density model and its gradients."""
    model.zero_grad()
    z, log_det = model.inverse(x)
    (0.5 * z.square().sum(-1) - log_det).mean().backward()


def peak_and_gradients(depth: int, memory: Literal["store", "invert"], dtype: torch.dtype = torch.float32) -> tuple[float, float, list[Tensor]]:
    """Peak activation MB and seconds of a step, and the gradients it leaves."""
    model = chain(depth, memory, dtype)
    x = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    step(model, x)
    start = time.perf_counter()
    step(model, x)
    seconds = time.perf_counter() - start
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step(model, x)
    held = peak = 0
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return (peak - sum(g.numel() * g.element_size() for g in gradients)) / 2**20, seconds, gradients


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference of two sets of gradients, relative to the size of each tensor."""
    return max(float((x - y).norm() / x.norm()) for x, y in zip(a, b, strict=True))


def main() -> None:
    rows = []
    for depth in (4, 8, 16, 32, 64):
        (stored, stored_seconds, a), (inverted, seconds, b) = peak_and_gradients(depth, "store"), peak_and_gradients(depth, "invert")
        double = difference(peak_and_gradients(depth, "store", torch.float64)[2], peak_and_gradients(depth, "invert", torch.float64)[2])
        rows.append([depth, f"{stored:.1f}", f"{inverted:.1f}", f"{difference(a, b):.1e}", f"{double:.1e}", f"{seconds / stored_seconds:.2f}"])
    names = ["depth", "stored, MB", "recomputed, MB", "gradient difference, float32", "float64", "time of a step, recomputed / stored"]
    table = "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [names, ["---:"] * len(names), *rows])
    about = f"Affine couplings, D = {FEATURES}, batch {BATCH}, hidden ({WIDTH}, {WIDTH}); gradients of parameters are not counted in the peak."
    write("chain_memory.md", f"{heading('Peak activation memory of a training step, by depth')}\n{about}\n\n{table}\n")


if __name__ == "__main__":
    main()
