"""Checks of values: shapes, round trips, volume changes, independence of rows."""

from __future__ import annotations

from typing import Any

import torch

from flowkit.testing._calls import Side, call, has_inverse, jacobian, latents, log_abs_det, sides, tolerance
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, same_call, scale_of
from flowkit.testing._draws import concrete, draw_context, join_context, map_context
from flowkit.testing._mass import NEAR, mapped_mass, onto
from flowkit.testing._suite import register
from flowkit.testing._suites import BIJECTOR, TRANSFORMS

EPS64, EPS32 = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps


def invertible(f: Any) -> bool:
    return has_inverse(f)


def exact(f: Any) -> bool:
    return f.traits.log_det == "exact"


def flat_domain(f: Any) -> bool:
    return f.domain.trivial and f.codomain.trivial


@register(*TRANSFORMS)
def shapes(f: Any, case: Case) -> None:
    """Batches (), (1,), (3,), (2, 3) and (0,) come back with events of the declared shape and a log_det of the batch shape."""
    for batch in ((), (1,), (3,), (2, 3), (0,)):
        for side in sides(f, case, batch):
            value, log_det = side(f)
            declared = f.in_shape if side.inverse else f.out_shape
            expect(tuple(value.shape[: len(batch)]) == batch, f"{side.name} of batch {batch}: value has shape {tuple(value.shape)}")
            got = tuple(value.shape[len(batch) :])
            fits = len(got) == len(declared) and all(want is None or want == size for want, size in zip(declared, got, strict=True))
            expect(fits, f"{side.name} of batch {batch}: event {got}, declared {declared}")
            expect(tuple(log_det.shape) == batch, f"{side.name} of batch {batch}: log_det has shape {tuple(log_det.shape)}")
            finite(value, f"{side.name} of batch {batch}, value")
            finite(log_det, f"{side.name} of batch {batch}, log_det")


@register(BIJECTOR, applies=invertible, drawn=True)
def round_trip(f: Any, case: Case) -> None:
    """f^-1(f(z)) = z and f(f^-1(x)) = x, to 1e-9 in float64 or the declared tolerance."""
    allowed = tolerance(f, 1e-9)
    for side in sides(f, case):
        there, _ = side(f)
        back, _ = call(f, there, side.context, inverse=not side.inverse)
        close(back, side.value, allowed * scale_of(side.value), f"{side.name} and back")


@register(BIJECTOR, applies=invertible, drawn=True)
def float32_backward_error(f: Any, case: Case) -> None:
    """In float32 |f(f^-1(x)) - x| <= scale max(1e-5, 16 eps32 f')."""
    single = case.but(dtype=torch.float32)
    f = f.float()
    side = sides(f, single)[1]
    there, _ = side(f)
    back, _ = call(f, there, side.context)
    slope = jacobian(f, Side(False, there, side.context)).abs().sum(-1).reshape(back.shape)
    floor = max(1e-5, f.traits.tolerance.get(torch.float32, 0.0))
    scale = scale_of(side.value).clamp(min=float(scale_of(there).max()) if there.numel() else 1.0)
    close(back, side.value, scale * (16 * EPS32 * slope).clamp(min=floor), "forward(inverse(x)) in float32")


@register(BIJECTOR, applies=lambda f: has_inverse(f) and flat_domain(f))
def far_round_trip(f: Any, case: Case) -> None:
    """Out to |x| = 1e4 the backward error of inverse then forward is at rounding level: 1e-9 |x| + 64 eps |f'| |z|."""
    allowed = tolerance(f, 1e-9)
    for radius in (10.0, 100.0, 1e3, 1e4):
        side = sides(f, case)[1]
        far = side.value / side.value.abs().amax().clamp(min=1e-3) * radius
        there, _ = side(f, far)
        finite(there, f"inverse at |x| = {radius:g}")
        back, _ = call(f, there, side.context)
        slope = jacobian(f, Side(False, there, side.context)).abs().sum(-1).reshape(back.shape)
        if exact(f):
            far_log_dets(f, side, far, there, radius)
        close(back, far, allowed * radius + 64 * EPS64 * slope * there.abs().amax().clamp(min=radius), f"forward(inverse(x)) at |x| = {radius:g}")


