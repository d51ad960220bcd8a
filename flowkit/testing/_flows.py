"""Checks of what a flow can do beyond a distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra.inverse import moves_by_call
from flowkit.core.conditioned import Conditioned
from flowkit.core.errors import DomainError, ShapeError
from flowkit.core.flow import Flow
from flowkit.distributions import StandardNormal
from flowkit.testing._case import Case, traits_of
from flowkit.testing._compare import close, expect, raises, scale_of
from flowkit.testing._distribution_inputs import conditional, event_of, exact, fixed, points, tensor_density
from flowkit.testing._draws import concrete, draw, draw_context, points_outside
from flowkit.testing._mass import NEAR, mapped_mass
from flowkit.testing._suite import register
from flowkit.testing._suites import DISTRIBUTION


def is_flow(p: Any) -> bool:
    return isinstance(p, Flow)


def exact_flow(p: Any) -> bool:
    return is_flow(p) and exact(p)


def tolerance(p: Any, default: float) -> float:
    """The loosest declared round-trip tolerance of the flow's maps, or the default."""
    declared = [traits_of(step).tolerance.get(torch.float64, 0.0) for step in getattr(p, "maps", ())]
    return max([default, *declared])


def invertible(p: Any) -> bool:
    return exact_flow(p) and all(traits_of(step).inverse != "none" for step in p.maps)


@register(DISTRIBUTION, applies=invertible)
def latent_round_trip(p: Any, case: Case) -> None:
    """to_data(to_latent(x)) = x and to_latent(to_data(z)) = z."""
    allowed = tolerance(p, 1e-8)
    context = draw_context(p, case.batch, case)
    x = points(p, case)
    z = p.to_latent(x, context)
    expect(z.shape == (*case.batch, *concrete(p.base.event_shape)), f"to_latent has shape {tuple(z.shape)}")
    close(p.to_data(z, context), x, allowed * scale_of(x), "to_data(to_latent(x))")
    z = draw(p.base.domain, case.batch, tuple(z.shape[len(case.batch) :]), case, offset=4)
    close(p.to_latent(p.to_data(z, context), context), z, allowed * 10 * scale_of(z), "to_latent(to_data(z))")


@register(DISTRIBUTION, applies=exact_flow)
def sample_and_log_prob_agree(p: Any, case: Case) -> None:
    """sample_and_log_prob returns the samples of the same generator and their log_prob."""
    context = fixed(p, case)
    x, log_prob = p.sample_and_log_prob((6,), context, case.generator())
    expect(tuple(log_prob.shape) == (6,), f"log_prob has shape {tuple(log_prob.shape)}")
    wanted = p.log_prob(x.detach(), context)
    close(log_prob, wanted, 10 * tolerance(p, 1e-8) * scale_of(wanted), "sample_and_log_prob against log_prob")
    # a solver that controls its error takes other steps where it has no log_det to follow
    allowed = 1e-12 if all(map(moves_by_call, p.maps)) else tolerance(p, 1e-12)
    close(x, p.sample((6,), context, case.generator()), allowed * scale_of(x), "sample_and_log_prob against sample")


@register(DISTRIBUTION, applies=lambda p: invertible(p) and isinstance(p.base, StandardNormal))
def temperature_scales_latents(p: Any, case: Case) -> None:
    """temperature=t multiplies normal latents by t, and log_prob stays the flow's own."""
    context = fixed(p, case)
    warm = p.to_latent(p.sample((6,), context, case.generator()), context)
    x, log_prob = p.sample_and_log_prob((6,), context, case.generator(), 0.5)
    allowed = 10 * tolerance(p, 1e-8)
    close(p.to_latent(x, context), 0.5 * warm, allowed * scale_of(warm), "latents at temperature 0.5")
    wanted = p.log_prob(x.detach(), context)
    close(log_prob, wanted, allowed * scale_of(wanted), "log_prob at temperature 0.5")


