"""Flow matching between two-dimensional laws beside torchcfm's, in the same run (continuous-C.8, C.10.4): quality, cost of a step, cost of pairing.

Both libraries train the same MLP (3 x 64, SELU, of x and t) on the same batches with Adam, 2e-3 falling as a cosine, batch 256, sigma 0.1, and take
turns every 100 steps. The clock runs while a library makes its loss, differentiates and steps: flowkit with fused Adam, as ``fit`` does, torchcfm with
``torch.optim.Adam`` as in its examples. Drawing the data is not counted. Trained fields of both are sampled and judged by the same code.

W2 is between 2,000 samples and 2,000 fresh data, by exact assignment; NPE = |int E|v|^2 dt - W2(source, target)^2| / W2(source, target)^2 along RK4
trajectories of 50 steps; the floor is W2 between two draws of the data.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _report import heading, write
from torch import Tensor, nn

from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.flows import ContinuousFlow
from flowkit.objectives import FlowMatching
from flowkit.objectives._pairings import closest

HIDDEN, BATCH, LR, POINTS, TURN = (64, 64, 64), 256, 2e-3, 2000, 100
SIGMA, BRIDGE = 0.1, 0.5
Law = Callable[[int, torch.Generator], Tensor]


def normal(n: int, generator: torch.Generator) -> Tensor:
    """Standard normal points (n, 2)."""
    return torch.randn(n, 2, generator=generator)


def eight_gaussians(n: int, generator: torch.Generator) -> Tensor:
    """Eight normals of standard deviation 0.562 on a circle of radius 5."""
    angle = torch.randint(0, 8, (n,), generator=generator) * (math.pi / 4)
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.562 * normal(n, generator)


def moons(n: int, generator: torch.Generator) -> Tensor:
    """Two interleaved half circles with noise 0.2, then 3 x - 1."""
    angle, upper = math.pi * torch.rand(n, generator=generator), torch.arange(n) % 2 == 0  # as many of each, as torchcfm has them
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return 3 * (torch.stack([x, y], 1) + 0.2 * normal(n, generator)) - 1


class Task(NamedTuple):
    """From a law to another."""

    source: Law
    target: Law


TASKS = {
    "8g->moons": Task(eight_gaussians, moons),
    "moons->8g": Task(moons, eight_gaussians),
    "N->8g": Task(normal, eight_gaussians),
    "N->moons": Task(normal, moons),
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "I-CFM": {"sigma": SIGMA},
    "OT-CFM": {"pairing": "ot", "sigma": SIGMA},
    "VP-trig": {"path": "trig", "sigma": SIGMA},
    "SB-CFM": {"pairing": "ot", "path": "bridge", "sigma": BRIDGE},
}
MATCHERS = {
    "I-CFM": "ConditionalFlowMatcher",
    "OT-CFM": "ExactOptimalTransportConditionalFlowMatcher",
    "VP-trig": "VariancePreservingConditionalFlowMatcher",
    "SB-CFM": "SchrodingerBridgeConditionalFlowMatcher",
}


class Ours:
    """flowkit: the objective on a continuous flow."""

    def __init__(self, task: Task, method: str, steps: int) -> None:
        self.flow = ContinuousFlow(2, hidden=HIDDEN, activation="selu", standardize=False)
        self.objective = FlowMatching(**OBJECTIVES[method])
        self.optimizer = torch.optim.Adam(self.flow.parameters(), LR, fused=True)
        self.own_source = task.source is not normal

    def step(self, x0: Tensor, x1: Tensor) -> None:
        """One step; where the source is normal the objective draws it itself."""
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.loss(self.flow, Batch(x1, extra={"source": x0} if self.own_source else {})).value.backward()
        self.optimizer.step()


class Theirs:
    """torchcfm: the loop of its examples."""

    def __init__(self, task: Task, method: str, steps: int) -> None:
        import torchcfm
        from torchcfm.models.models import MLP

        self.net: nn.Module = MLP(dim=2, time_varying=True, w=HIDDEN[0])
        self.matcher = getattr(torchcfm, MATCHERS[method])(sigma=BRIDGE if method == "SB-CFM" else SIGMA)
        self.optimizer = torch.optim.Adam(self.net.parameters(), LR)
        self.own_source = task.source is not normal
        self.flow = ContinuousFlow(field=_Field(self.net), standardize=False)

    def step(self, x0: Tensor, x1: Tensor) -> None:
        """One step."""
        self.optimizer.zero_grad()
        x0 = x0 if self.own_source else torch.randn_like(x1)
        t, xt, ut = self.matcher.sample_location_and_conditional_flow(x0, x1)
        vt = self.net(torch.cat([xt, t[:, None]], dim=-1))
        torch.mean((vt - ut) ** 2).backward()
        self.optimizer.step()


class _Field(VectorField):
    """A net of (x, t) as a field, so that both libraries' nets are judged by the same solver."""

    event_shape = (2,)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return self.net(torch.cat([x, t.expand(len(x)).unsqueeze(1)], 1))  # type: ignore[no-any-return]


