"""What the samples of a flow weigh against a target density."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.evaluating import evaluating
from flowkit.numerics.estimate import mean_of
from flowkit.numerics.importance import ess, log_mean_weight, pareto_shape
from flowkit.plots import energies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUSTED = 0.7  # k_hat above which weights are not


class Weighed(NamedTuple):
    """Energies -log p and log-weights log p - log q of samples of a flow, each (N,) float64, and how many energies were NaN or minus infinity.

    These have weight zero.
    """

    energies: Tensor
    log_weights: Tensor
    not_finite: int


def weigh(flow: Any, target: Any, n: int, *, batch_size: int, generator: torch.Generator) -> Weighed:
    """Draw n samples of a flow, in parts, and weigh them to a target on the flow's device."""
    found = []
    with evaluating(flow):
        for start in range(0, n, batch_size):
            x, log_prob = flow.sample_and_log_prob((min(batch_size, n - start),), generator=generator)
            log_density = target.log_density(x).double()
            found.append(torch.stack([-log_density, log_density - log_prob.double()]).cpu())
    energy, log_weights = torch.cat(found, 1)
    bad = log_weights.isnan() | log_weights.isposinf()
    return Weighed(energy, log_weights.masked_fill(bad, -math.inf), int(bad.sum()))


def weight_numbers(weighed: Weighed) -> dict[str, Any]:
    """Effective share, log Z with its error, the lower bound and k_hat; None for what is infinite, ``k_hat`` left out where there is no tail to fit."""
    log_weights = weighed.log_weights
    bound, k_hat = mean_of(log_weights), pareto_shape(log_weights)
    (log_z, log_z_error), elbo_error = log_mean_weight(log_weights), bound.standard_error
    numbers: dict[str, Any] = {"samples": len(log_weights), "ess": float(ess(log_weights)) / len(log_weights)}
    numbers |= {"log_z": log_z, "log_z_error": log_z_error, "elbo": float(bound), "elbo_error": elbo_error, "k_hat": k_hat}
    numbers = {key: value if math.isfinite(value) else None for key, value in numbers.items() if key != "k_hat" or math.isfinite(value)}
    return numbers | ({"not_finite": weighed.not_finite} if weighed.not_finite else {})


def energy_picture(weighed: Weighed, exact: Tensor | None) -> tuple[Figure, str] | None:
    """Histograms of the energies of a flow's samples, raw and weighted, over those of exact samples (M,), and what they show.

    None where no sample has a finite energy or no sample has a weight.
    """
    weights = torch.softmax(weighed.log_weights, 0)
    if not bool(torch.isfinite(weighed.energies).any()) or bool(weighed.log_weights.isneginf().all()):
        return None
    words = "Energies −log p, up to a constant, of samples of the flow, as they come and weighted to the target; "
    sets = {"flow": weighed.energies, "flow, weighted": weighed.energies}
    if exact is not None and bool(torch.isfinite(exact).any()):
        sets, words = {"exact samples": exact, **sets}, words + "filled, those of exact samples of the target. All three agree once the flow is the target."
    else:
        sets, words = dict(reversed(sets.items())), words + "filled, the weighted ones. They agree once the flow is the target."
    return energies({title: values.numpy() for title, values in sets.items()}, weights={"flow, weighted": weights.numpy()}, unit="nats"), words
