"""What mixture maps share: raw numbers to components, and the log-odds of a mixture of sigmoids."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.shapes import whole_number


def component_count(components: int, who: str) -> int:
    """A checked number of components."""
    return whole_number(components, who, "components", 2)


def spread(count: int) -> Tensor:
    """Normal quantiles at the middles of ``count`` equal shares: where equal components start, so that none is another's copy."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


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