def far_log_dets(f: Any, side: Side, far: Any, there: Any, radius: float) -> None:
    """Both directions' log_dets agree far out, and with autograd where its determinant is still a reference."""
    got = side(f, far)[1]
    close(call(f, there, side.context)[1], -got, 1e-6 * scale_of(got), f"log_dets of both directions at |x| = {radius:g}")
    wanted = log_abs_det(f, Side(True, far, side.context))
    if bool((wanted.abs() < 30).all()):
        close(got, wanted, 1e-6 * scale_of(wanted), f"inverse, log_det against autograd at |x| = {radius:g}")


@register(BIJECTOR, applies=exact, drawn=True)
def log_det_jacobian(f: Any, case: Case) -> None:
    """log_det equals log|det| of the autograd Jacobian in both directions, to 1e-8 max(1, |log_det|)."""
    allowed = max(1e-8, 10 * tolerance(f, 0.0))
    for side in sides(f, case):
        wanted = log_abs_det(f, side)
        close(side(f)[1], wanted, allowed * scale_of(wanted), f"{side.name}, log_det against autograd")


@register(BIJECTOR, applies=lambda f: f.traits.log_det == "estimate")
def log_det_unbiased(f: Any, case: Case) -> None:
    """The mean of 400 estimates of log_det lies within five standard errors of log|det| of the autograd Jacobian."""
    for side in sides(f, case, (2,)):
        method = f.inverse if side.inverse else f
        with torch.no_grad():
            draws = torch.stack([method(side.value, side.context, generator=case.generator(i))[1] for i in range(400)])
        close(draws.mean(0), log_abs_det(f, side), 5 * draws.std(0) / 20 + 1e-8, f"{side.name}, mean log_det estimate")


@register(BIJECTOR, applies=lambda f: has_inverse(f) and exact(f), drawn=True)
def inverse_log_det(f: Any, case: Case) -> None:
    """inverse's log_det is minus forward's at the matched point."""
    allowed = max(1e-9, 10 * tolerance(f, 0.0))
    for side in sides(f, case):
        there, log_det = side(f)
        _, back = call(f, there, side.context, inverse=not side.inverse)
        close(back, -log_det, allowed * scale_of(log_det), f"log_det after {side.name} and back")


@register(*TRANSFORMS, drawn=True)
def rows_independent(f: Any, case: Case) -> None:
    """A row's result does not move when the other rows change, nor with the shape of the batch."""
    allowed = max(1e-12, tolerance(f, 0.0))
    for side in sides(f, case, (4,)):
        value, log_det = side(f)
        elsewhere = sides(f, case.but(seed=case.seed + 1, spread=3 * case.spread), (4,))[int(side.inverse)]
        others = torch.cat([side.value[:1], elsewhere.value[1:]])
        mixed_context = join_context(map_context(side.context, lambda part: part[:1]), map_context(elsewhere.context, lambda part: part[1:]))
        changed, changed_log_det = side(f, others, mixed_context)
        same_call((changed[0], changed_log_det[0]), (value[0], log_det[0]), allowed, f"{side.name}, row 0 after the other rows changed")
        if f.traits.stochastic:
            continue
        grouped = side.value.reshape(2, 2, *side.value.shape[1:])
        context = map_context(side.context, lambda part: part.reshape(2, 2, *part.shape[1:]))
        pairs, pairs_log_det = side(f, grouped, context)
        again = (pairs.reshape(value.shape), pairs_log_det.reshape(log_det.shape))
        same_call(again, (value, log_det), allowed, f"{side.name}, batch (2, 2) against (4,)")