LIBRARIES: dict[str, Any] = {"flowkit": Ours, "torchcfm": Theirs}


class Quality(NamedTuple):
    """How good a trained field is."""

    w2_euler5: float
    w2_rk4: float
    npe: float


class Outcome(NamedTuple):
    """A trained field judged, and the CPU milliseconds of a step: the median over turns."""

    quality: Quality
    step_ms: float


def compare(task_name: str, method: str, *, steps: int, seed: int, libraries: tuple[str, ...] = ("flowkit", "torchcfm")) -> dict[str, Outcome]:
    """Train the libraries in turns and judge them on the same points."""
    task = TASKS[task_name]
    made, clocks = {}, {library: list[float]() for library in libraries}
    for library in libraries:
        torch.manual_seed(seed)
        made[library] = LIBRARIES[library](task, method, steps)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, steps, TURN):
        turn = [(task.source(BATCH, generator), task.target(BATCH, generator)) for _ in range(min(TURN, steps - start))]
        order = libraries if start // TURN % 2 == 0 else libraries[::-1]
        for library in order:
            clocks[library].append(_turn(made[library], turn, start, steps))
    judged = torch.Generator().manual_seed(1000 + seed)
    points = task.source(POINTS, judged), task.target(POINTS, judged)
    return {library: Outcome(judge(made[library].flow, *points), statistics.median(clocks[library])) for library in libraries}


def _turn(trainer: Any, batches: list[tuple[Tensor, Tensor]], start: int, steps: int) -> float:
    """Train on the batches; CPU milliseconds of a step."""
    begun = time.process_time()
    for k, (x0, x1) in enumerate(batches):
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.5 * LR * (1 + math.cos(math.pi * (start + k) / steps))
        trainer.step(x0, x1)
    return 1e3 * (time.process_time() - begun) / len(batches)


@torch.no_grad()
def judge(flow: ContinuousFlow, source: Tensor, target: Tensor) -> Quality:
    """W2 by 5 Euler and 50 RK4 steps, and NPE."""
    few, many = (flow.with_solver(solver=solver, steps=steps) for solver, steps in (("euler", 5), ("rk4", 1)))
    times = torch.linspace(0, 1, 51)
    places = many.path(source, times)
    energy = torch.stack([flow.field.velocity(t, x).square().sum(1).mean() for t, x in zip(times, places, strict=True)])
    shortest = w2(source, target) ** 2
    length = float(torch.trapezoid(energy, times))
    return Quality(w2(few.to_data(source), target), w2(places[-1], target), abs(length - shortest) / shortest)


def w2(x: Tensor, y: Tensor) -> float:
    """Wasserstein distance of order 2 between as many points, exact."""
    return float((x[closest(x, y)].double() - y.double()).square().sum(1).mean().sqrt())


