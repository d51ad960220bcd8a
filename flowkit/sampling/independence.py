"""Independence Metropolis-Hastings: a flow proposes, the target accepts."""

from __future__ import annotations

import torch

from flowkit.core.distribution import Distribution
from flowkit.core.evaluating import evaluating
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import Context, flag, mask_event, positive
from flowkit.core.target import Target
from flowkit.sampling._inputs import check_pair, check_single, draw_with_log_prob, log_density_of, parts
from flowkit.sampling.chains import Chains
from flowkit.sampling.weighted import check_log_weights


def independence(
    flow: Distribution,
    target: Target | Distribution,
    steps: int = 1000,
    *,
    chains: int = 64,
    context: Context = None,
    batch_size: int = 4096,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Chains:
    """Markov chains whose proposals are independent draws y of a flow, accepted with probability min(1, w(y) / w(x)), w = p / q.

    The target is invariant whatever the flow, exactly, also with the path weights of a flow whose density is a lower bound. A chain stays
    long where the weight is large: the longest stay says how badly the flow misses something.

    Args:
        flow: any distribution. target: log_density known up to a constant; no gradient needed.
        steps: kept of each of the ``chains``, after the first draw of each.
        batch_size: draws at a time.
        context: of one condition.

    Returns:
        as ``hmc``; ``.acceptance`` near 1 and ``.autocorrelation_time`` near 1 mean a good flow.

    Raises:
        NonFiniteError: log-weights are NaN or plus infinity, or all weights are 0.

    Reference: Tierney (1994), Markov chains for exploring posterior distributions, Ann. Stat. 22; Albergo, Kanwar and Shanahan (2019), Flow-based
        generative models for Markov chain Monte Carlo in lattice field theory, arXiv:1904.12072.

    Example:
        >>> import torch, flowkit as fk
        >>> wide, normal = fk.distributions.DiagonalNormal((2,), scale=1.2), fk.distributions.StandardNormal((2,))
        >>> run = fk.sampling.independence(wide, normal, 500, generator=torch.Generator().manual_seed(0), progress=False)
        >>> bool(run.acceptance.mean() > 0.8), bool((run.r_hat < 1.01).all())
        (True, True)
    """
    check_pair(flow, target, "independence", ("flow", "target"))
    check_single((flow, target), context, "independence")
    steps, chains, batch_size = (positive(value, "independence", name) for value, name in ((steps, "steps"), (chains, "chains"), (batch_size, "batch_size")))
    flag(progress, "independence", "progress")
    log_density = log_density_of(target, context, "independence")
    sizes = parts((steps + 1) * chains, batch_size)
    drawn = []
    with evaluating(flow, target), progress_bar("independence", (steps + 1) * chains, show=progress and len(sizes) > 1) as advance:
        for size in sizes:
            y, log_prob = draw_with_log_prob(flow, size, context, generator)
            drawn.append((y, (log_density(y) - log_prob).double()))
            advance(size)
    proposals, log_weights = (torch.cat(part).unflatten(0, (steps + 1, chains)) for part in zip(*drawn, strict=True))
    check_log_weights(log_weights, "independence")
    thresholds = torch.rand((steps, chains), generator=generator, dtype=torch.float64, device=log_weights.device).log()
    at, weight, places = torch.zeros(chains, dtype=torch.int64, device=log_weights.device), log_weights[0], []
    for step in range(1, steps + 1):
        accepted = (thresholds[step - 1] < log_weights[step] - weight) | (torch.isneginf(weight) & ~torch.isneginf(log_weights[step]))
        at, weight = torch.where(accepted, step, at), torch.where(accepted, log_weights[step], weight)
        places.append(at)
    index = torch.stack(places)
    moved = (index == torch.arange(1, steps + 1, device=index.device)[:, None]).double().mean(0)
    return Chains(proposals.gather(0, mask_event(index, proposals.dim() - 2).expand(steps, chains, *proposals.shape[2:])), moved)
