"""What ``flowkit.compile`` costs and brings: cold seconds by depth, and steps, densities and draws against eager.

Cold: a fresh process with an empty cache of the compiler makes one training step, one ``log_prob`` without gradients and one
``sample``; what the same three take afterwards is subtracted
to give the time of compiling, on the clock and of the processors. Then a smaller batch, such as the last of an epoch, goes through all
three, and programs compiled for it are counted. The C++ kernels of flowkit itself are built beforehand. flowjax's ``jit`` does the same
three beside it. All take turns, as often as fit in ``--budget`` seconds, once at least. Writes benchmarks/results/compile_time.md.

Run: python benchmarks/compile_time.py [--depths 8 64] [--runs neural_spline_flow:default sos_flow:default]
     [--budget 60] [--repeats 3] [--rounds 9] [--threads 2] [--device cpu]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import heading, write

FEATURES, HIDDEN, ROWS, BINS = 16, (128, 128), 1024, 8
REST = 341  # rows of the last batch of an epoch
AGAIN = 3  # warm calls whose median is what a call takes
CALLS = ("step", "log_prob", "sample")
INVERTED = ("neural_spline_flow", "real_nvp", "nice")  # recipes whose draws take one pass; of others two calls are timed


def torch_calls(flow: Any, recipe: str, x: Any) -> dict[str, Callable[[], Any]]:
    """The three calls of a flow of ours, each waited for."""
    import torch

    def waited(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            result = call()
            if x.is_cuda:
                torch.cuda.synchronize()
            return result

        return run

    def step() -> None:
        flow.zero_grad(set_to_none=True)
        (-flow.log_prob(x).mean()).backward()

    def log_prob() -> Any:
        with torch.no_grad():
            return flow.log_prob(x)

    found = {"step": step, "log_prob": log_prob, "sample": lambda: flow.sample((len(x),))}
    return {name: waited(found[name]) for name in CALLS if name != "sample" or recipe in INVERTED}


def made(recipe: str, layers: int, device: str) -> tuple[Any, Any]:
    """A flow whose parameters are moved off the identity, and rows."""
    import torch

    from flowkit.core.registry import FLOWS

    torch.manual_seed(0)
    options = {"bins": BINS} if recipe == "neural_spline_flow" else {}
    flow = FLOWS[recipe](FEATURES, layers=layers, hidden=HIDDEN, **options)
    for parameter in flow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return flow.to(device), torch.randn(ROWS, FEATURES, device=device)


def flowjax_calls(layers: int) -> dict[str, Callable[[], Any]]:
    """The three calls under flowjax's jit: a coupling spline flow of the same size."""
    import equinox
    import jax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow
    from jax import numpy as jnp

    key = jax.random.key(0)
    spline = RationalQuadraticSpline(knots=BINS, interval=5)
    base = Normal(jnp.zeros(FEATURES))
    flow = coupling_flow(key, base_dist=base, transformer=spline, flow_layers=layers, nn_width=HIDDEN[0], nn_depth=len(HIDDEN))
    x = jax.random.normal(key, (ROWS, FEATURES))
    step = equinox.filter_jit(equinox.filter_value_and_grad(lambda f, v: -f.log_prob(v).mean()))
    log_prob, sample = equinox.filter_jit(lambda f, v: f.log_prob(v)), equinox.filter_jit(lambda f, k: f.sample(k, (ROWS,)))
    calls = {"step": lambda: step(flow, x), "log_prob": lambda: log_prob(flow, x), "sample": lambda: sample(flow, key)}
    return {name: lambda call=call: jax.block_until_ready(call()) for name, call in calls.items()}  # type: ignore[misc]


