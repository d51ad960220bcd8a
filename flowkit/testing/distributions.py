"""The conformance suite of distributions; flows answer the checks of ``_flows`` as well."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ShapeError
from flowkit.core.flow import Flow
from flowkit.testing import _distribution_state, _flows  # noqa: F401  these files fill the suite
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, raises, scale_of
from flowkit.testing._density import distribution_function, integrable, measured_mass, stein
from flowkit.testing._distribution_inputs import conditional, density_of, drawn, event_of, exact, fixed, points, tensor_density
from flowkit.testing._draws import draw_context, map_context, points_outside
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import DISTRIBUTION
from flowkit.testing._transform_gradients import directional


def check_distribution(instance: Distribution, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that applies to a distribution or a flow, each on a perturbed float64 copy.

    Args:
        instance: the distribution to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return DISTRIBUTION.run_all(instance, only, case)


def samples(p: Any) -> bool:
    return getattr(p, "can_sample", True)


@register(DISTRIBUTION, applies=tensor_density)
def log_prob_shapes(p: Any, case: Case) -> None:
    """log_prob has the batch shape for (), (3,), (2, 3) and (0,), and broadcasts batches against contexts."""
    for batch in ((), (1,), (3,), (2, 3), (0,)):
        x, context = points(p, case, batch), draw_context(p, batch, case)
        value = p.log_prob(x, context)
        expect(tuple(value.shape) == batch, f"log_prob of batch {batch} has shape {tuple(value.shape)}")
        expect(value.dtype == torch.float64, f"log_prob of float64 events is {value.dtype}")
        finite(value, f"log_prob of batch {batch}")
    if conditional(p):
        context = draw_context(p, (5, 1), case)
        value = p.log_prob(points(p, case, (3,)), context)
        expect(tuple(value.shape) == (5, 3), f"log_prob of batch (3,) with context batch (5, 1) has shape {tuple(value.shape)}")


@register(DISTRIBUTION, applies=lambda p: tensor_density(p) and not drawn(p))
def log_prob_rows_independent(p: Any, case: Case) -> None:
    """A row's log_prob does not depend on the other rows."""
    x, context = points(p, case, (4,)), draw_context(p, (4,), case)
    value = p.log_prob(x, context)
    single = torch.stack([p.log_prob(x[i], map_context(context, lambda part, i=i: part[i])) for i in range(4)])
    close(single, value, (1e-10 if exact(p) else 1e-6) * scale_of(value), "log_prob row by row")


@register(DISTRIBUTION)
def inputs_checked(p: Any, case: Case) -> None:
    """A wrong trailing shape, an integer dtype, a missing or an undeclared context raise ShapeError."""
    x, context = points(p, case), draw_context(p, case.batch, case)
    raises(ShapeError, lambda: p.log_prob(torch.ones_like(x, dtype=torch.int64), context), "log_prob of int64")
    if event_of(p) and p.event_shape[-1] is not None:
        wide = torch.cat([x, x[..., :1]], dim=-1)
        raises(ShapeError, lambda: p.log_prob(wide, context), f"log_prob of trailing shape {tuple(wide.shape[1:])}")
    if conditional(p):
        raises(ShapeError, lambda: p.log_prob(x), "log_prob without its context")
        if samples(p):
            raises(ShapeError, lambda: p.sample(3), "sample without its context")
    elif not _fixed_context(p):
        raises(ShapeError, lambda: p.log_prob(x, torch.zeros(2)), "log_prob with a context it does not declare")


def _fixed_context(p: Any) -> bool:
    """A conditioned flow refuses a context as a mistake of construction, not of shape."""
    return hasattr(p, "flow") and isinstance(p.flow, Flow)


@register(DISTRIBUTION, applies=lambda p: conditional(p) and tensor_density(p))
def context_used(p: Any, case: Case) -> None:
    """Changing the context changes the density."""
    x = points(p, case)
    first, second = (p.log_prob(x, draw_context(p, case.batch, case, offset)) for offset in (50, 60))
    expect(bool((first != second).any()), "log_prob ignores the context")


@register(DISTRIBUTION, applies=samples)
def sample_shapes(p: Any, case: Case) -> None:
    """sample(shape, context) has shape (*shape, *Bc, *event), lies in the support and has a finite log_prob."""
    event, context_batches = event_of(p), ((), (2,)) if conditional(p) else ((),)
    for shape, wanted in (((), ()), (5, (5,)), ((2, 3), (2, 3)), ((0,), (0,))):
        for batch in context_batches:
            context = draw_context(p, batch, case)
            x = p.sample(shape, context, case.generator())
            got = tuple(x.shape)
            fits = got[: len(wanted) + len(batch)] == (*wanted, *batch) and len(got) == len(wanted) + len(batch) + len(p.event_shape)
            expect(fits and (None in p.event_shape or got == (*wanted, *batch, *event)), f"sample({shape}) with context batch {batch} has shape {got}")
            expect(not x.requires_grad, "sample keeps a graph; rsample does that")
            expect(x.dtype == torch.float64, f"a float64 distribution samples {x.dtype}")
            if tensor_density(p):
                expect(bool(p.domain.contains(x, tol=1e-9 * p.domain.scale).all()), "a sample lies outside the support")
                finite(p.log_prob(x, context), "log_prob of samples")


