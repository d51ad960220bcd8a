"""O-5: class-conditional flow matching of MNIST on a CPU: bits per dimension by Hutchinson's estimate and exactly, and a grid under guidance.

``flowkit fit configs/mnist_flow_matching.yaml`` trains; this script trains too unless it is given the run's folder. Needs MNIST (FLOWKIT_DATA).
The exact divergence takes 784 products with the Jacobian a step, so both densities of the same pictures use few fixed steps: the estimate must
be unbiased for the same discrete map whatever the step; what the step itself costs is told apart, by halving it under the same probes.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from _report import RESULTS, heading, write
from torch import Tensor

from flowkit.data import Split
from flowkit.evaluation import bits_per_dim
from flowkit.experiment.config import read_config
from flowkit.experiment.pieces import make_pieces
from flowkit.experiment.record import read_json, read_run
from flowkit.plots import image_grid
from flowkit.training import fit

CONFIG = Path(__file__).parents[1] / "configs" / "mnist_flow_matching.yaml"
DIMS, LEVELS = 784, 256
COARSE = {"solver": "midpoint", "rtol": 1e-3, "atol": 1e-3}
SCALES = (1.0, 3.0)


def trained(folder: str | None, steps: int | None) -> tuple[Any, Split, dict[str, Any]]:
    """The flow, the test rows, and what training took."""
    changes = [] if steps is None else [("training.max_steps", str(steps))]
    if folder is not None:
        pieces = make_pieces(read_config(Path(folder) / "config.yaml"))
        metrics, rows = read_json(Path(folder) / "metrics.json") or {}, Path(folder) / "metrics.csv"
        if "steps" not in metrics:
            with rows.open(newline="") as file:
                last = list(csv.DictReader(file))[-1]
            metrics = {"steps": int(float(last["step"])), "seconds": float(last["seconds"])}
        return read_run(folder).flow, pieces.rows("test"), metrics
    config = read_config(CONFIG, changes)
    pieces = make_pieces(config)
    train, validation = pieces.rows("train"), pieces.rows("validation")
    began = time.process_time()
    result = fit(pieces.flow, tuple(train), pieces.objective, validation=tuple(validation), seed=config.seed, **config.training)
    return pieces.flow, pieces.rows("test"), {"steps": result.steps, "seconds": result.seconds, "cpu_seconds": time.process_time() - began}


def bits(flow: Any, x: Tensor, labels: Tensor, *, seed: int, size: int = 50) -> Tensor:
    """Bits per dimension of each picture, (N,), float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        parts = [flow.log_prob(x[i : i + size], labels[i : i + size], generator=generator) for i in range(0, len(x), size)]
    return bits_per_dim(torch.cat(parts).double(), DIMS, LEVELS)


def mean_error(values: Tensor) -> tuple[float, float]:
    """A mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def unbiased(flow: Any, rows: Split, count: int, steps: int, calls: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The same pictures exactly, and by Hutchinson's estimate with fresh probes in each call."""
    x, labels = rows.x[:count], rows.context[:count]  # type: ignore[index]
    began = time.process_time()
    exact = bits(flow.with_solver(**COARSE, steps=steps, divergence="exact"), x, labels, seed=0, size=4)
    exact_seconds, began = time.process_time() - began, time.process_time()
    estimated = torch.stack([bits(flow.with_solver(**COARSE, steps=steps, divergence="hutchinson"), x, labels, seed=1 + i) for i in range(calls)])
    seconds = time.process_time() - began
    errors = estimated.std(0) / math.sqrt(calls)
    gaps = (estimated.mean(0) - exact) / errors
    whole, whole_error = float((estimated.mean(0) - exact).mean()), float(errors.square().sum().sqrt()) / count
    worst = float(gaps.abs().max())
    lines = [f"| {i} | {int(labels[i])} | {exact[i]:.4f} | {estimated[:, i].mean():.4f} ± {errors[i]:.4f} | {gaps[i]:+.2f} |" for i in range(count)]
    facts = [
        ("pictures, midpoint steps, probes each", f"{count}, {steps}, {calls}"),
        ("exact bits/dim, mean over them", f"{exact.mean():.4f}"),
        ("Hutchinson minus exact, mean over them", f"{whole:+.4f} ± {whole_error:.4f} ({whole / whole_error:+.2f} standard errors)"),
        ("largest distance of one picture", f"{worst:.2f} standard errors (Student's t with {calls - 1} degrees of freedom)"),
        ("one probe's standard deviation, of a picture", f"{estimated.std(0).mean():.4f} bits/dim"),
        ("CPU seconds, exact and Hutchinson", f"{exact_seconds:.0f}, {seconds:.0f}"),
    ]
    return lines, facts


