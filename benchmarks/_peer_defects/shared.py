"""Measurements that several defects have in common. A map is a callable x -> (value, log_det)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BINS, BOUND = 8, 3.0  # of every spline here
Map = Callable[[Tensor], tuple[Tensor, Tensor]]


class Pair(NamedTuple):
    """Both directions of one map."""

    forward: Map
    inverse: Map


def pair(bijector: Any) -> Pair:
    """Both directions of a flowkit bijector, or of a layer of nflows or normflows."""
    return Pair(bijector, bijector.inverse)


def randomized(module: nn.Module, scale: float = 1.0) -> Any:
    """The module with every parameter drawn from N(0, scale^2)."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return module


def round_trip(x: Tensor) -> Callable[[Pair], Tensor]:
    """Largest error of inverse(forward(x)); NaN counts as infinite."""

    def measure(maps: Pair) -> Tensor:
        return (maps.inverse(maps.forward(x)[0])[0] - x).abs().nan_to_num(torch.inf).max()

    return measure


def log_det_error(x: Tensor) -> Callable[[Map], Tensor]:
    """Error of the log_det at one event x (D), against the Jacobian by automatic differentiation."""

    def measure(forward: Map) -> Tensor:
        jacobian = torch.func.jacrev(lambda point: forward(point)[0])(x)
        return (torch.linalg.slogdet(jacobian)[1] - forward(x)[1]).abs().squeeze()

    return measure


def pickled(module: Any) -> int:
    """1 if the module comes back from pickle."""
    return int(type(pickle.loads(pickle.dumps(module))) is type(module))


def not_finite(*parts: Tensor) -> int:
    """How many entries are NaN or infinite."""
    return sum(int((~torch.isfinite(part)).sum()) for part in parts)


def not_finite_below_knots(inverse: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> int:
    """Entries not finite where a rational-quadratic spline is solved one rounding below a knot, in float32.

    ``inverse`` takes y (N,) and raw widths, heights and inner slopes (N, 3 BINS - 1), uniform on [-5, 5].
    """
    params = 5 * (2 * torch.rand(20_000, 3 * BINS - 1) - 1)
    heights = 1e-3 + (1 - 1e-3 * BINS) * params[:, BINS : 2 * BINS].softmax(-1)
    knots = 2 * BOUND * heights.cumsum(-1)[:, :-1] - BOUND
    y = knots.gather(-1, torch.randint(BINS - 1, (len(params), 1))).squeeze(-1)
    return not_finite(*inverse(torch.nextafter(y, torch.tensor(-torch.inf)), params))


def network_passes(module_and_call: tuple[nn.Module, Callable[[], object]]) -> int:
    """How often one call runs the layer, of all inside the module, that it runs most."""
    module, call = module_and_call
    counts = dict.fromkeys(module.modules(), 0)

    def count(layer: nn.Module, *_: object) -> None:
        counts[layer] += 1

    hooks = [layer.register_forward_hook(count) for layer in counts]
    call()
    for hook in hooks:
        hook.remove()
    return max(counts.values())


class Fixed(nn.Module):
    """A conditioner that returns one number everywhere, whatever it is given."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.width, self.value = width, value

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        return x.new_full((*x.shape[:-1], self.width), self.value)


class EndingInTanh(nn.Sequential):
    """A small net whose last layer is tanh."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, out_features), nn.Tanh())

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        return super().forward(x)


class Slope(nn.Module):
    """g(x) = slope x: a contraction for abs(slope) < 1; ``lipschitz`` is what flowkit asks a residual net for."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(slope))
        self.lipschitz, self.context_features = 0.9999, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x
