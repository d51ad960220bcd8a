"""The conformance suite of unnormalised densities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.target import Target
from flowkit.testing._case import Case, rebuilt
from flowkit.testing._compare import close, expect, finite, scale_of
from flowkit.testing._density import integrable, measured_mass, stein
from flowkit.testing._draws import concrete, draw, points_outside
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import TARGET
from flowkit.testing._transform_gradients import directional
from flowkit.testing._transform_state import plain_tensors


def check_target(instance: Target, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that applies to a target, on a float64 copy.

    Args:
        instance: the target to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return TARGET.run_all(instance, only, case)


def points(target: Any, case: Case, batch: tuple[int, ...] | None = None) -> Tensor:
    return draw(target.domain, case.batch if batch is None else batch, concrete(target.event_shape), case)


@register(TARGET)
def density_shapes(target: Any, case: Case) -> None:
    """log_density has the batch shape for any batch, the dtype of its input, and rows do not see each other."""
    for batch in ((), (3,), (2, 3), (0,)):
        x = points(target, case, batch)
        value = target.log_density(x)
        expect(tuple(value.shape) == batch, f"log_density of batch {batch} has shape {tuple(value.shape)}")
        expect(value.dtype == torch.float64, f"log_density of float64 events is {value.dtype}")
    x = points(target, case, (4,))
    value = target.log_density(x)
    close(torch.stack([target.log_density(row) for row in x]), value, 1e-10 * scale_of(value), "log_density row by row")
    single = target.float().log_density(x.float())
    expect(single.dtype == torch.float32, f"log_density of float32 events is {single.dtype}")


@register(TARGET)
def score_is_gradient(target: Any, case: Case) -> None:
    """score is finite and equals the autograd gradient and finite differences of log_density."""
    x = points(target, case)
    score = target.score(x)
    finite(score, "score")
    point = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(target.log_density(point).sum(), point)
    close(score, wanted, 1e-8 * scale_of(wanted), "score against autograd")
    directional(lambda at: target.log_density(at[0]).sum(), [x], case, "log_density")


def _orthogonal(dim: int, case: Case) -> Tensor:
    return torch.linalg.qr(torch.randn((dim, dim), generator=case.generator(8), dtype=torch.float64)).Q


def _changes(x: Tensor, event_rank: int, case: Case) -> dict[str, Callable[[], Tensor]]:
    """Symmetries by name; particles are event axis 0 and space the last axis of events of rank 2."""
    particles, space = (x.shape[-2], x.shape[-1]) if event_rank == 2 else (x.shape[-1], 1)
    shift = torch.randn(space, generator=case.generator(9), dtype=x.dtype)

    def rotated() -> Tensor:
        matrix = _orthogonal(space, case)
        matrix[:, 0] *= torch.linalg.det(matrix).sign()
        return x @ matrix.mT

    return {
        "permutation": lambda: x.index_select(-event_rank, torch.randperm(particles, generator=case.generator(7))),
        "translation": lambda: x + shift,
        "rotation": rotated,
        "reflection": lambda: x * torch.cat([-torch.ones(1, dtype=x.dtype), torch.ones(space - 1, dtype=x.dtype)]),
        "sign": lambda: -x,
    }


@register(TARGET, applies=lambda target: bool(target.invariances))
def invariances_hold(target: Any, case: Case) -> None:
    """log_density does not change under a declared symmetry; a target with its own coordinates offers ``symmetry(name, x, generator)``."""
    x = points(target, case)
    value = target.log_density(x)
    known = _changes(x, len(target.event_shape), case)
    for name in sorted(target.invariances):
        if hasattr(target, "symmetry"):
            changed = target.symmetry(name, x, case.generator(7))
        else:
            expect(name in known, f"invariance '{name}' is not one of {sorted(known)}, and the target offers no symmetry()")
            changed = known[name]()
        close(target.log_density(changed), value, 1e-8 * scale_of(value), f"log_density after {name}")


@register(TARGET, applies=lambda target: target.log_normalizer is not None and integrable(target.domain, target.event_shape))
def normalizer(target: Any, case: Case) -> None:
    """In one and two dimensions exp(log_density) integrates to exp(log_normalizer) (5e-3)."""
    shift = float(target.log_normalizer)
    total = measured_mass(lambda x: target.log_density(x) - shift, target.domain, target.event_shape, _some(target, case))
    expect(abs(total - 1) <= 5e-3, f"exp(log_density - log_normalizer) integrates to {total:.5f}")


def _some(target: Any, case: Case) -> Tensor:
    drawn = target.sample((2000,), generator=case.generator()) if target.can_sample else None
    return points(target, case, (2000,)) if drawn is None else drawn.to(torch.float64)


@register(TARGET, applies=lambda target: target.can_sample)
def samples(target: Any, case: Case) -> None:
    """Samples have the asked shape, lie inside, follow the generator and agree with the score (Stein's identity)."""
    event = concrete(target.event_shape)
    for shape, wanted in ((4, (4,)), ((2, 3), (2, 3)), ((), ())):
        got = tuple(target.sample(shape, generator=case.generator()).shape)
        expect(got == (*wanted, *event), f"sample({shape}) has shape {got}")
    state = torch.get_rng_state()
    first, second = (target.sample((2000,), generator=case.generator(1)).to(torch.float64) for _ in range(2))
    expect(torch.equal(first, second), "two draws from equal generators differ")
    expect(torch.equal(state, torch.get_rng_state()), "sampling with a generator moves the global one")
    expect(bool(target.domain.contains(first, tol=1e-6).all()), "a sample lies outside the domain")
    stein(target.score, target.log_density, first, target.domain, target.event_shape)


@register(TARGET)
def target_state(target: Any, case: Case) -> None:
    """Constants are buffers; a rebuilt and a copied target agree; far outside values are finite or -inf, never NaN."""
    x = points(target, case)
    value = target.log_density(x)
    found = [path for module in target.modules() for path in plain_tensors(module)]
    expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
    made = rebuilt(target)
    made.load_state_dict(target.state_dict())
    close(made.log_density(x), value, 1e-12 * scale_of(value), "log_density after build(describe(target))")
    close(copy.deepcopy(target).log_density(x), value, 0.0, "log_density after deepcopy")
    outside = points_outside(target.domain, x, case) if not target.domain.trivial else 1e3 * x
    if outside is not None:
        expect(not bool(torch.isnan(target.log_density(outside)).any()), "log_density is NaN far out or outside the domain")
