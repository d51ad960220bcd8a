"""The flows that are compared: coupling and autoregressive, of splines or affine maps, with equal networks everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.bijectors import Autoregressive, Chain, Coupling
from flowkit.core.flow import Flow
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.distributions import StandardNormal
from flowkit.univariates import Affine, RationalQuadraticSpline

NOISE = 0.05  # added to the starting parameters, with which some maps are the identity
FLOOR = 1e-3  # smallest share of a bin and smallest slope, in every library


@dataclass(frozen=True)
class FlowSpec:
    """Sizes of a flow.

    Args:
        kind: coupling layers, which map one half and then the other; or autoregressive ones, in order and in reverse by turns.
        univariate: the scalar map.
        features, layers, hidden, bins, bound: D, their number, widths of the networks, and of the splines.
    """

    kind: Literal["coupling", "autoregressive"] = "coupling"
    univariate: Literal["spline", "affine"] = "spline"
    features: int = 16
    layers: int = 8
    hidden: tuple[int, ...] = (128, 128)
    bins: int = 8
    bound: float = 5.0

    def mask(self, layer: int, high_first: bool = True) -> list[bool]:
        """What a coupling layer maps; the last half first by default."""
        high = (layer % 2 == 0) == high_first
        return [(i >= self.features // 2) == high for i in range(self.features)]

    def describe(self) -> str:
        """In a few words."""
        what = "neural spline flow" if self.univariate == "spline" else "real NVP" if self.kind == "coupling" else "affine flow"
        bins = f", {self.bins} bins" if self.univariate == "spline" else ""
        return f"{self.kind} {what}, D = {self.features}, {self.layers} layers, MLP {'x'.join(map(str, self.hidden))}{bins}"


def make_flow(spec: FlowSpec, univariate: Univariate | None = None, *, high_first: bool = True, generative: bool = False, noise: float = NOISE) -> Flow:
    """Our flow with weights of a fixed seed; the same weights for any scalar map of as many parameters.

    Args:
        spec: sizes.
        univariate: default the spec's own.
        high_first: whether the first coupling layer maps the last half.
        generative: whether the layers' own direction makes data, which costs the other direction more where they are autoregressive.
        noise: standard deviation of what is added to the starting parameters.
    """
    scalar = univariate or (RationalQuadraticSpline(spec.bins, spec.bound) if spec.univariate == "spline" else Affine())
    layers: list[Bijector] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number in range(spec.layers):
            if spec.kind == "coupling":
                layers.append(Coupling(spec.features, scalar, spec.hidden, spec.mask(number, high_first)))
            else:
                layers.append(Autoregressive(spec.features, scalar, spec.hidden, order=range(spec.features)[:: (-1) ** number]))
    flow = Flow(StandardNormal((spec.features,)), Chain(layers) if generative else ~Chain(layers))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    return flow.eval()


def layers_of(flow: Flow) -> list[Any]:
    """The coupling or autoregressive layers: those next to the data first, or next to the base where the flow is generative."""
    return [module for module in flow.modules() if isinstance(module, Coupling | Autoregressive)]


def linears_of(module: nn.Module) -> list[Any]:
    """The linear maps of a network, in order, of whatever class a library has for them."""
    return [part for part in module.modules() if getattr(getattr(part, "weight", None), "ndim", 0) == 2]


class PlainNet(nn.Module):
    """A perceptron as nflows and normflows call it; with ``hidden_features`` 1 they do not scale its outputs down.

    Args:
        hidden: widths of the hidden layers.
        inputs, outputs: sizes of both ends.
    """

    hidden_features = 1

    def __init__(self, hidden: tuple[int, ...], inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = perceptron([inputs, *hidden, outputs])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear maps with ReLU between them."""
    parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def put(target: nn.Module, source: nn.Module, rows: Tensor | None = None) -> None:
    """Copy a network's weights into another of the same sizes, the last layer's rows taken in another order."""
    pairs = list(zip(linears_of(target), linears_of(source), strict=True))
    with torch.no_grad():
        for number, (mine, theirs) in enumerate(pairs):
            index = rows if rows is not None and number == len(pairs) - 1 else slice(None)
            mine.weight.copy_(theirs.weight[index])
            mine.bias.copy_(theirs.bias[index])


def flowjax_weights(flow: Flow, spec: FlowSpec) -> dict[str, np.ndarray]:
    """Weights as flowjax lays them out, stacked over layers: the slopes at both ends and its starting values have to be made up for."""
    if spec.univariate == "spline":
        own = np.log(np.expm1(1 - FLOOR))  # its network's outputs are added to its starting parameters
        place, start = [*range(2 * spec.bins), *range(2 * spec.bins + 1, 3 * spec.bins)], [0.0] * (2 * spec.bins) + [own] * (spec.bins + 1)
        rest = {2 * spec.bins: own, 3 * spec.bins: own}  # with which the slopes at the ends are 1
    else:
        place, start, rest = [0, 1], [0.0, np.log(np.expm1(1 - 1e-2))], {}
    stacks: dict[str, list[np.ndarray]] = {}
    for number, layer in enumerate(layers_of(flow)):
        turned = spec.kind == "autoregressive" and number % 2 == 1
        maps = linears_of(layer)
        for depth, linear in enumerate(maps):
            weight, bias = (part.detach().cpu().numpy() for part in (linear.weight, linear.bias))
            if depth == 0 and turned:
                weight = weight[:, ::-1]
            if depth == len(maps) - 1:
                weight, bias = _last_rows(weight, bias, place, start, rest, turned)
            stacks.setdefault(f"w{depth}", []).append(weight)
            stacks.setdefault(f"b{depth}", []).append(bias)
    return {name: np.ascontiguousarray(np.stack(parts), dtype=np.float32) for name, parts in stacks.items()}


def _last_rows(weight: Any, bias: Any, place: list[int], start: list[float], rest: dict[int, float], turned: bool) -> tuple[Any, Any]:
    """An output layer with flowjax's number of parameters for every coordinate."""
    groups = len(bias) // len(place)
    wide, offset = np.zeros((groups, len(start), weight.shape[1])), np.zeros((groups, len(start)))
    wide[:, place], offset[:, place] = weight.reshape(groups, len(place), -1), bias.reshape(groups, len(place))
    for row, value in rest.items():
        offset[:, row] = value
    offset -= np.asarray(start)
    if turned:
        wide, offset = wide[::-1], offset[::-1]
    return wide.reshape(-1, weight.shape[1]), offset.reshape(-1)


class Conditioners(nn.Module):
    """The networks of a flow alone, on what they would see: the time that no work on the maps can take away."""

    def __init__(self, spec: FlowSpec) -> None:
        super().__init__()
        self.given = spec.features // 2 if spec.kind == "coupling" else spec.features
        per_value = 3 * spec.bins - 1 if spec.univariate == "spline" else 2
        sizes = [self.given, *spec.hidden, (spec.features - self.given or spec.features) * per_value]
        self.nets = nn.ModuleList(perceptron(sizes) for _ in range(spec.layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x[:, : self.given]
        return [net(x) for net in self.nets]


def parameters_of(module: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())
