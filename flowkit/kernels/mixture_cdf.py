"""The log-odds of a mixture of logistic distribution functions as an op: a reference and a fused kernel.

    x = exp(a) logit(sum_k w_k sigmoid((z - m_k) / s_k)) + b

Parameters (*S, 3 K + 2): K raw weights (softmax), K means, K raw log-scales, raw log-gain, shift; log-scales and log-gain are
B tanh(raw / B). The inverse is iterative; its derivatives are those of the implicit function.

Reference: Ho et al. (2019), Flow++, arXiv:1902.00275, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.gpu import maps
from flowkit.kernels.iterative import polished, solve
from flowkit.kernels.scalar_map import scalar_ops

LARGEST_LOG_SCALE = 3.0  # B
MOST_COMPONENTS = 63  # of which a tile of the kernel holds the numbers


def sigmoid_log_odds(log_weights: Tensor, t: Tensor, log_rates: Tensor) -> tuple[Tensor, Tensor]:
    """x = logit(sum_k w_k sigmoid(t_k)) and log dx/dz, given log dt_k/dz; right out to any |t|.

    1. Both tails are summed in log space, C = log sum w sigmoid(t) and S = log sum w sigmoid(-t); x = C - S.
    2. dx/dz = sum_k w_k sigmoid(t_k) sigmoid(-t_k) t_k' / (e^C e^S). On the side where S is the small one it is written
       as sum_k p_k sigmoid(t_k) t_k' / e^C with the shares p = softmax(log w + log sigmoid(-t)): no large numbers cancel.
       The other side is its mirror image.

    Args:
        log_weights, t, log_rates: (*S, K).
    """
    log_cdf = torch.logsumexp(log_weights + functional.logsigmoid(t), dim=-1)
    log_sf = torch.logsumexp(log_weights + functional.logsigmoid(-t), dim=-1)
    upper = log_sf < log_cdf
    outward = torch.where(upper.unsqueeze(-1), t, -t)
    shares = torch.log_softmax(log_weights + functional.logsigmoid(-outward), dim=-1)
    log_slope = torch.logsumexp(shares + functional.logsigmoid(outward) + log_rates, dim=-1) - torch.maximum(log_cdf, log_sf)
    return log_cdf - log_sf, log_slope


def forward(value: Tensor, params: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """value (*S), params (*S, 3 K + 2) -> x and log dx/dz, both (*S)."""
    return _evaluate(value, *_coefficients(params, components))


def inverse(value: Tensor, params: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: z and log dz/dx, NaN where the dtype has no solution."""
    z = _root(value.detach(), params.detach(), components)
    return polished(_evaluate, z, value, _coefficients(params, components), -math.inf, math.inf)


# an operator, so that the iteration runs eagerly inside a compiled graph and under vmap
@torch.library.custom_op("flowkit::logistic_mixture_root", mutates_args=())
def _root(value: Tensor, params: Tensor, components: int) -> Tensor:
    """Where ``forward`` reaches the value, without derivatives: (*S), NaN where nothing was found."""
    z, solved = solve(_evaluate, value, _coefficients(params, components), -math.inf, math.inf)
    return torch.where(solved, z, torch.nan)


@_root.register_fake
def _(value: Tensor, params: Tensor, components: int) -> Tensor:
    return torch.empty_like(value)


@_root.register_vmap
def _(info: Any, dims: tuple[int | None, ...], value: Tensor, params: Tensor, components: int) -> tuple[Tensor, int]:
    moved = [
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0) for tensor, dim in zip((value, params), dims[:2], strict=True)
    ]
    return _root(*moved, components), 0


def _coefficients(params: Tensor, components: int) -> tuple[Tensor, ...]:
    weights, means, scales, affine = params.split([components] * 3 + [2], dim=-1)
    gain, shift = affine.unbind(-1)
    return torch.log_softmax(weights, dim=-1), means, -_bounded(scales), _bounded(gain), shift


def _bounded(raw: Tensor) -> Tensor:
    return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)


def _evaluate(z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
    log_weights, means, log_rates, log_gain, shift = coefficients
    odds, log_slope = sigmoid_log_odds(log_weights, (z.unsqueeze(-1) - means) * torch.exp(log_rates), log_rates)
    return odds * torch.exp(log_gain) + shift, log_slope + log_gain


def _count(components: int) -> int:
    return 3 * components + 2


def _limits(components: int) -> str | None:
    return None if components <= MOST_COMPONENTS else f"{components} components are more than {MOST_COMPONENTS}"


def _examples(rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(0)
    for label, components in (("k8", 8), ("k3", 3)):
        value = 2.0 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
        params = 0.6 * torch.randn(rows, 3, _count(components), generator=generator, dtype=torch.float64)
        yield label, (value, params, components)


logistic_mixture_cdf, inverse_logistic_mixture_cdf = scalar_ops(
    "logistic_mixture_cdf",
    "int components, ",
    (forward, inverse),
    cpu=CpuScalarMap("logistic_mixture_cdf", lambda components: (components, LARGEST_LOG_SCALE)),
    gpu=maps.logistic_mixture_cdf(LARGEST_LOG_SCALE),
    count=_count,
    limits=_limits,
    examples=_examples,
    iterative=True,
)
