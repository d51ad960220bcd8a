"""Neural spline flows on UCI tables beside zuko's and nflows' (spine-F7): same conditioners, budget, data and loop.

All three are coupling flows with an MLP of the same widths and activation (SiLU) per layer and 8 bins on [-5, 5], trained by ``flowkit.fit`` with the same
optimiser, schedule, batches and early choice of weights by validation. Needs FLOWKIT_DATA or a network.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch
from _report import heading, write
from torch import Tensor, nn

import flowkit as fk
from flowkit.data import UCI

SETS = ("power-plant", "kin8nm", "concrete", "wine-quality-red")
LIBRARIES = ("flowkit", "zuko", "nflows")


class Zuko(nn.Module):
    """zuko's NSF with two passes per layer, which makes every layer a coupling."""

    def __init__(self, features: int, layers: int, hidden: tuple[int, ...], bins: int) -> None:
        super().__init__()
        import zuko

        self.flow = zuko.flows.NSF(features, transforms=layers, bins=bins, hidden_features=hidden, passes=2, activation=nn.SiLU)

    def log_prob(self, x: Tensor, context: object = None, *, generator: object = None) -> Tensor:
        return self.flow().log_prob(x)


class Nflows(nn.Module):
    """nflows' rational-quadratic coupling with LU linear layers between, as in the paper, and alternating masks."""

    def __init__(self, features: int, layers: int, hidden: tuple[int, ...], bins: int) -> None:
        super().__init__()
        from nflows.distributions.normal import StandardNormal
        from nflows.flows import Flow
        from nflows.transforms import CompositeTransform, LULinear, PiecewiseRationalQuadraticCouplingTransform

        def net(inputs: int, outputs: int) -> nn.Module:
            return fk.nets.MLP(inputs, outputs, hidden, activation="silu")

        steps: list[nn.Module] = []
        for i in range(layers):
            mask = torch.tensor([1.0 if (j + i) % 2 == 1 else -1.0 for j in range(features)])
            coupling = PiecewiseRationalQuadraticCouplingTransform(mask, net, num_bins=bins, tails="linear", tail_bound=5.0)
            steps += [LULinear(features, identity_init=True), coupling]
        self.flow = Flow(CompositeTransform(steps), StandardNormal([features]))

    def log_prob(self, x: Tensor, context: object = None, *, generator: object = None) -> Tensor:
        return self.flow.log_prob(x)


def build(library: str, features: int, layers: int, hidden: tuple[int, ...], bins: int) -> nn.Module:
    """The flow of one library."""
    if library == "flowkit":
        return fk.flows.NeuralSplineFlow(features, layers=layers, hidden=hidden, bins=bins)
    return (Zuko if library == "zuko" else Nflows)(features, layers, hidden, bins)


def test_nll(library: str, data: UCI, options: argparse.Namespace, split: int) -> tuple[float, float]:
    """Mean test NLL in nats and the training time in seconds."""
    torch.manual_seed(split)
    model = build(library, data.features, options.layers, tuple(options.hidden), options.bins)
    start = time.monotonic()
    fk.fit(
        model, data.train.x, validation=data.validation.x, max_steps=options.steps, batch_size=options.batch_size, lr=options.lr,
        seed=split, progress=False, device="cpu",
    )  # fmt: skip
    seconds = time.monotonic() - start
    with torch.no_grad():
        return -model.log_prob(data.test.x).mean().item(), seconds


def paired(differences: list[float]) -> tuple[float, float]:
    """Mean and standard error."""
    values = torch.tensor(differences, dtype=torch.float64)
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="uci_nsf")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.sets:
        results[name] = {library: [] for library in LIBRARIES}
        for split in range(options.splits):
            data = UCI(name, seed=split)
            for library in LIBRARIES:
                nll, seconds = test_nll(library, data, options, split)
                results[name][library].append(nll)
                print(f"{name} split {split} {library}: {nll:.4f} ({seconds:.0f} s)", flush=True)
    text = heading("Neural spline flows on UCI tables: test NLL (nats, standardised columns)", ("torch", "zuko", "nflows")) + table(results)
    write(f"{options.name}.json", json.dumps(results, indent=1) + "\n")
    print(text, write(f"{options.name}.md", text))


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Means, and paired differences flowkit minus peer (negative: flowkit is better)."""
    lines = ["", "| set | flowkit | zuko | nflows | minus zuko | minus nflows |", "|---|---|---|---|---|---|"]
    overall: dict[str, list[tuple[float, float]]] = {"zuko": [], "nflows": []}
    for name, by_library in results.items():
        cells = [f"{paired(by_library[library])[0]:.3f} ± {paired(by_library[library])[1]:.3f}" for library in LIBRARIES]
        for peer in overall:
            mean, error = paired([a - b for a, b in zip(by_library["flowkit"], by_library[peer], strict=True)])
            overall[peer].append((mean, error))
            cells.append(f"{mean:+.4f} ± {error:.4f} ({mean / error:+.1f} s.e.)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for peer, pairs in overall.items():
        mean = sum(m for m, _ in pairs) / len(pairs)
        error = math.sqrt(sum(e * e for _, e in pairs)) / len(pairs)
        lines.append(f"\nMean difference to {peer} over the sets: {mean:+.4f} ± {error:.4f} ({mean / error:+.1f} s.e.).")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