def processor() -> float:
    """Processor seconds of this process and the compilers it ran: what others do on the machine hardly changes them."""
    return sum(os.times()[:4])


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def programs() -> int:
    """Compiled by torch in this process so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


def cold(job: dict[str, Any]) -> dict[str, float]:
    """In a process of its own: seconds of the first round of calls, and what of them the calls themselves take."""
    if job["backend"] == "flowjax":
        import jax  # noqa: F401, of both libraries the import is left out

        calls, rest = flowjax_calls(job["layers"]), {}
        start, worked = time.perf_counter(), processor()
    else:
        import torch

        import flowkit as fk

        torch.set_num_threads(job["threads"])
        flow, x = made(job["recipe"], job["layers"], job["device"])
        start, worked = time.perf_counter(), processor()
        flow = fk.compile(flow, backend=None if job["backend"] == "default" else job["backend"])
        calls, rest = torch_calls(flow, job["recipe"], x), torch_calls(flow, job["recipe"], x[:REST])
    for call in calls.values():
        call()
    first, work = time.perf_counter() - start, processor() - worked
    again = sum(statistics.median(seconds(call) for _ in range(AGAIN)) for call in calls.values())
    worked = processor()
    for call in calls.values():
        call()
    work -= processor() - worked
    compiled = programs()
    for call in rest.values():
        call()
    return {"first": first, "compiling": max(first - again, 0.0), "work": max(work, 0.0), "programs": compiled, "more": programs() - compiled}


def child(job: dict[str, Any]) -> dict[str, float]:
    """``cold`` in a fresh process with an empty compiler cache."""
    with tempfile.TemporaryDirectory() as cache:
        threads = {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = {**os.environ, **threads, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache, "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
        command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout.splitlines()[-1])


def cold_runs(options: argparse.Namespace) -> dict[tuple[str, str], dict[int, list[dict[str, float]]]]:
    """Runs by (recipe, backend) and depth, all by turns while the budget lasts."""
    kinds = [tuple(run.split(":")) for run in options.runs] + ([("coupling spline flow", "flowjax")] if options.flowjax else [])
    found: dict[Any, dict[int, list[dict[str, float]]]] = {kind: {depth: [] for depth in options.depths} for kind in kinds}
    start, longest = time.perf_counter(), 0.0
    for number in range(options.repeats):
        begun = time.perf_counter()
        if number and begun - start + longest > options.budget:
            break
        for (recipe, backend), depths in found.items():
            for depth, runs in depths.items():
                runs.append(child({"recipe": recipe, "backend": backend, "layers": depth, "threads": options.threads, "device": options.device}))
                print(f"{time.perf_counter() - start:.0f} s: {recipe}, {backend}, depth {depth}: {runs[-1]}", flush=True)
        longest = max(longest, time.perf_counter() - begun)
    return found


def cold_table(options: argparse.Namespace) -> list[str]:
    """One row for each recipe and backend."""
    shown = [f"depth {depth}: first calls (s) | compiling (s) | compiling (processor s)" for depth in options.depths]
    lines = [f"| flow | {' | '.join(['run by', *shown])} | processor s, deepest to shallowest | programs | more for {REST} rows | runs |"]
    lines.append("|" + "---|" * (6 + 3 * len(options.depths)))
    for (recipe, backend), depths in cold_runs(options).items():
        cells, compiling = [], []
        for runs in depths.values():
            medians = [statistics.median(run[key] for run in runs) for key in ("first", "compiling", "work")]
            cells += [f"{value:.2f}" for value in medians]
            compiling.append(medians[-1])
        ratio = f"{compiling[-1] / compiling[0]:.2f}" if compiling[0] > 0.2 else "nothing to compile"
        counts = [" to ".join(sorted({str(int(run[key])) for runs in depths.values() for run in runs})) for key in ("programs", "more")]
        counts = counts if backend != "flowjax" else ["not counted"] * 2
        name = {"default": "flowkit.compile", "flowjax": "flowjax, jit"}.get(backend, f"flowkit.compile(backend={backend!r})")
        repeats = min(len(runs) for runs in depths.values())
        lines.append(f"| {recipe} | {name} | {' | '.join([*cells, ratio, *counts])} | {repeats} |")
        print(lines[-1], flush=True)
    return lines


def warm_table(options: argparse.Namespace) -> list[str]:
    """Medians of eager and compiled calls, by turns in this process."""
    import torch

    import flowkit as fk

    torch.set_num_threads(options.threads)
    lines = ["| flow | run by | call | eager (ms) | compiled (ms) | eager / compiled |", "|---|---|---|---|---|---|"]
    for recipe, backend in (run.split(":") for run in options.runs):
        torch._dynamo.reset()
        flow, x = made(recipe, options.depths[0], options.device)
        fast = fk.compile(flow, backend=None if backend == "default" else backend)
        eager, compiled = torch_calls(flow, recipe, x), torch_calls(fast, recipe, x)
        for name in eager:
            for call in (eager[name], compiled[name]) * 3:
                call()
            rounds = [(seconds(eager[name]), seconds(compiled[name])) for _ in range(options.rounds)]
            times = [1e3 * statistics.median(column) for column in zip(*rounds, strict=True)]
            ratio = statistics.median(a / b for a, b in rounds)
            lines.append(f"| {recipe} | {backend} | {name} | {times[0]:.2f} | {times[1]:.2f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", nargs="+", type=int, default=[8, 64])
    usual = ["neural_spline_flow:default", "sos_flow:default"]
    parser.add_argument("--runs", nargs="+", default=usual, help="recipe:backend; default: what flowkit.compile chooses by itself, else as torch names it")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for the cold runs: no further repeat is begun that would end later")
    parser.add_argument("--repeats", type=int, default=3, help="at most")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-flowjax", dest="flowjax", action="store_false")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        sys.stdout.write(json.dumps(cold(options.job)) + "\n")
        return
    options.flowjax = options.flowjax and importlib.util.find_spec("flowjax") is not None
    flow, x = made(options.runs[0].split(":")[0], 1, options.device)
    flow.log_prob(x)  # builds flowkit's own kernels where they are not yet
    packages = ("torch", "flowjax", "jax") if options.flowjax else ("torch",)
    about = (
        f"\nD={FEATURES}, conditioners {HIDDEN[0]}x{HIDDEN[1]}, {BINS} bins, {ROWS} rows, float32, {options.device}, {options.threads} threads. `default` is "
        "what `flowkit.compile(flow)` chooses by itself: on a CPU, maps of more than 24 operations. Fresh processes with empty caches by "
        f"turns, medians of as many runs as fit in {options.budget:g} s; imports that the first compilation makes are counted, those of torch, jax and the "
        "libraries are not." + ("" if options.flowjax else " flowjax did not run.") + "\n\n"
    )
    tables = ["\n".join(cold_table(options)), "\n".join(warm_table(options))]
    write("compile_time.md", heading("Time to compile, and what it brings", packages) + about + "\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