@register(DISTRIBUTION, applies=lambda p: is_flow(p) and tensor_density(p))
def chunks_agree(p: Any, case: Case) -> None:
    """batch_size= evaluates in slices with the same result, empty batches included."""
    for batch in ((5,), (2, 3), (0,)):
        x, context = points(p, case, batch), draw_context(p, batch, case)
        wanted = p.log_prob(x, context, generator=case.generator())
        got = p.log_prob(x, context, generator=case.generator(), batch_size=2)
        if exact(p):
            close(got, wanted, 1e-10 * scale_of(wanted), "log_prob with batch_size=2")
        expect(got.shape == wanted.shape, f"log_prob with batch_size=2 has shape {tuple(got.shape)}")


@register(DISTRIBUTION, applies=lambda p: is_flow(p) and tensor_density(p) and conditional(p))
def condition_agrees(p: Any, case: Case) -> None:
    """flow.condition(context) answers like the flow with that context."""
    context = fixed(p, case)
    conditioned = p.condition(context)
    x = points(p, case)
    wanted = p.log_prob(x, context, generator=case.generator())
    close(conditioned.log_prob(x, generator=case.generator()), wanted, 1e-12 * scale_of(wanted), "condition(context).log_prob")
    drawn = p.sample((4,), context, case.generator())
    close(conditioned.sample((4,), generator=case.generator()), drawn, 1e-12 * scale_of(drawn), "condition(context).sample")
    expect(isinstance(conditioned, Flow) and conditioned.context_shape is None, "condition(context) is not a flow without context")


@register(DISTRIBUTION, applies=lambda p: is_flow(p) and tensor_density(p) and None not in p.event_shape)
def torch_view(p: Any, case: Case) -> None:
    """flow(context) is a torch.distributions.Distribution with the same density, samples and shapes."""
    for batch in ((), (2,)) if conditional(p) else ((),):
        context = draw_context(p, batch, case)
        view = p(context)
        expect(isinstance(view, torch.distributions.Distribution), f"flow(context) is a {type(view).__name__}")
        expect(tuple(view.batch_shape) == batch and tuple(view.event_shape) == event_of(p), f"batch {tuple(view.batch_shape)}, event {tuple(view.event_shape)}")
        x = points(p, case, (3, *batch))
        torch.default_generator.manual_seed(0)
        wanted = p.log_prob(x, context)
        torch.default_generator.manual_seed(0)
        close(view.log_prob(x), wanted, 1e-12 * scale_of(wanted), "flow(context).log_prob")
        expect(tuple(view.sample((4,)).shape) == (4, *batch, *event_of(p)), "flow(context).sample has a wrong shape")


@register(DISTRIBUTION, applies=invertible)
def latent_refused(p: Any, case: Case) -> None:
    """to_latent and to_data refuse wrong shapes; to_latent raises DomainError outside the support."""
    context = draw_context(p, case.batch, case)
    x = points(p, case)
    raises(ShapeError, lambda: p.to_latent(torch.ones_like(x, dtype=torch.int64), context), "to_latent of int64")
    if p.domain.trivial:
        return
    outside = points_outside(p.domain, x, case)
    if outside is not None:
        one = draw_context(p, (), case)
        raises(DomainError, lambda: p.to_latent(outside, one), "to_latent outside the support")


def plane(p: Any) -> bool:
    """A flow of one or two numbers from a base on all of R^n."""
    return exact_flow(p) and not isinstance(p, Conditioned) and p.event_shape == p.base.event_shape and p.event_shape in ((1,), (2,)) and p.base.domain.trivial


@register(DISTRIBUTION, applies=plane)
def flow_integrates_to_one(p: Any, case: Case) -> None:
    """In one and two dimensions the flow's density integrates to one (2e-3) over the image of latent space."""
    context = fixed(p, case)

    def there(t: Tensor) -> Tensor:
        return p.to_data(torch.sinh(t), context)  # reaches far enough for bases with heavy tails

    with torch.no_grad():
        total = mapped_mass(there, lambda x: p.log_prob(x, context), event_of(p)[0], reach=4.5)
    expect(abs(total - 1) <= NEAR, f"the density integrates to {total:.6f}")
