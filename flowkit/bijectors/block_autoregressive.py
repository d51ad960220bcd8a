"""Block neural autoregressive layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.bijectors._scalar_roots import bracketed_root
from flowkit.bijectors._scores import entry, left
from flowkit.bijectors.autoregressive import solve_score
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets._learned import Learned
from flowkit.numerics.activations import log_sech
from flowkit.numerics.precision import full_precision

START_GATE = -2.0  # a network with a share of 0.12: near the identity, and it learns from the first step on
FIRST_BIAS = 2.0  # range of the first units' biases, which bend where the data are
POINTS = 64  # quantiles that the start is fitted on
SOLVED = 32  # the most features for which a score is solved for: more products then cost more than the inverse of a second pass

Offset = Callable[[int, Tensor], Tensor]


@BIJECTORS.register("block_autoregressive", "bnaf_layer")
class BlockAutoregressive(Bijector):
    """x_i = (1 - g_i) z_i + g_i net_i(z_<=i), net a masked tanh network that increases in z_i, g in (0, 1) learned gates.

    Every feature has its own units in each hidden layer. Weights from a feature's units to its own next ones are positive
    (exponentials), those from earlier features are free, the others zero: the Jacobian is lower triangular, and its diagonal
    is the product of the positive blocks and the slopes of tanh, kept as a logarithm. The gate makes the range all of R^D.
    A layer starts near the identity, with g = 0.12 and a network of slope one over standard normal values.

    Forward costs one pass of the network, D^2 times its width squared. The inverse solves the features one after the other,
    all rows at once; each root needs only its own units, so that all D together cost one pass and D searches of a
    small network. Gradients through it are exact.

    Args:
        features: D.
        hidden: units per feature in each hidden layer, at least one layer.
        context_features: size of the context's last axis; shifts all biases and the gates.
        context_hidden: widths of the context net's hidden layers.
        activation: of the context net.

    Reference: De Cao, Titov and Aziz (2019), Block Neural Autoregressive Flow, arXiv:1904.04676, section 3.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (8, 8),
        *,
        context_features: int = 0,
        context_hidden: Sequence[int] = (),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.hidden = positive(features, "BlockAutoregressive", "features"), positive_sizes(hidden, self.who, "hidden")
        if not self.hidden:
            raise ConfigError("BlockAutoregressive: expected at least one hidden layer; got none. Pass e.g. hidden=(8,).")
        self.context_features, self.context_hidden, self.activation = context_features, tuple(context_hidden), activation
        self.in_shape = self.out_shape = (self.features,)
        self.traits = Traits(inverse="iterative", jacobian="triangular", score="solve" if self.features <= SOLVED else "two_pass")
        self.context_shape = (context_features,) if context_features else None
        sizes = [1, *(positive(width, "BlockAutoregressive", "hidden width") for width in self.hidden), 1]
        pairs = list(itertools.pairwise(sizes))
        # own blocks (D, out, in) start as means of their inputs
        self.log_weights = nn.ParameterList(0.1 * torch.randn(self.features, after, before) - math.log(before) for before, after in pairs)
        # blocks of earlier features (D out, D in), masked
        self.weights = nn.ParameterList(0.1 * torch.randn(self.features * after, self.features * before) for before, after in pairs if self.features > 1)
        for layer, (before, after) in enumerate(pairs):
            later = torch.ones(self.features, self.features, dtype=torch.bool).tril(-1)
            self.register_buffer(f"mask_{layer}", later.repeat_interleave(after, 0).repeat_interleave(before, 1), persistent=False)
        start = {f"bias_{layer}": 2 * torch.rand(self.features, after) - 1 for layer, (_, after) in enumerate(pairs[:-1])}
        start["bias_0"] *= FIRST_BIAS
        start[f"bias_{len(self.hidden)}"] = self._calibrated([start[f"bias_{layer}"] for layer in range(len(self.hidden))])
        start["gate"] = torch.full((self.features,), START_GATE)
        self.learned = Learned(start, context_features, self.context_hidden, activation)

    @torch.no_grad()
    def _calibrated(self, biases: Sequence[Tensor]) -> Tensor:
        """Scale the last own blocks so that over standard normal values the network has slope one; the last bias (D, 1) that centres it."""
        z = torch.special.ndtri((torch.arange(POINTS) + 0.5) / POINTS).unsqueeze(-1)
        zeros = torch.zeros(self.features, 1)
        weights = [weight.exp() for weight in self.log_weights]
        output = _units(z.expand(-1, self.features), weights, lambda layer, _: [*biases, zeros][layer])[1][-1].squeeze(-1)
        slope = (z * output).mean(0) / z.square().mean()  # of the straight line that fits best
        self.log_weights[-1].sub_(slope.log().reshape(-1, 1, 1))
        return -(output.mean(0) / slope).unsqueeze(-1)

    def _earlier(self, layer: int) -> Tensor | None:
        """Weights from earlier features' units (D out, D in); None for a single feature, which has none."""
        return self.weights[layer] * getattr(self, f"mask_{layer}") if self.features > 1 else None

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, log_slope = self._pass(z, context)
        return x, sum_event(log_slope, 1)

    def _pass(self, z: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        """x and the logarithm of the Jacobian's diagonal (*B, D)."""
        values = self.learned(context)

        def offset(layer: int, h: Tensor) -> Tensor:
            weight, bias = self._earlier(layer), values[f"bias_{layer}"]
            return bias if weight is None else (h.flatten(-2) @ weight.mT).unflatten(-1, (self.features, -1)) + bias

        weights, gate = [weight.exp() for weight in self.log_weights], values["gate"]
        with full_precision(z):
            outputs = _units(z, weights, offset)[1]
            return _gated(z, gate, outputs[-1]), _log_slope(gate, weights, outputs)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        values, depth = self.learned(context), len(self.log_weights)
        earlier = [self._earlier(layer) for layer in range(depth)]
        units: list[list[Tensor]] = [[] for _ in range(depth)]  # inputs of each layer, of the features solved so far
        solved, log_slopes = [], []
        with full_precision(x):
            for i in range(self.features):
                own, fixed = [weight[i : i + 1].exp() for weight in self.log_weights], []
                for layer, weight in enumerate(earlier):
                    shift = values[f"bias_{layer}"][..., i : i + 1, :]
                    if weight is not None and i > 0:
                        after, before = own[layer].shape[-2:]
                        rows = weight[i * after : (i + 1) * after, : i * before]
                        shift = shift + (torch.cat(units[layer], dim=-1) @ rows.mT).unsqueeze(-2)
                    fixed.append(shift)
                z, log_slope, inputs = _solve(x[..., i : i + 1], values["gate"][..., i : i + 1], own, fixed)
                for layer, h in enumerate(inputs):
                    units[layer].append(h.squeeze(-2))
                solved.append(z)
                log_slopes.append(log_slope)
        return torch.cat(solved, dim=-1), -sum_event(torch.cat(log_slopes, dim=-1), 1)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse or self.traits.score == "two_pass":  # for the inverse that is the call and one product of the other direction
            return super()._carry(value, score, context, generator, inverse)
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            entered = entry(value, recording)
            x, log_slope = self._pass(entered, context)
            carried = solve_score(x, log_slope, entered, score, self.features)
        return left(x, sum_event(log_slope, 1), carried, recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, BlockAutoregressive]]:
        yield "plain", cls(3, (4, 4))
        yield "conditional", cls(2, (4,), context_features=2, context_hidden=(8,))
        yield "single", cls(1, (4,))


