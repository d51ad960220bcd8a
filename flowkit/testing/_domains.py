"""Checks of domains and networks: small suites for what maps are made of."""

from __future__ import annotations

import copy
from typing import Any

import torch

from flowkit.core.build import build, describe
from flowkit.core.errors import DomainError
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, scale_of
from flowkit.testing._draws import concrete, draw, points_outside
from flowkit.testing._mass import onto
from flowkit.testing._suite import register
from flowkit.testing._suites import DOMAIN, NET
from flowkit.testing._transform_state import plain_tensors


@register(DOMAIN)
def membership(domain: Any, case: Case) -> None:
    """The safe point is inside for any batch, NaN never; membership has the batch shape; split replaces what is outside."""
    event = concrete(domain.event_shape)
    for batch in ((), (3,), (2, 3), (0,)):
        x = draw(domain, batch, event, case)
        expect(tuple(domain.contains(x).shape) == batch and bool(domain.contains(x).all()), f"drawn points of batch {batch} are not inside")
        safe = domain.safe_point(x)
        expect(safe.shape == x.shape and bool(domain.contains(safe).all()), f"safe_point of batch {batch} is not inside")
    x = draw(domain, (4,), event, case)
    outside = points_outside(domain, x, case)
    points = x if outside is None else torch.cat([x, outside])
    inside, safe = domain.split(points)
    expect(bool((inside == (torch.arange(len(points)) < 4)).all()), f"split flags {inside.tolist()}")
    close(safe[:4], x, 0.0, "split of points inside")
    expect(bool(domain.contains(safe).all()), "split leaves a point outside")
    points[0] = torch.nan
    expect(not bool(domain.contains(points)[0]), "NaN is inside")
    finite(domain.split(points)[1], "split of NaN")


@register(DOMAIN)
def boundary_tolerance(domain: Any, case: Case) -> None:
    """A point just beyond the boundary is outside, and inside within a larger tol; tol never takes points away."""
    x = draw(domain, (4,), concrete(domain.event_shape), case)
    expect(bool(domain.contains(x, tol=1e-9).all()), "contains(x, tol) refuses points that contains(x) accepts")
    outside = points_outside(domain, x, case)
    if outside is None:
        return
    inner, outer = domain.safe_point(outside), outside
    for _ in range(60):  # bisection for the boundary on the way out
        middle = (inner + outer) / 2
        within = domain.contains(middle).reshape(-1, *([1] * (middle.dim() - 1)))
        inner, outer = torch.where(within, middle, inner), torch.where(within, outer, middle)
    way = outside - domain.safe_point(outside)
    beyond = outer + 1e-9 * way
    expect(not bool(domain.contains(beyond).any()), "a point beyond the boundary is inside")
    reach = 1e-6 * domain.scale * float(way.flatten(1).norm(dim=1).max())
    expect(bool(domain.contains(beyond, tol=reach).all()), "a point beyond the boundary by less than tol is not inside within tol")


@register(DOMAIN)
def uniform_inside(domain: Any, case: Case) -> None:
    """uniform draws lie inside, follow their generator, and fill the set."""
    try:
        x = domain.uniform(2000, case.generator())
    except DomainError:
        return
    expect(tuple(x.shape) == (2000, *concrete(domain.event_shape)), f"uniform has shape {tuple(x.shape)}")
    expect(bool(domain.contains(x, tol=1e-6 * domain.scale).all()), "a uniform draw lies outside")
    close(domain.uniform(2000, case.generator()), x, 0.0, "uniform from equal generators")
    expect(x.dtype == torch.float64, f"a float64 domain draws {x.dtype}")


