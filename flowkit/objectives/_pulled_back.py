"""Path gradients of the forward divergence: the data pulled back to the latent side, where flow and data change places.

1. KL(p || q) = KL(p_0 || q_0), with p_0 the law of z = f(x), x ~ p, and q_0 the base: both densities carry the same Jacobian.
2. So it is a reverse divergence whose "flow" is f, "base" p and "target" q_0: its path gradient is
   mean (df/dtheta)^T (s_0 - grad log q_0)(z), with s_0 the score of p_0, s_p carried through the inverse.
3. The same, on the data's side: with z = f(x) fixed and x = g_theta(z), f(g(z)) = z gives df/dtheta = -(df/dx)(dx/dtheta), and
   (df/dx)^T (s_0 - grad log q_0) = s_p - s_q. So it is -mean (dx/dtheta)^T (s_p - s_q)(x), the drop-in form.
4. Parameters of a learned base appear in q_0 alone: they get their likelihood gradient, -mean d/dtheta log q_0(z).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.flow import Flow
from flowkit.core.shapes import sum_event, zeros_log_det
from flowkit.objectives._draws import fixed_end


def pulled_back(flow: Flow, x: Tensor, score: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """log q(x) (B) without a graph, and a carrier (B) of the gradient of step 2, by one pass: ``score`` is the target's at x."""
    z, log_det, carried = flow.pull_score(x, score, context, generator=generator)
    own = base_context(flow, context)
    direction = carried - flow.base.score(z.detach(), own).detach()
    carrier = sum_event(z * direction.to(z.dtype), len(flow.base.event_shape))
    return (flow.base.log_prob(z, own) + log_det).detach(), carrier - base_carrier(flow, z, own)


def dropped_in(flow: Flow, x: Tensor, score: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The same by step 3: two passes, of which the second generates x again.

    Where a fixed map onto the support comes last, it is done in front of that map: there dx/dtheta is zero and s_q infinite on the boundary.
    """
    own, embedded = base_context(flow, context), flow.embed_context(context)
    steps, last, volume = flow.maps, fixed_end(flow), zeros_log_det(x, flow.event_shape)
    x = x.detach()
    if last is not None:
        steps = steps[:-1]
        x, volume, score = last.pull_score(x, score, generator=generator)
    z = point = x.detach().requires_grad_()
    log_q = zeros_log_det(x, steps[-1].out_shape)
    for step in reversed(steps):
        z, log_det = step.inverse(z, flow._context_for(step, embedded), generator=generator)
        log_q = log_q + log_det
    log_q = log_q + flow.base.log_prob(z, own)
    (score_q,) = torch.autograd.grad(log_q.sum(), point)
    again = z.detach()
    for step in steps:
        again = step.move(again, flow._context_for(step, embedded), generator=generator)
    carrier = sum_event(again * (score - score_q).detach(), len(steps[-1].out_shape))
    return (log_q + volume).detach(), -carrier - base_carrier(flow, z, own)


def base_context(flow: Flow, context: Any) -> Any:
    """The context as a conditional base sees it, else None."""
    return None if flow.base.context_shape is None else flow.embed_context(context)


def base_carrier(flow: Flow, z: Tensor, context: Any) -> Tensor | float:
    """log q_0(z) at fixed z where the base learns, else 0."""
    if context is None and not any(p.requires_grad for p in flow.base.parameters()):
        return 0.0
    return flow.base.log_prob(z.detach(), context)
