"""Draws from autoregressive neural spline flows: ours against nflows and zuko. Writes benchmarks/results/autoregressive_sampling.md.

Run: python benchmarks/autoregressive_sampling.py [--features 16 64] [--rounds 5 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _report import heading, write
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import flowkit as fk
from flowkit.bijectors import Autoregressive, Chain
from flowkit.univariates import RationalQuadraticSpline

LAYERS, HIDDEN, BINS, BOUND, DRAWS = 8, (128, 128), 8, 5.0, 1024
PEERS = ("nflows", "zuko")


@dataclass
class Contestant:
    """How one library draws, and its map both ways."""

    model: nn.Module
    sample: Callable[[], Tensor]
    generate: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    implementation: str = ""

    def timed(self) -> float:
        """Seconds of one call of ``sample``."""
        with torch.no_grad(), chosen(self.implementation):
            start = time.perf_counter()
            self.sample()
            return time.perf_counter() - start

    def round_trip(self, z: Tensor) -> float:
        """Largest error of z -> x -> z."""
        with torch.no_grad(), chosen(self.implementation):
            return float((self.encode(self.generate(z)) - z).abs().max())


def chosen(implementation: str) -> Any:
    """The implementation of every op; by default what the library takes by itself."""
    return fk.kernels.use(implementation) if implementation else contextlib.nullcontext()


class Called(nn.Module):
    """A net that can only be called: what a conditioner looks like to a map that knows nothing of its insides."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x, context)  # type: ignore[no-any-return]


def perturbed(model: nn.Module) -> nn.Module:
    """Parameters away from where training starts, where some maps are the identity."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def ours(features: int, implementation: str = "", whole_passes: bool = False) -> Contestant:
    orders = [tuple(range(features)[:: (-1) ** number]) for number in range(LAYERS)]
    torch.manual_seed(0)
    layers = [Autoregressive(features, RationalQuadraticSpline(BINS, BOUND), HIDDEN, order=order) for order in orders]
    flow = fk.Flow(fk.distributions.StandardNormal(features), ~Chain(layers))
    perturbed(flow)
    if whole_passes:
        for layer in layers:
            assert layer.net is not None
            layer.net = Called(layer.net)
    return Contestant(flow, lambda: flow.sample((DRAWS,)), flow.to_data, flow.to_latent, implementation)


def nflows_flow(features: int) -> Contestant:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import CompositeTransform, MaskedPiecewiseRationalQuadraticAutoregressiveTransform, ReversePermutation

    steps: list[nn.Module] = []
    for _ in range(LAYERS):
        steps.append(ReversePermutation(features))
        steps.append(
            MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                features, HIDDEN[0], num_blocks=1, use_residual_blocks=False, num_bins=BINS, tails="linear", tail_bound=BOUND
            )
        )
    flow = Flow(CompositeTransform(steps), StandardNormal([features]))
    perturbed(flow)
    return Contestant(flow, lambda: flow.sample(DRAWS), lambda z: flow._transform.inverse(z)[0], lambda x: flow._transform(x)[0])


def zuko_flow(features: int) -> Contestant:
    import zuko

    flow = zuko.flows.NSF(features, transforms=LAYERS, hidden_features=HIDDEN, bins=BINS)
    perturbed(flow)
    return Contestant(flow, lambda: flow().sample((DRAWS,)), lambda z: flow().transform.inv(z), lambda x: flow().transform(x))


def contestants(features: int) -> dict[str, Contestant]:
    return {
        "flowkit": ours(features),
        "flowkit, spline in plain torch": ours(features, "reference"),
        "flowkit, a whole pass for each coordinate": ours(features, whole_passes=True),
        "nflows": nflows_flow(features),
        "zuko": zuko_flow(features),
    }


def raced(who: dict[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Seconds by round, the contestants by turns; quick ones give the median of five calls."""
    times: dict[str, list[float]] = {name: [] for name in who}
    for number in range(rounds + 1):
        for name, each in who.items():
            first = each.timed()
            seconds = statistics.median([first, *(each.timed() for _ in range(4))]) if first < 0.5 else first
            if number:  # the first round warms up
                times[name].append(seconds)
    return times


def cost(flow: Any, features: int) -> tuple[float, float, float]:
    """Of a density pass: seconds of ``sample`` and of ``sample_and_log_prob``, and multiplications of an inverse, over its own."""
    x = torch.randn(DRAWS, features)
    calls: list[Callable[[], Any]] = [lambda: flow.log_prob(x), lambda: flow.sample((DRAWS,)), lambda: flow.sample_and_log_prob((DRAWS,))]
    ratios, flops = [], []
    with torch.no_grad():
        for _ in range(15):
            seconds = []
            for call in calls:
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            ratios.append((seconds[1] / seconds[0], seconds[2] / seconds[0]))
        for call in (lambda: flow.to_data(x), lambda: flow.to_latent(x)):
            with FlopCounterMode(display=False) as counter:
                call()
            flops.append(counter.get_total_flops())
    sample, together = (statistics.median(column) for column in zip(*ratios, strict=True))
    return sample, together, flops[0] / flops[1]


def table(features: int, rounds: int) -> str:
    who = contestants(features)
    times = raced(who, rounds)
    z = torch.randn(256, features, generator=torch.Generator().manual_seed(1)).clamp(-4, 4)
    # by round, so that what else the machine does falls on both
    best = [min(times[peer][number] for peer in PEERS) for number in range(rounds)]
    lines = [
        f"## D = {features}\n",
        "| | parameters | `sample`, median (ms) | spread (ms) | faster than the best peer | float32 round trip, max error |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in who.items():
        seconds = times[name]
        ratio = statistics.median(peer / own for peer, own in zip(best, seconds, strict=True))
        size = sum(parameter.numel() for parameter in each.model.parameters())
        lines.append(
            f"| {name} | {size:,} | {1e3 * statistics.median(seconds):.1f} | {1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f} "
            f"| {ratio:.1f} | {each.round_trip(z):.1e} |"
        )
    sample, together, flops = cost(who["flowkit"].model, features)
    lines.append(
        f"\nAgainst one density pass of the same flow, `sample` takes {sample:.1f} and `sample_and_log_prob` {together:.1f} times as long "
        f"(medians of ratios); the inverse multiplies {flops:.2f} times as much.\n"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rounds", nargs="+", type=int, default=[5, 3])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = (
        f"\nAutoregressive neural spline flows: {LAYERS} layers, hidden {'x'.join(map(str, HIDDEN))}, {BINS} bins, {DRAWS} draws, float32, "
        f"{options.threads} thread(s), one process, by turns. Parameters perturbed by N(0, 0.05^2). 'faster' is the median over rounds of the faster peer's "
        "time over this one's.\n\n"
    )
    tables = [table(features, rounds) for features, rounds in zip(options.features, options.rounds, strict=True)]
    write("autoregressive_sampling.md", heading("Sampling autoregressive flows", ("torch", *PEERS)) + about + "\n".join(tables))


if __name__ == "__main__":
    main()
