"""Flow matching on manifolds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.domain import Manifold
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.numerics.assignment import assign
from flowkit.objectives._ends import base_draws, batch_mean, continuous_flow, uniform_times
from flowkit.objectives._label_drop import checked_share, seen_context

Pairing = Literal["independent", "ot"]


@OBJECTIVES.register("riemannian_flow_matching")
class RiemannianFlowMatching(Objective):
    """Regression of a tangent velocity on that of geodesics between noise and data.

        E g(u(t, x_t) - dx_t/dt),   x_t = exp_x0(t log_x0(x1)),   t uniform,   g the squared norm of the manifold

    dx_t/dt is log_x0(x1) carried along the geodesic, in closed form. Where noise and data lie in each other's cut locus, which has
    probability zero, one shortest geodesic is taken. Batch weights, ``extra["weight"]``, weigh the rows.

    Args:
        pairing: "independent", or "ot": the noise of a batch is permuted so that the sum of squared geodesic distances is least, a
            linear assignment of cost O(B^3). It ignores contexts: in small batches a conditional flow is biased by it.
        label_drop: share of the rows trained without their context, for classifier-free guidance (``flow.guided(scale)``).

    Raises:
        DomainError: data off the manifold, from ``model.endpoint``. ConfigError: labels to drop without a context.

    Reference: Chen and Lipman (2024), Flow matching on general geometries, arXiv:2302.03660, algorithm 1; Tong et al. (2024), Improving and
    generalizing flow-based generative models with minibatch optimal transport, arXiv:2302.00482, for the pairing.
    """

    requires = frozenset({"data"})

    def __init__(self, pairing: Pairing = "independent", *, label_drop: float = 0.0) -> None:
        super().__init__()
        if pairing not in get_args(Pairing):
            raise ConfigError(f"RiemannianFlowMatching: expected pairing to be one of {', '.join(get_args(Pairing))}; got {pairing!r}.")
        self.pairing, self.label_drop = pairing, checked_share(label_drop, "RiemannianFlowMatching")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = continuous_flow(model, "RiemannianFlowMatching", build="flows.RiemannianFlow")
        manifold = flow.domain
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"RiemannianFlowMatching: expected a flow on a manifold; got one on {manifold}. Use FlowMatching there.")
        if batch.x is None:
            raise ConfigError("RiemannianFlowMatching: expected a batch of data; got none. Pass the source to fit.")
        x1 = flow.endpoint(batch.x, batch.context)
        x0 = base_draws(flow, len(x1), batch.context, generator).to(x1)
        if self.pairing == "ot":
            x0 = x0[nearest_permutation(manifold, x0, x1)]
        t = uniform_times(x1, generator)
        place, wanted = manifold.geodesic_with_velocity(x0, x1, t)
        velocity = flow.field.velocity(t, place, seen_context(self, flow, batch.context, x1, generator))
        value = batch_mean(manifold.squared_norm(place, velocity - wanted), batch)
        return Loss(value, {"mse": value.detach()})

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RiemannianFlowMatching, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        for label, domain, shape, pairing in (("sphere", {"name": "sphere"}, (64, 3), "independent"), ("rotations_ot", {"name": "so3"}, (64, 3, 3), "ot")):
            flow = build({"name": "riemannian_flow", "domain": domain, "hidden": [16, 16]}, Flow)
            yield label, cls(pairing), flow, Batch(_somewhere(flow, shape, generator))  # type: ignore[arg-type]
        flow = build({"name": "riemannian_flow", "domain": {"name": "torus"}, "hidden": [16], "context_features": 1}, Flow)
        angles = torch.rand((64, 2), generator=generator)
        yield "torus_conditional_weighted", cls(), flow, Batch(angles, angles[:, :1], extra={"weight": torch.rand(64, generator=generator)})


def nearest_permutation(manifold: Manifold, x0: Tensor, x1: Tensor) -> Tensor:
    """The permutation p for which sum_i distance(x0[p_i], x1[i])^2 is least: (B) int64."""
    with torch.no_grad():
        return assign(manifold.squared_distances(x1, x0))


def _somewhere(flow: Any, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Points around one point of the flow's manifold."""
    centre = flow.domain.safe_point(torch.zeros(shape))
    return flow.domain.exp(centre, flow.domain.project_tangent(centre, 0.3 * torch.randn(shape, generator=generator)))
