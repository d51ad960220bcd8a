"""Maximum likelihood of continuous flows, with costs that straighten their paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.objectives._continuous_nll import Followed, check_continuous, follow
from flowkit.objectives._path_costs import PathCosts


@OBJECTIVES.register("continuous_likelihood", "rnode")
class ContinuousLikelihood(Objective):
    """nll_weight * NLL + kinetic int |v|^2 / (2 d) dt + jacobian int |e'J|^2 / d dt + hjb int |dPhi/dt - |v|^2 / 2| dt, in nats.

    The costs ride along in the same solve and take no part in its error control. ``kinetic`` and ``jacobian`` are RNODE's (0.01 each
    there), the products e'J being those of Hutchinson's divergence; ``kinetic`` and ``hjb`` with an ``OTPotentialField`` are OT-Flow's
    (its alpha_0 = 1 is kinetic = d). With ``steer`` each step's time span is drawn from U(T - steer, T + steer); evaluation uses T.

    Args:
        kinetic, jacobian, hjb: weights >= 0.
        nll_weight: weight of the negative log-likelihood, OT-Flow's alpha_C.
        steer: half-width b of the span's law, below the flow's duration; 0 for none.

    Reference: Finlay et al. (2020), How to train your neural ODE, arXiv:2002.02798; Onken et al. (2021), OT-Flow, arXiv:2006.00104;
    Ghosh et al. (2020), STEER, arXiv:2006.10711.
    """

    requires = frozenset({"data"})

    def __init__(self, *, kinetic: float = 0.0, jacobian: float = 0.0, hjb: float = 0.0, nll_weight: float = 1.0, steer: float = 0.0) -> None:
        super().__init__()
        self.kinetic, self.jacobian, self.hjb, self.nll_weight, self.steer = kinetic, jacobian, hjb, nll_weight, steer
        for name in ("kinetic", "jacobian", "hjb", "nll_weight", "steer"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ConfigError(f"{type(self).__name__}: expected {name} to be a finite number >= 0; got {value!r}.")
        self.costs = PathCosts(kinetic, jacobian, hjb)

    def span(self, model: Any, generator: torch.Generator | None) -> Tensor | None:
        """The time span of a step, () drawn for STEER; None for the flow's own."""
        if not self.steer:
            return None
        own: Tensor = model.bijector.time_span
        if self.steer >= float(own):
            raise ConfigError(f"{type(self).__name__}: expected steer below the flow's duration {float(own):.6g}; got {self.steer}.")
        return own + self.steer * (2 * torch.rand((), generator=generator, dtype=own.dtype, device=own.device) - 1)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        return self._loss_of(self._follow(model, batch, generator), batch)

    def _follow(self, model: Any, batch: Batch, generator: torch.Generator | None) -> Followed:
        self.costs.check(check_continuous(model, type(self).__name__).field, type(self).__name__)
        return follow(model, batch, self.costs, self.span(model, generator) if self.training and model.training else None, generator)

    def _loss_of(self, followed: Followed, batch: Batch) -> Loss:
        weight = batch.extra.get("weight")

        def mean(value: Tensor) -> Tensor:
            return value.mean() if weight is None else (weight * value).mean()

        nll = -mean(followed.log_prob)
        value, terms = self.nll_weight * nll, {"nll": nll.detach(), "evaluations": followed.evaluations}
        if followed.integrals is not None:
            for name, factor, integral in zip(self.costs.names, self.costs.weights, followed.integrals.unbind(-1), strict=True):
                cost = mean(integral)
                value, terms[name] = value + factor * cost, cost.detach()
        return Loss(value, terms)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ContinuousLikelihood, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 1.5 + 0.5 * torch.randn(32, 2, generator=generator)
        quick = {"name": "continuous_flow", "solver": "rk4", "steps": 3, "per_sample": False, "standardize": False}
        yield "rnode", cls(kinetic=0.01, jacobian=0.01), build({**quick, "features": 2, "hidden": (8, 8)}, Flow), Batch(x)
        field = {"name": "ot_potential_field", "features": 2, "width": 8}
        yield "ot_flow", cls(kinetic=2.0, hjb=1.0, nll_weight=30.0), build({**quick, "field": field}, Flow), Batch(x)
        yield "steer", cls(steer=0.5), build({**quick, "features": 2, "hidden": (8, 8)}, Flow), Batch(x)
