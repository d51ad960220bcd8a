"""Checks of a distribution's state: buffers, saved state, purity."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build, describe
from flowkit.testing._case import Case, perturb, reloaded
from flowkit.testing._compare import close, expect, scale_of
from flowkit.testing._distribution_inputs import points, tensor_density
from flowkit.testing._draws import draw_context
from flowkit.testing._suite import register
from flowkit.testing._suites import DISTRIBUTION
from flowkit.testing._transform_state import describable, importable, plain_tensors


def outcome(p: Any, case: Case) -> Tensor:
    """What copies must reproduce: the density where it is a tensor, else samples."""
    context = draw_context(p, case.batch, case)
    with torch.no_grad():
        if tensor_density(p):
            return p.log_prob(points(p, case), context)
        return p.sample((), context, case.generator()) if context is not None else p.sample(case.batch, None, case.generator())


@register(DISTRIBUTION)
def constants_are_buffers(p: Any, case: Case) -> None:
    """No tensor is a plain attribute, before or after a call, unless it is a constructor argument."""
    for moment in ("as built", "after a call"):
        found = [f"{type(module).__name__}.{path}" for module in p.modules() for path in plain_tensors(module)]
        expect(not found, f"{moment}: plain tensor attributes {', '.join(found)}; register them as buffers")
        outcome(p, case)


@register(DISTRIBUTION)
def pure(p: Any, case: Case) -> None:
    """Two evaluations agree and change no state, in training mode too."""
    for training in (False, True):
        p.train(training)
        before = copy.deepcopy(p.state_dict())
        torch.default_generator.manual_seed(0)  # a bound is drawn
        first = outcome(p, case)
        torch.default_generator.manual_seed(0)
        if not training and getattr(p, "density", "exact") != "estimate":
            close(outcome(p, case), first, 0.0, "second evaluation")
        for key, tensor in p.state_dict().items():
            expect(torch.equal(tensor, before[key]), f"an evaluation changed the state '{key}'")


@register(DISTRIBUTION)
def state_dict_round_trip(p: Any, case: Case) -> None:
    """A new instance with the state loaded gives the same results, also after parameters changed in place."""
    outcome(p, case)
    for _ in range(2):
        torch.default_generator.manual_seed(0)
        wanted = outcome(p, case)
        made = reloaded(p)
        torch.default_generator.manual_seed(0)
        close(outcome(made, case), wanted, 1e-12 * scale_of(wanted), "after load_state_dict into a new instance")
        perturb(p, seed=2)


@register(DISTRIBUTION, applies=describable)
def describe_build(p: Any, case: Case) -> None:
    """build(describe(p)) is of the same class, describes itself the same way and, with the state loaded, is the same."""
    weights: dict[str, Tensor] = {}
    written = describe(p, weights)
    made = build(written, type(p), weights=weights)
    expect(type(made) is type(p), f"build(describe(p)) is a {type(made).__name__}")
    expect(describe(made, {}) == written, f"build(describe(p)) describes itself as {describe(made, {})}, not {written}")


@register(DISTRIBUTION, applies=importable)
def pickled(p: Any, case: Case) -> None:
    """Pickling and unpickling gives the same results."""
    buffer = io.BytesIO()
    pickle.dump(p, buffer)
    buffer.seek(0)
    torch.default_generator.manual_seed(0)
    wanted = outcome(p, case)
    torch.default_generator.manual_seed(0)
    close(outcome(pickle.load(buffer), case), wanted, 0.0, "after pickling")