@register(BIJECTOR, applies=lambda f: f.traits.jacobian != "dense" or f.traits.volume_preserving)
def jacobian_structure(f: Any, case: Case) -> None:
    """The declared structure of the Jacobian holds: diagonal, triangular in some order, constant; volume preserving."""
    side = sides(f, case)[0]
    matrix = jacobian(f, side)
    kind = f.traits.jacobian
    off = matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1)) if matrix.shape[-1] == matrix.shape[-2] else matrix
    if kind == "diagonal":
        expect(float(off.abs().amax()) <= 1e-12, "traits.jacobian is 'diagonal' but other entries are not zero")
    if kind == "triangular":
        pattern = (off.abs().amax(0) > 1e-12).to(torch.float64)
        power = torch.linalg.matrix_power(pattern, pattern.shape[-1]) if pattern.numel() else pattern
        expect(float(power.sum()) == 0.0, "traits.jacobian is 'triangular' but the dependencies form a cycle")
    if kind == "constant":
        elsewhere = jacobian(f, Side(False, latents(f, case.but(seed=case.seed + 9)), side.context))
        close(matrix, elsewhere, 1e-10 * scale_of(matrix), "traits.jacobian is 'constant' but the Jacobian moves with the point")
    if f.traits.volume_preserving:
        for each in sides(f, case):
            expect(bool((each(f)[1] == 0).all()), f"traits.volume_preserving but log_det of {each.name} is not zero")
            close(log_abs_det(f, each), torch.zeros(case.batch, dtype=case.dtype), 1e-9, "traits.volume_preserving but the Jacobian's log|det| is not zero")


@register(BIJECTOR, applies=lambda f: exact(f) and has_inverse(f) and f.traits.score != "none")
def scores(f: Any, case: Case) -> None:
    """push_score and pull_score equal the gradient of the carried log-density; value and log_det are those of a call, in the same graph."""
    allowed = max(1e-8, 100 * tolerance(f, 0.0))
    for side in sides(f, case):
        there, _ = side(f)
        there = there.detach()
        carry = f.pull_score if side.inverse else f.push_score
        value, log_det, score = carry(side.value, -0.7 * side.value, side.context)
        point = there.clone().requires_grad_()
        back, log_det_back = call(f, point, side.context, inverse=not side.inverse)
        (wanted,) = torch.autograd.grad((-0.35 * back.square()).sum() + log_det_back.sum(), point)
        what = "pull_score" if side.inverse else "push_score"
        close(value, there, allowed * scale_of(there), f"{what}, value")
        close(log_det, -log_det_back.detach(), allowed * scale_of(log_det), f"{what}, log_det")
        close(score, wanted, allowed * scale_of(wanted), f"{what}, score")
        expect(not score.requires_grad, f"{what}: the score is not a constant")
        parameters = [p for p in f.parameters() if p.requires_grad]
        weights = torch.linspace(-1.0, 1.0, value.numel(), dtype=value.dtype).reshape(value.shape)
        entered = side.value.clone().requires_grad_()
        several = [carry(entered, -0.7 * side.value, side.context)[:2], call(f, entered, side.context, inverse=side.inverse)]
        losses = [(weights * out).sum() + volume.sum() for out, volume in several]
        ours, plain = (torch.autograd.grad(loss, [entered, *parameters], allow_unused=True, materialize_grads=True) for loss in losses)
        for one, other in zip(ours, plain, strict=True):
            close(one, other, allowed * scale_of(other), f"{what}, gradient of value and log_det")


def plane(f: Any) -> bool:
    return exact(f) and has_inverse(f) and f.in_shape == f.out_shape and f.in_shape in ((1,), (2,)) and onto(f.domain, f.in_shape) is not None


@register(BIJECTOR, applies=plane)
def mass(f: Any, case: Case) -> None:
    """In one and two dimensions the density pushed forward from a normal integrates to one (2e-3)."""
    into = onto(f.domain, f.in_shape)
    assert into is not None
    into = into.double()
    context = draw_context(f, (), case)

    def there(u: torch.Tensor) -> torch.Tensor:
        return call(f, into(u)[0], context)[0]

    def log_density(x: torch.Tensor) -> torch.Tensor:
        z, log_det = call(f, x, context, inverse=True)
        u, log_det_into = into.inverse(z)
        return -0.5 * (u.square() + torch.log(torch.tensor(2 * torch.pi, dtype=u.dtype))).sum(-1) + log_det_into + log_det

    with torch.no_grad():
        total = mapped_mass(there, log_density, concrete(f.in_shape)[0])
    expect(abs(total - 1.0) <= NEAR, f"the pushed density integrates to {total:.6f}")