def _units(z: Tensor, weights: Sequence[Tensor], offset: Offset) -> tuple[list[Tensor], list[Tensor]]:
    """The network at d features, given what other features and biases add to each layer's units.

    Args:
        z: (*B, d).
        weights: own positive blocks, (d, out, in) each.
        offset: (layer, its input (*B, d, in)) -> (*B, d, out).

    Returns:
        input and output of each layer; tanh takes the outputs to the next inputs, the last output is the network's.
    """
    h, inputs, outputs = z.unsqueeze(-1), [], []
    for layer, weight in enumerate(weights):
        inputs.append(h)
        outputs.append(_per_feature(weight, h) + offset(layer, h))
        h = torch.tanh(outputs[-1])
    return inputs, outputs


def _per_feature(weight: Tensor, value: Tensor) -> Tensor:
    """One product for each feature: (d, out, in), (*B, d, in) -> (*B, d, out)."""
    rows = value.reshape(-1, *value.shape[-2:]).transpose(0, 1)
    return (rows @ weight.mT).transpose(0, 1).reshape(*value.shape[:-1], weight.shape[-2])


def _gated(z: Tensor, gate: Tensor, output: Tensor) -> Tensor:
    """x (*B, d) from z (*B, d), the gates and the network's output (*B, d, 1)."""
    return torch.sigmoid(-gate) * z + torch.sigmoid(gate) * output.squeeze(-1)


def _log_slope(gate: Tensor, weights: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """log dx/dz (*B, d): the product of positive blocks and slopes of tanh, in logarithms."""
    log_slope = weights[0].log().squeeze(-1)
    for weight, output in zip(weights[1:], outputs, strict=False):
        log_slope = log_slope + 2 * log_sech(output)  # slope of tanh there
        largest = log_slope.amax(-1, keepdim=True).detach()  # scaled out, so that the product cannot underflow
        log_slope = largest + _per_feature(weight, torch.exp(log_slope - largest)).log()
    return torch.logaddexp(functional.logsigmoid(-gate), functional.logsigmoid(gate) + log_slope.squeeze(-1))


def _solve(x: Tensor, gate: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The z (*B, 1) of one feature that gives x (*B, 1), log dx/dz there, and the input of each layer.

    The network's last hidden units lie in (-1, 1), which brackets z. The root is found without a graph; two Newton steps
    with one give it exact first and second derivatives, also through the features before it.
    """

    def units(z: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return _units(z, weights, lambda layer, h: fixed[layer])

    with torch.no_grad():
        ratio, spread = torch.exp(gate), weights[-1].sum((-2, -1))
        centre = x * (1 + ratio) - ratio * fixed[-1].squeeze(-1)
    z = bracketed_root(lambda value: _gated(value, gate, units(value)[1][-1]), x, centre, ratio * spread)
    if torch.is_grad_enabled():
        for _ in range(2):
            outputs = units(z)[1]
            z = z + (x - _gated(z, gate, outputs[-1])) * torch.exp(-_log_slope(gate, weights, outputs))
    inputs, outputs = units(z)
    return z, _log_slope(gate, weights, outputs), inputs
