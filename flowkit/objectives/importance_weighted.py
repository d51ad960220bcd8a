"""The importance-weighted bound of an energy's normaliser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from flowkit.core.distribution import Distribution
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive
from flowkit.core.target import Target
from flowkit.objectives._draws import carried, check_gradient, draw, sample_plan, weight_terms
from flowkit.objectives._energy_objective import EnergyObjective, normal, one_of, small_flow


@OBJECTIVES.register("importance_weighted", "iwae")
class ImportanceWeighted(EnergyObjective):
    """-mean log(1/K sum_k w_k), w = p(x) / q(x) with x from the flow: minus a lower bound of log Z that tightens with K; K = 1 is ``ReverseKL``.

    With w_k normalised over the K samples of a group and P_k = (dx_k/dtheta)^T (s_p - s_q), the gradient of the bound is, by ``gradient``,

        dreg  sum_k w_k^2 P_k, unbiased; zero for every sample at q = p, and its signal-to-noise grows with K
        iwae  the derivative of the loss itself along x(theta), unbiased; its signal-to-noise falls as 1/sqrt(K)
        stl   sum_k w_k P_k, biased for K > 1: that of ``AlphaDivergence`` with alpha -> 1, taken over groups

    A step draws K samples for each of batch.size groups; with a conditional flow, for each row of the source's contexts. A log-density of
    minus infinity is a weight of zero. ``terms`` as for ``ReverseKL``, over all samples, and bound.

    Args:
        target: the density; one with parameters is copied, and never trained.
        samples: K.
        gradient: the estimator.

    Raises:
        ConfigError: the flow or the target cannot give that gradient; weights need an exact density ("iwae" also takes the path weights of
            layers that draw).

    Reference: Burda, Grosse and Salakhutdinov (2015), Importance weighted autoencoders, arXiv:1509.00519; Tucker et al. (2018), Doubly
    reparameterized gradient estimators, arXiv:1810.04152; Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv:1802.04537.

    Example:
        >>> import torch, flowkit as fk
        >>> flow, target = fk.flows.RealNVP(2, layers=2, hidden=(8,)), fk.targets.ManyWell(2)
        >>> loss = fk.objectives.ImportanceWeighted(target, samples=4).loss(flow, fk.core.objective.Batch(size=8))
        >>> sorted(loss.terms)
        ['bound', 'elbo', 'ess', 'kl', 'log_w_std']
    """

    def __init__(self, target: Target | Distribution, *, samples: int = 8, gradient: Literal["iwae", "stl", "dreg"] = "dreg") -> None:
        super().__init__()
        self._keep(target)
        self.samples, self.gradient = positive(samples, "ImportanceWeighted", "samples"), gradient
        one_of(gradient, ("iwae", "stl", "dreg"), "ImportanceWeighted", "gradient")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow, shape, context = sample_plan(model, batch, self.who)
        by: Literal["total", "path"] = "total" if self.gradient == "iwae" else "path"
        check_gradient(flow, by, self.who, gradient=self.gradient, exact=True, remedy="iwae")
        draws = draw(flow, self.target, (self.samples, *shape), context, generator, by=by, who=self.who, zeros=True)
        bound = (draws.log_w.logsumexp(0) - math.log(self.samples)).mean()
        weight = draws.log_w.softmax(0)
        factor = weight.square() if self.gradient == "dreg" else weight
        surrogate = -(factor * draws.carrier).sum(0).mean()
        return carried(-bound, surrogate, {"bound": bound, **weight_terms(draws.log_w, self.target)})

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ImportanceWeighted, nn.Module, Batch]]:
        yield "dreg", cls(normal(), samples=4), small_flow(), Batch(size=32)
        context = torch.linspace(-1, 1, 32)[:, None]
        yield "iwae_conditional", cls(normal(), samples=4, gradient="iwae"), small_flow(context=1), Batch(torch.zeros(32, 2), context)
        yield "stl", cls(normal(), samples=2, gradient="stl"), small_flow(), Batch(size=32)
