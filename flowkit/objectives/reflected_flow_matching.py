"""Flow matching on bounded convex domains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.domain._reflection import check_inside, require_reflection
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import unify
from flowkit.objectives._ends import batch_mean, continuous_flow, ends_of, on_line, squares, uniform_times
from flowkit.objectives._label_drop import checked_share, seen_context


@OBJECTIVES.register("reflected_flow_matching")
class ReflectedFlowMatching(Objective):
    """Regress the velocity on the chords between a prior and the data, both on a convex domain.

        loss = mean over elements of |v(t, (1 - t) x0 + t x1) - (x1 - x0)|^2,   t ~ U[0, 1], x0 ~ prior, x1 ~ data, independent

    Chords of a convex set stay inside, so the target needs no simulation and is that of flow matching with straight paths; only the
    prior differs. The exact field never points outward at the boundary: mirrors correct the errors of regression, solver and guidance.

    Args:
        domain: where data and prior must lie; None for the model's own.
        label_drop: share of contexts dropped, to train classifier-free guidance (``flow.guided(scale)``).

    Raises:
        DomainError: the domain is not convex, or data or prior lie outside; the message names the first sample.
        ConfigError: the model is no continuous flow, or lives on another domain.

    Reference: Xie et al. (2024), Reflected flow matching, arXiv:2405.16577.

    Example:
        >>> import torch, flowkit as fk
        >>> from flowkit.core.domain import Box
        >>> flow = fk.flows.ReflectedFlow(Box(-1.0, 1.0, 2), (16, 16))
        >>> _ = fk.fit(flow, 2 * torch.rand(64, 2) - 1, fk.objectives.ReflectedFlowMatching(), max_steps=2, seed=0, progress=False)
    """

    requires = frozenset({"data"})

    def __init__(self, domain: Domain | None = None, *, label_drop: float = 0.0) -> None:
        super().__init__()
        if domain is not None:
            require_reflection(domain, "ReflectedFlowMatching")
        self.domain, self.label_drop = domain, checked_share(label_drop, "ReflectedFlowMatching")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        who = "ReflectedFlowMatching"
        flow = continuous_flow(model, who, build="flows.ReflectedFlow")
        domain = self._domain(flow)
        if batch.x is not None and may_raise(batch.x):
            check_inside(domain, batch.x, who)
        ends = ends_of(flow, batch, generator, who)
        if domain is not flow.domain and may_raise(ends.x0):
            check_inside(domain, ends.x0, f"{who}, draws of the prior")
        context = seen_context(self, flow, batch.context, ends.x1, generator)
        t = uniform_times(ends.x1, generator)
        error = squares(flow.field.velocity(t, on_line(t, ends), context) - (ends.x1 - ends.x0))
        value = batch_mean(error, batch) / ends.x1[0].numel()
        return Loss(value, {"velocity_error": value.detach()})

    def _domain(self, flow: Any) -> Domain:
        """The domain that counts, seen to be the model's."""
        if self.domain is None:
            require_reflection(flow.domain, "ReflectedFlowMatching")
            return flow.domain  # type: ignore[no-any-return]
        if unify(self.domain.event_shape, flow.event_shape) is None:
            shapes = f"{tuple(self.domain.event_shape)}, the model {tuple(flow.event_shape)}"
            raise ShapeError(f"ReflectedFlowMatching: the domain has events {shapes}. Give both the same domain.")
        if not flow.domain.trivial and repr(flow.domain) != repr(self.domain):
            raise ConfigError(f"ReflectedFlowMatching: expected a model on {self.domain}; got one on {flow.domain}. Leave domain= out to use the model's.")
        return self.domain

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ReflectedFlowMatching, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 0.3 + 0.1 * torch.randn(64, 2, generator=generator)
        box = {"name": "box", "low": -1.0, "high": 1.0, "dim": 2}
        flow: dict[str, Any] = {"name": "reflected_flow", "domain": box, "hidden": (16, 16)}
        yield "box", cls(build(box, Domain)), build(flow, Flow), Batch(x)
        labels = torch.arange(64) % 2
        triangle = {"name": "simplex", "dim": 2}
        conditional = {**flow, "domain": triangle, "classes": 2, "prior": "truncated_normal"}
        yield "guided_simplex", cls(label_drop=0.2), build(conditional, Flow), Batch((0.2 + 0.05 * torch.rand(64, 2, generator=generator)), labels)