@register(DISTRIBUTION, applies=samples)
def generator_used(p: Any, case: Case) -> None:
    """Sampling follows the generator given and leaves the global one alone; without one torch.manual_seed governs."""
    context = draw_context(p, (), case)
    state = torch.get_rng_state()
    first, second, third = (p.sample((4,), context, case.generator(offset)) for offset in (1, 1, 2))
    expect(torch.equal(state, torch.get_rng_state()), "sampling with a generator moves the global one")
    expect(torch.equal(first, second), "two samples from equal generators differ")
    expect(not torch.equal(first, third), "samples from different generators are equal")
    torch.default_generator.manual_seed(3)
    fourth = p.sample((4,), context)
    torch.default_generator.manual_seed(3)
    expect(torch.equal(fourth, p.sample((4,), context)), "torch.manual_seed does not govern sampling")


@register(DISTRIBUTION, applies=lambda p: samples(p) and getattr(p, "reparametrized", False))
def reparametrized_gradients(p: Any, case: Case) -> None:
    """rsample is the same draw as sample and carries gradients to the parameters."""
    context = draw_context(p, (), case)
    drawn = p.rsample((6,), context, case.generator(1))
    close(drawn, p.sample((6,), context, case.generator(1)), 1e-12, "rsample against sample")
    parameters = [parameter for parameter in p.parameters() if parameter.requires_grad]
    if parameters:
        gradients = torch.autograd.grad(drawn.sum(), parameters, allow_unused=True)
        expect(any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients), "rsample carries no gradient to any parameter")


def learned_samples(p: Any) -> bool:
    return exact(p) and samples(p) and not isinstance(p, Flow) and getattr(p, "reparametrized", False) and any(each.requires_grad for each in p.parameters())


@register(DISTRIBUTION, applies=learned_samples)
def reparametrized_gradient_unbiased(p: Any, case: Case) -> None:
    """d/dtheta E[phi] through rsample equals E[phi d log p / d theta], within five standard errors over 40 batches of 250."""
    context, parameters = fixed(p, case), [parameter for parameter in p.parameters() if parameter.requires_grad]
    centre = p.sample((500,), context, case.generator()).median(0).values
    differences = []
    for batch in range(40):
        drawn = p.rsample((250,), context, case.generator(300 + batch))
        phi = torch.sin(drawn - centre).flatten(1).sum(1)
        path = torch.autograd.grad(phi.mean(), parameters, allow_unused=True, materialize_grads=True)
        log_prob = p.log_prob(drawn.detach(), context)
        by_score = torch.autograd.grad(((phi - phi.mean()).detach() * log_prob).sum() / 249, parameters, allow_unused=True, materialize_grads=True)
        differences.append(torch.cat([(one - other).flatten() for one, other in zip(path, by_score, strict=True)]))
    found = torch.stack(differences)
    error = found.std(0) / 40**0.5
    close(found.mean(0), torch.zeros_like(error), 5 * error + 1e-9, "gradient through rsample against the score-function gradient")


@register(DISTRIBUTION, applies=lambda p: tensor_density(p) and not p.domain.trivial)
def outside_support(p: Any, case: Case) -> None:
    """Outside the support log_prob is -inf and gradients stay finite; at the boundary it is not NaN."""
    x, context = points(p, case), draw_context(p, (), case)
    outside = points_outside(p.domain, x, case)
    if outside is None:
        return
    both = torch.cat([x, outside]).requires_grad_()
    value = p.log_prob(both, context)
    expect(bool((value[len(x) :] == -torch.inf).all()), "log_prob outside the support is not -inf")
    close(value[: len(x)], p.log_prob(x, context), 1e-10 * scale_of(value[: len(x)]), "log_prob next to rows outside the support")
    wanted = [both, *(parameter for parameter in p.parameters() if parameter.requires_grad)]
    for total in (value[: len(x)].sum(), value.clamp(min=-1e6).sum()) if value.requires_grad else ():
        for gradient in torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True):
            if gradient is not None:
                finite(gradient, "gradient of log_prob with rows outside the support")
    for edge in _boundary(p, x):
        expect(not bool(torch.isnan(p.log_prob(edge, context)).any()), "log_prob at the boundary of the support is NaN")


