"""The conformance suite of maps that lose information in one direction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.surjection import Surjection
from flowkit.testing import (  # noqa: F401  these files fill the suite
    _transform_context,
    _transform_domain,
    _transform_gradients,
    _transform_state,
    _transform_values,
)
from flowkit.testing._calls import Side, call, sides
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, scale_of
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import SURJECTION


def check_surjection(instance: Surjection, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that a surjection's traits allow, each on a perturbed float64 copy.

    Args:
        instance: the map to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return SURJECTION.run_all(instance, only, case)


@register(SURJECTION, applies=lambda f: "forward" not in f.draws)
def right_inverse(f: Any, case: Case) -> None:
    """f(f^-1(x)) = x for points of the image, where forward is a function; its contribution is minus that of the inverse."""
    _there_and_back(f, sides(f, case)[1])


@register(SURJECTION, applies=lambda f: "inverse" not in f.draws)
def left_inverse(f: Any, case: Case) -> None:
    """f^-1(f(z)) = z for points of the domain, where inverse is a function; its contribution is minus that of forward."""
    _there_and_back(f, sides(f, case)[0])


def _there_and_back(f: Any, side: Side) -> None:
    there, given = side(f)
    back, returned = call(f, there, side.context, inverse=not side.inverse)
    close(back, side.value, 1e-9 * scale_of(side.value), f"{side.name} and back")
    close(returned, -given, 1e-9 * scale_of(given), f"contributions of {side.name} and back")


@register(SURJECTION)
def declared_draws(f: Any, case: Case) -> None:
    """A direction changes with the generator exactly where ``draws`` names it; the likelihood is a bound exactly where inverse draws."""
    for side in sides(f, case):
        first, second = (drawn(f, side, seed) for seed in (1, 2))
        differs = any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
        expect(differs == (side.name in f.draws), f"{side.name}: draws is declared as {sorted(f.draws)}, two generators {'differ' if differs else 'agree'}")
    bound = "bound" if "inverse" in f.draws else "exact"
    expect(f.traits.log_det == bound and f.traits.stochastic, f"traits: expected log_det={bound!r} and stochastic=True")


def drawn(f: Any, side: Side, seed: int) -> tuple[Tensor, Tensor]:
    method = f.inverse if side.inverse else f
    return method(side.value, side.context, generator=torch.Generator().manual_seed(seed))
