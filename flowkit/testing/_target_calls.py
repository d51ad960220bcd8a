"""Checks of a target's state, and of compiled and vectorised calls."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build, describe
from flowkit.testing._case import Case, rebuilt, traits_of
from flowkit.testing._compare import close, expect, scale_of
from flowkit.testing._draws import points_outside
from flowkit.testing._suite import register
from flowkit.testing._suites import TARGET
from flowkit.testing._target_inputs import points
from flowkit.testing._transform_state import describable, plain_tensors


@register(TARGET)
def target_state(target: Any, case: Case) -> None:
    """Constants are buffers; a rebuilt and a copied target agree; outside the domain values are finite or -inf, never NaN."""
    x = points(target, case)
    value = target.log_density(x)
    found = [path for module in target.modules() for path in plain_tensors(module)]
    expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
    made = rebuilt(target)
    made.load_state_dict(target.state_dict())
    close(made.log_density(x), value, 1e-12 * scale_of(value), "log_density of a target built from the same arguments")
    close(copy.deepcopy(target).log_density(x), value, 0.0, "log_density after deepcopy")
    outside = None if target.domain.trivial else points_outside(target.domain, x, case)
    if outside is not None:
        expect(not bool(torch.isnan(target.log_density(outside)).any()), "log_density is NaN outside the domain")


@register(TARGET, applies=describable)
def describe_build(target: Any, case: Case) -> None:
    """build(target.describe()) is of the same class and describes itself the same way."""
    weights: dict[str, Tensor] = {}
    written = describe(target, weights)
    if not weights:
        expect(target.describe() == written, f"describe() is {target.describe()}, not {written}")
    made = build(written, type(target), weights=weights)
    expect(type(made) is type(target), f"build(target.describe()) is a {type(made).__name__}")
    expect(describe(made, {}) == written, f"build(target.describe()) describes itself as {describe(made, {})}, not {written}")


@register(TARGET, applies=lambda target: traits_of(target).compiles, costly=True)
def compiled(target: Any, case: Case) -> None:
    """torch.compile(fullgraph=True, backend="aot_eager") of log_density gives the same values and gradients."""
    x = points(target, case, (3,)).requires_grad_()
    wanted = target.log_density(x)
    (slope,) = torch.autograd.grad(wanted.sum(), x)
    torch._dynamo.reset()
    try:
        got = torch.compile(target.log_density, fullgraph=True, backend="aot_eager")(x)
        (traced,) = torch.autograd.grad(got.sum(), x)
    finally:
        torch._dynamo.reset()
    close(got, wanted, 1e-10 * scale_of(wanted), "compiled log_density")
    close(traced, slope, 1e-8 * scale_of(slope), "gradient of the compiled log_density")


@register(TARGET, applies=lambda target: traits_of(target).vmaps)
def vmapped(target: Any, case: Case) -> None:
    """torch.func.vmap of log_density over a batch axis equals the batched call; so does vmap of its gradient."""
    x = points(target, case, (3, 2))
    value = target.log_density(x)
    close(torch.func.vmap(target.log_density)(x), value, 1e-11 * scale_of(value), "vmap of log_density")
    slope = target.score(x[0])
    gradient = torch.func.vmap(torch.func.grad(target.log_density))(x[0])
    close(gradient, slope, 1e-9 * scale_of(slope), "vmap of the gradient of log_density")
