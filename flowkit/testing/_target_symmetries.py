"""Checks of the symmetries that a target declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, scale_of
from flowkit.testing._draws import concrete
from flowkit.testing._suite import register
from flowkit.testing._suites import TARGET
from flowkit.testing._target_inputs import points

Change = Callable[[Tensor, int, torch.Generator], Tensor]
DRAWS = 4  # elements of each symmetry


def rotated(x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """x -> Q x with Q in SO(D), of the last axis."""
    matrix = torch.linalg.qr(torch.randn((x.shape[-1], x.shape[-1]), generator=generator, dtype=x.dtype)).Q
    matrix[:, 0] *= torch.linalg.det(matrix).sign()
    return x @ matrix.mT


def reflected(x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """x -> x - 2 (v . x) v, v a random unit vector of the last axis."""
    normal = torch.nn.functional.normalize(torch.randn(x.shape[-1], generator=generator, dtype=x.dtype), dim=0)
    return x - 2 * (x @ normal).unsqueeze(-1) * normal


def translated(x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """x -> x + c, c in R^D."""
    return x + torch.randn(x.shape[-1], generator=generator, dtype=x.dtype)


def permuted(x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Coordinates, or particles, in another order."""
    return x.index_select(-rank, torch.randperm(x.shape[-rank], generator=generator))


def negated(x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """x -> -x."""
    return -x


KNOWN: dict[str, Change] = {"rotation": rotated, "reflection": reflected, "translation": translated, "permutation": permuted, "sign": negated}


@register(TARGET, applies=lambda target: bool(target.invariances))
def invariances_hold(target: Any, case: Case) -> None:
    """log_density does not change under random elements of the declared symmetries."""
    expect(isinstance(target.invariances, frozenset), f"invariances must be a frozenset of names; got {target.invariances!r}")
    x, rank = points(target, case), len(concrete(target.event_shape))
    value = target.log_density(x)
    for name in sorted(target.invariances):
        tried = moved = 0
        for draw in range(DRAWS):
            changed = _changed(target, name, x.clone(), rank, case.generator(7 + draw))
            inside = target.domain.contains(changed, tol=1e-9 * target.domain.scale)
            close(target.log_density(changed[inside]), value[inside], 1e-8 * scale_of(value[inside]), f"log_density after {name}")
            tried, moved = tried + int(inside.sum()), moved + int((changed != x).sum())
        expect(tried > 0, f"{name} takes every event out of the domain")
        expect(moved > 0 or (name in KNOWN and x[0].numel() == 1), f"symmetry('{name}', ...) never changes an event")


def _changed(target: Any, name: str, x: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    if name in KNOWN:
        expect(rank in (1, 2) or name == "sign", f"'{name}' has a meaning for events (D,) and (N, d) only; declare a name of your own and define symmetry()")
        return KNOWN[name](x, rank, generator)
    changed = target.symmetry(name, x, generator) if hasattr(target, "symmetry") else None
    if changed is None:
        raise AssertionError(f"invariance '{name}' is not one of {sorted(KNOWN)}, and symmetry('{name}', ...) returns None")
    expect(changed.shape == x.shape, f"symmetry('{name}', ...) of events {tuple(x.shape)} has shape {tuple(changed.shape)}")
    return changed