def floor(task_name: str, seed: int) -> float:
    """W2 between two draws of the data, a mean of four: how many points fall to each part varies."""
    generator, target = torch.Generator().manual_seed(2000 + seed), TASKS[task_name].target
    return statistics.mean(w2(target(POINTS, generator), target(POINTS, generator)) for _ in range(4))


def pairing_times(sizes: tuple[int, ...], repeats: int) -> list[tuple[int, float, float]]:
    """CPU milliseconds of the optimal pairing of normal points with 8 gaussians, by turns: batch size, flowkit, torchcfm; medians."""
    from torchcfm.optimal_transport import OTPlanSampler

    generator, sampler, rows = torch.Generator().manual_seed(0), OTPlanSampler("exact"), []
    for size in sizes:
        clocks: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            x0, x1 = normal(size, generator), eight_gaussians(size, generator)
            for clock, call in zip(clocks, (lambda x0=x0, x1=x1: x0[closest(x0, x1)], lambda x0=x0, x1=x1: sampler.sample_plan(x0, x1)), strict=True):
                begun = time.process_time()
                call()
                clock.append(1e3 * (time.process_time() - begun))
        rows.append((size, *(statistics.median(clock) for clock in clocks)))
    return rows


def table(results: dict[str, dict[str, list[dict[str, Outcome]]]], floors: dict[str, list[float]]) -> str:
    """Means over seeds."""
    lines = ["", "W2 with 5 Euler steps / with RK4-50, NPE; mean over seeds (spread of RK4's W2). Step: CPU ms, torchcfm's over flowkit's in brackets.", ""]
    lines += ["| task | method | floor | flowkit | torchcfm | step flowkit | step torchcfm |", "|---|---|---|---|---|---|---|"]
    for task, methods in results.items():
        for method, seeds in methods.items():
            cells = {library: _cell([outcome[library].quality for outcome in seeds]) for library in LIBRARIES}
            ours, theirs = (statistics.mean(outcome[library].step_ms for outcome in seeds) for library in LIBRARIES)
            steps = f"{ours:.2f} | {theirs:.2f} ({theirs / ours:.2f}x)"
            lines.append(f"| {task} | {method} | {statistics.mean(floors[task]):.3f} | {cells['flowkit']} | {cells['torchcfm']} | {steps} |")
    return "\n".join(lines) + "\n"


def _cell(found: list[Quality]) -> str:
    euler, rk4, npe = (statistics.mean(values) for values in zip(*found, strict=True))
    spread = statistics.stdev(quality.w2_rk4 for quality in found) if len(found) > 1 else 0.0
    return f"{euler:.3f} / {rk4:.3f} (± {spread:.3f}), {npe:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50, help="pairings timed for each batch size")
    parser.add_argument("--name", default="flow_matching_2d")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    floors = {task: [floor(task, seed) for seed in range(options.seeds)] for task in options.tasks}
    results: dict[str, dict[str, list[dict[str, Outcome]]]] = {task: {method: [] for method in options.methods} for task in options.tasks}
    for seed in range(options.seeds):
        for task in options.tasks:
            for method in options.methods:
                outcome = compare(task, method, steps=options.steps, seed=seed)
                results[task][method].append(outcome)
                print(f"seed {seed} {task} {method}: " + "; ".join(f"{k} {v.quality} {v.step_ms:.2f} ms" for k, v in outcome.items()), flush=True)
    text = heading("Flow matching in the plane beside torchcfm", ("torch", "torchcfm", "pot", "scipy")) + table(results, floors)
    text += "\nOptimal pairing of a batch, normal points with 8 gaussians, CPU ms (median):\n\n| batch | flowkit | torchcfm | ratio |\n|---|---|---|---|\n"
    for size, ours, theirs in pairing_times((64, 128, 256, 512), options.repeats):
        text += f"| {size} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f}x |\n"
    write(f"{options.name}.json", json.dumps({"results": results, "floors": floors}, indent=1) + "\n")
    print(text, write(f"{options.name}.md", text))


if __name__ == "__main__":
    main()