def _boundary(p: Any, x: Tensor) -> list[Tensor]:
    low, high = getattr(p.domain, "low_buffer", None), getattr(p.domain, "high_buffer", None)
    if low is None or high is None:
        return []
    return [torch.where(torch.isfinite(end), end.to(x), x) for end in (low, high)]


@register(DISTRIBUTION, applies=tensor_density)
def not_finite_input(p: Any, case: Case) -> None:
    """Events with NaN do not raise and never get a finite log_prob that looks valid."""
    x, context = points(p, case), draw_context(p, (), case)
    if x[0].numel() == 0:
        return
    x[0] = torch.nan
    value = p.log_prob(x, context)
    expect(not bool(torch.isfinite(value[0])), "log_prob of NaN is finite")
    finite(value[1:], "log_prob next to a row with NaN")


@register(DISTRIBUTION, applies=tensor_density)
def score_is_gradient(p: Any, case: Case) -> None:
    """score equals the autograd gradient and finite differences of log_prob."""
    x, context = points(p, case), draw_context(p, case.batch, case)
    point = x.clone().requires_grad_()
    torch.default_generator.manual_seed(0)  # a bound is drawn
    value, wanted = p.log_prob(point, context), torch.zeros_like(x)
    if value.requires_grad:
        (wanted,) = torch.autograd.grad(value.sum(), point, materialize_grads=True)
    torch.default_generator.manual_seed(0)
    close(p.score(x, context), wanted, 1e-8 * scale_of(wanted), "score against autograd")
    if exact(p) and value.requires_grad and not hasattr(p.domain, "tangent_basis"):
        directional(lambda at: p.log_prob(at[0], context).sum(), [x], case, "log_prob", step=1e-7, allowed=1e-3)


@register(DISTRIBUTION, applies=lambda p: exact(p) and samples(p) and not isinstance(p, Flow) and integrable(p.domain, p.event_shape))
def integrates_to_one(p: Any, case: Case) -> None:
    """In one and two dimensions the density integrates to one (2e-3), heavy tails included."""
    context = fixed(p, case)
    near = p.sample((2000,), context, case.generator())
    total = measured_mass(density_of(p, context), p.domain, event_of(p), near)
    expect(abs(total - 1) <= 2e-3, f"the density integrates to {total:.6f}")


@register(DISTRIBUTION, applies=lambda p: exact(p) and samples(p))
def samples_follow_density(p: Any, case: Case) -> None:
    """Samples agree with the density: Stein's identity within five standard errors, in one dimension also Kolmogorov's distance."""
    context = fixed(p, case)
    drawn = p.sample((2000,), context, case.generator()).detach()
    stein(lambda x: p.score(x, context), density_of(p, context), drawn, p.domain, event_of(p))
    if integrable(p.domain, p.event_shape) and event_of(p) == (1,):
        distribution_function(density_of(p, context), drawn, p.domain, event_of(p))


@register(DISTRIBUTION, applies=lambda p: tensor_density(p) and any(parameter.requires_grad for parameter in p.parameters()))
def parameter_gradients(p: Any, case: Case) -> None:
    """Every trainable parameter gets a gradient from log_prob, finite and not zero."""
    named = [(name, parameter) for name, parameter in p.named_parameters() if parameter.requires_grad]
    batch = (32,)
    x = p.sample(batch, fixed(p, case), case.generator()) if samples(p) else points(p, case, batch)
    value = p.log_prob(x, draw_context(p, batch, case))
    gradients = torch.autograd.grad(value.clamp(min=-1e6).square().sum(), [parameter for _, parameter in named], allow_unused=True)
    dead = [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None or not bool((gradient != 0).any())]
    expect(not dead, f"no gradient from log_prob reaches {', '.join(dead)}")
    for (name, _), gradient in zip(named, gradients, strict=True):
        finite(gradient, f"gradient of {name}")


@register(DISTRIBUTION, applies=tensor_density)
def copies_agree(p: Any, case: Case) -> None:
    """A deep copy has the same density, and float32 follows the input."""
    x, context = points(p, case), draw_context(p, case.batch, case)
    torch.default_generator.manual_seed(0)  # a bound is drawn
    value = p.log_prob(x, context)
    torch.default_generator.manual_seed(0)
    close(copy.deepcopy(p).log_prob(x, context), value, 0.0, "log_prob after deepcopy")
    single = p.float().log_prob(x.float(), map_context(context, lambda part: part.float() if part.is_floating_point() else part))
    expect(single.dtype == torch.float32, f"log_prob of float32 events is {single.dtype}")
    usable = torch.isfinite(value) & torch.isfinite(single) & (not drawn(p))  # the same seed draws other numbers in float32
    close(single[usable], value[usable], 5e-3 * scale_of(value[usable]), "log_prob in float32 against float64")