def held_out(flow: Any, rows: Split, count: int, steps: int) -> list[tuple[str, str]]:
    """Bits per dimension of test pictures by one probe each, and what the solver leaves, on a part of them."""
    x, labels = rows.x[:count], rows.context[:count]  # type: ignore[index]
    part = min(64, count)
    began = time.process_time()
    values = bits(flow.with_solver(**COARSE, steps=steps, divergence="hutchinson"), x, labels, seed=100)
    seconds = time.process_time() - began
    mean, error = mean_error(values)

    def same(more: int) -> Tensor:
        return bits(flow.with_solver(**COARSE, steps=more, divergence="hutchinson"), x[:part], labels[:part], seed=200, size=part)

    once, twice = same(steps), same(2 * steps)
    nothing = bits(flow.with_solver(**COARSE, steps=steps, divergence="hutchinson"), x[:part], torch.full_like(labels[:part], -1), seed=200, size=part)
    told, told_error = mean_error(once - nothing)
    shift, shift_error = mean_error(twice - once)
    return [
        ("test pictures, midpoint steps, probes each", f"{len(x):,}, {steps}, 1"),
        ("bits/dim of the label's flow", f"{mean:.4f} ± {error:.4f}"),
        (f"twice the steps minus these, same probes, {part} pictures", f"{shift:+.4f} ± {shift_error:.4f}"),
        (f"with the label minus without, same probes, {part} pictures", f"{told:+.4f} ± {told_error:.4f}"),
        ("CPU seconds", f"{seconds:.0f}"),
    ]


def grid(flow: Any, path: Path, real: Tensor) -> list[tuple[str, str]]:
    """Eight pictures of each digit at each guidance scale, from the same noise; a row a digit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(9.0, 5.9), layout="constrained")
    FigureCanvasAgg(made)
    labels, facts = torch.arange(10).repeat_interleave(8), []
    for axis, scale in zip(made.subplots(1, len(SCALES), squeeze=False)[0], SCALES, strict=True):
        guided = flow.guided(scale).with_solver(solver="midpoint", steps=12)
        began = time.process_time()
        with torch.no_grad():
            x = guided.to_data(flow.base.sample((80,), generator=torch.Generator().manual_seed(7)), labels)
        spent = time.process_time() - began
        facts.append((f"guidance {scale:g}: CPU seconds for 80 pictures, mean pixel (test set {real.mean():.3f})", f"{spent:.0f}, {x.mean():.3f}"))
        picture = image_grid(x, columns=8, rows=10).axes[0].images[0].get_array()
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(f"guidance {scale:g}", fontsize=10)
        axis.set_axis_off()
    path.parent.mkdir(exist_ok=True)
    made.savefig(path, dpi=130, metadata={"Software": None})
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a finished run of the config; without it the script trains")
    parser.add_argument("--steps", type=int, help="training steps, in place of the config's")
    parser.add_argument("--pictures", type=int, default=1000, help="test pictures for bits/dim by one probe each")
    parser.add_argument("--density-steps", type=int, default=16, help="midpoint steps there")
    parser.add_argument("--exact", type=int, default=16, help="pictures whose density is also exact")
    parser.add_argument("--exact-steps", type=int, default=4, help="midpoint steps there")
    parser.add_argument("--probes", type=int, default=50, help="calls with fresh probes there")
    parser.add_argument("--name", default="image_flow_matching", help="of the files in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    flow, rows, took = trained(options.run, options.steps)
    flow.eval()
    shown = grid(flow, RESULTS / f"{options.name}.png", rows.x)
    whole = held_out(flow, rows, options.pictures, options.density_steps)
    lines, agreement = unbiased(flow, rows, options.exact, options.exact_steps, options.probes)
    cpu = f"{took['cpu_seconds']:.0f} CPU seconds, " if "cpu_seconds" in took else ""
    settings = read_config(CONFIG).training
    text = heading("Image flow matching on MNIST (O-5)") + f"\nThreads: {torch.get_num_threads()}.\n\n{__doc__.split(chr(10), 1)[1].strip()}\n\n"
    text += "Pixels are k + u, u uniform, divided by 256, then mapped by the logit and standardised: bits/dim count dequantisation and every scale.\n\n"
    text += "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in [
        ("weights", f"{sum(p.numel() for p in flow.parameters()):,}"),
        ("training", f"{took['steps']:,} steps of {settings['batch_size']}, {cpu}{took['seconds']:.0f} seconds by the clock"),
        *whole, *shown,
    ])  # fmt: skip
    text += "\n## The estimate against the exact divergence\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in agreement)
    text += "\n| picture | digit | exact | Hutchinson | distance / s.e. |\n|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    text += f"\n![samples, a row a digit]({options.name}.png)\n"
    write(f"{options.name}.md", text)


if __name__ == "__main__":
    main()