@register(DOMAIN, applies=lambda domain: not domain.trivial and onto(domain, domain.event_shape) is not None)
def support_map_onto(domain: Any, case: Case) -> None:
    """support_map takes R^n into the set and every point of the set back; its codomain is the set."""
    g: Any = onto(domain, domain.event_shape)
    g = g.double()
    event = concrete(domain.event_shape)
    z = 1.5 * torch.randn((200, *(concrete(g.in_shape))), generator=case.generator(), dtype=torch.float64)
    x, _ = g(z)
    expect(bool(domain.contains(x, tol=1e-12 * domain.scale).all()), "support_map leaves the set")
    expect(tuple(x.shape[1:]) == event, f"support_map gives events {tuple(x.shape[1:])}")
    points = draw(domain, (200,), event, case)
    low, high = points.amin(0), points.amax(0)
    box = low + (high - low) * (1.2 * torch.rand((2000, *event), generator=case.generator(6), dtype=torch.float64) - 0.1)
    points = torch.cat([points, box[domain.contains(box)]])  # what the set claims and not only what it draws
    back, _ = g(g.inverse(points)[0])
    close(back, points, 1e-9 * scale_of(points), "support_map of its inverse")


@register(DOMAIN)
def domain_state(domain: Any, case: Case) -> None:
    """Constants are buffers, events of another dtype are followed, and build(describe(domain)) is the same set."""
    found = [path for module in domain.modules() for path in plain_tensors(module)]
    expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
    made: Any = build(describe(domain), type(domain)).double()
    event = concrete(domain.event_shape)
    around = 3 * torch.randn((20, *event), generator=case.generator(3), dtype=torch.float64)
    x = torch.cat([draw(domain, (20,), event, case), around])
    close(made.contains(x).double(), domain.contains(x).double(), 0.0, "membership after build(describe(domain))")
    single = copy.deepcopy(domain).float().safe_point(x.float())
    expect(single.dtype == torch.float32, f"safe_point of float32 events is {single.dtype}")


def plain_net(net: Any) -> bool:
    """Networks of a vector and an optional context, known by their declared sizes."""
    return hasattr(net, "in_features") and hasattr(net, "out_features")


def _net_inputs(net: Any, case: Case, batch: tuple[int, ...]) -> tuple[Any, Any]:
    x = torch.randn((*batch, net.in_features), generator=case.generator(), dtype=case.dtype)
    size = getattr(net, "context_features", 0) or 0
    return x, torch.randn((*batch, size), generator=case.generator(1), dtype=case.dtype) if size else None


@register(NET, applies=plain_net)
def net_output(net: Any, case: Case) -> None:
    """Output of the declared size for any batch; every parameter gets a gradient; rows independent; dtype followed."""
    expect(isinstance(net.in_features, int) and isinstance(net.out_features, int), f"sizes are {net.in_features!r} and {net.out_features!r}, not ints")
    for batch in ((), (3,), (2, 3), (0,)):
        out = net(*_net_inputs(net, case, batch))
        expect(tuple(out.shape) == (*batch, net.out_features), f"batch {batch}: output has shape {tuple(out.shape)}")
        expect(out.dtype == torch.float64, f"float64 in, {out.dtype} out")
    x, context = _net_inputs(net, case, (40,))
    out = net(x, context)
    single = net(x[0], None if context is None else context[0])
    close(single, out[0], 1e-12 * scale_of(out[0]), "row 0 alone")
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(out.square().sum(), list(parameters.values()), allow_unused=True)
    dead = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None or not bool((gradient != 0).any())]
    expect(not dead, f"no gradient reaches {', '.join(dead)}")
    if context is not None:
        expect(bool((net(x, context + 1) != out).any()), "the context is not used")


@register(NET)
def net_state(net: Any, case: Case) -> None:
    """Constants are buffers; build(describe(net)) has the same parameters, and with the state loaded the same output."""
    found = [path for module in net.modules() for path in plain_tensors(module)]
    expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
    weights: dict[str, torch.Tensor] = {}
    made: Any = build(describe(net, weights), type(net), weights=weights).double().eval()
    try:
        made.load_state_dict(net.state_dict())
    except RuntimeError as error:
        raise AssertionError(f"build(describe(net)) has other parameters: {error}") from error
    if plain_net(net):
        x, context = _net_inputs(net, case, (3,))
        close(made(x, context), net(x, context), 0.0, "after build(describe(net))")
