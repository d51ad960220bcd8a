"""Laws of the algebra, for any bijector and its neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra import Identity, Inverse
from flowkit.core.build import build
from flowkit.core.transform import Bijector
from flowkit.testing._calls import call, has_inverse, out_event, sides, tolerance
from flowkit.testing._case import Case, perturb, prepared
from flowkit.testing._compare import close, expect, same_call, scale_of
from flowkit.testing._draws import concrete
from flowkit.testing._suite import register
from flowkit.testing._suites import BIJECTOR


def invertible(f: Any) -> bool:
    return has_inverse(f) and f.traits.log_det == "exact"


def endomorphism(f: Any) -> bool:
    """Whether f can follow itself: same shape, all of R^n at both ends."""
    return invertible(f) and f.in_shape == f.out_shape and f.domain.trivial and f.codomain.trivial


def known_axis(f: Any) -> bool:
    return invertible(f) and len(f.in_shape) > 0 and len(f.in_shape) == len(f.out_shape) and None not in (f.in_shape[0], f.out_shape[0])


def embeddable(f: Any) -> bool:
    return known_axis(f) and f.in_shape == f.out_shape


def neighbours(f: Any, case: Case) -> list[Bijector]:
    """Simple maps of the event f ends in: an affine map and, on vectors, a permutation and its inverse."""
    event = out_event(f, case)
    made: list[Any] = [build({"name": "affine", "shape": event}, Bijector)]
    if len(event) == 1:
        order = [*range(1, event[0]), 0]
        made += [build({"name": "permutation", "order": order}, Bijector)]
        made += [~made[1]]
    return [prepared(neighbour) for neighbour in made]


def agree(f: Any, g: Any, value: Tensor, context: Any, case: Case, what: str, *, inverse: bool = False) -> None:
    """f and g are the same function at these points, log_det included."""
    want = call(f, value, _own(f, context), inverse=inverse)
    got = call(g, value, _own(g, context), inverse=inverse)
    allowed = max(1e-9, 10 * tolerance(f, 0.0))
    close(got[0], want[0], allowed * scale_of(want[0]), f"{what}, value")
    close(got[1], want[1], allowed * scale_of(want[1]), f"{what}, log_det")


def _own(f: Any, context: Any) -> Any:
    return None if f.context_shape is None else context


@register(BIJECTOR, applies=invertible, drawn=True)
def law_inverse_cancels(f: Any, case: Case) -> None:
    """f >> ~f and ~f >> f are the identity, and simplify() finds it."""
    allowed = max(1e-9, 10 * tolerance(f, 0.0))
    for side in sides(f, case):
        chain = (~f >> f) if side.inverse else (f >> ~f)
        value, log_det = call(chain, side.value, side.context)
        close(value, side.value, allowed * scale_of(side.value), f"{'~f >> f' if side.inverse else 'f >> ~f'}, value")
        close(log_det, torch.zeros_like(log_det), allowed * scale_of(side(f)[1]), f"{'~f >> f' if side.inverse else 'f >> ~f'}, log_det")
        simple = chain.simplify()
        expect(isinstance(simple, Identity), f"({'~f >> f' if side.inverse else 'f >> ~f'}).simplify() is {type(simple).__name__}, not Identity")


@register(BIJECTOR, applies=invertible, drawn=True)
def law_double_inverse(f: Any, case: Case) -> None:
    """~~f is f, and ~f runs the other direction."""
    if not isinstance(f, Inverse):
        expect(~~f is f, "~~f is not f itself")
    for side in sides(f, case):
        same_call(call(~f, side.value, side.context, inverse=not side.inverse), side(f), 0.0, f"(~f) against f, {side.name}")
        same_call(side(~~f), side(f), 0.0, f"(~~f) against f, {side.name}")
    expect((~f).in_shape == f.out_shape and (~f).out_shape == f.in_shape, "~f does not swap in_shape and out_shape")


@register(BIJECTOR, applies=lambda f: invertible(f) and f.codomain.trivial, drawn=True)
def law_inverse_of_chain(f: Any, case: Case) -> None:
    """~(f >> g) equals ~g >> ~f in values; slicing a chain gives its parts."""
    side = sides(f, case)[1]
    for g in neighbours(f, case):
        chain = f >> g
        agree(~(f >> g), ~g >> ~f, side.value, side.context, case, "~(f >> g) against ~g >> ~f")
        triple = chain >> g
        start = sides(f, case)[0].value
        agree(f >> g, triple[:-1] if not hasattr(f, "transforms") else (f >> g), start, side.context, case, "(f >> g >> h)[:-1] against f >> g")
        expect(triple[-1] is triple[len(triple) - 1], "chain[-1] is not its last part")


@register(BIJECTOR, applies=endomorphism)
def law_powers(f: Any, case: Case) -> None:
    """f ** 2 is f >> f, f ** -1 is ~f, f ** -2 is ~f >> ~f, f ** 0 the identity; weights are shared."""
    start, end = sides(f, case)
    agree(f >> f, f**2, start.value, start.context, case, "f ** 2 against f >> f")
    agree(~f, f**-1, end.value, end.context, case, "f ** -1 against ~f")
    agree(~f >> ~f, f**-2, end.value, end.context, case, "f ** -2 against ~f >> ~f")
    expect(f**1 is f or isinstance(f**1, type(f)), "f ** 1 is not f")
    value, log_det = (f**0)(start.value)
    close(value, start.value, 0.0, "f ** 0, value")
    close(log_det, torch.zeros_like(log_det), 0.0, "f ** 0, log_det")
    expect(len(list((f**3).parameters())) == len(list(f.parameters())), "f ** 3 does not share its weights")


@register(BIJECTOR, applies=known_axis)
def law_concat(f: Any, case: Case) -> None:
    """f & g is f on the first part of event axis 0 and g on the rest."""
    rest_in, rest_out = concrete(f.in_shape[1:]), out_event(f, case)[1:]
    if rest_in != rest_out:
        return
    g: Any = prepared(build({"name": "affine", "shape": (2, *rest_in)}, Bijector))
    joined = f & g
    for side in sides(f, case):
        axis = -len(f.in_shape)
        other = sides(g, case)[int(side.inverse)].value
        value, log_det = call(joined, torch.cat([side.value, other], dim=axis), side.context, inverse=side.inverse)
        first, second = side(f), call(g, other, inverse=side.inverse)
        same_call((value, log_det), (torch.cat([first[0], second[0]], dim=axis), first[1] + second[1]), 1e-12, f"(f & g).{side.name} against its parts")
        swapped = call(g & f, torch.cat([other, side.value], dim=axis), side.context, inverse=side.inverse)
        same_call(swapped, (torch.cat([second[0], first[0]], dim=axis), first[1] + second[1]), 1e-12, f"(g & f).{side.name} against its parts")


@register(BIJECTOR, applies=embeddable)
def law_indexed(f: Any, case: Case) -> None:
    """f.on(index) is f on the chosen part and the identity elsewhere, for slices, lists and masks."""
    size, rest = f.in_shape[0], concrete(f.in_shape[1:])
    ways: list[tuple[list[int], Any]] = [(list(range(1, size + 1)), f.on(slice(1, size + 1), shape=(size + 2, *f.in_shape[1:])))]
    order = [(3 * i + 1) % (size + 2) for i in range(size + 2)]
    if len(set(order)) == size + 2:
        ways.append((order[:size], f.on(order[:size], shape=(size + 2, *f.in_shape[1:]))))
    if len(f.in_shape) == 1:
        mask = torch.tensor([False] + [True] * size + [False])
        ways.append((list(range(1, size + 1)), f.on(mask)))
    axis = -len(f.in_shape)
    for side in sides(f, case):
        frame = torch.randn((*case.batch, size + 2, *rest), generator=case.generator(70), dtype=case.dtype)
        want, log_det = side(f)
        for chosen, placed in ways:
            index = torch.tensor(chosen)
            whole = frame.index_copy(frame.dim() + axis, index, side.value)
            wanted = (whole.index_copy(frame.dim() + axis, index, want), log_det)
            same_call(call(placed, whole, side.context, inverse=side.inverse), wanted, 1e-12, f"f.on({chosen}).{side.name} against f on the part")


@register(BIJECTOR, applies=invertible)
def law_simplify(f: Any, case: Case) -> None:
    """simplify() never changes the function, whatever the neighbours; merge and inverted give equal maps."""
    start, end = sides(f, case)
    twin = prepared(f)
    perturb(twin, seed=3)
    chains: list[tuple[str, Any, Any]] = [("f", f, start), ("~f", ~f, end), ("f >> ~g", f >> ~twin, start), ("~f >> g", ~f >> twin, end)]
    if f.codomain.trivial:
        for g in neighbours(f, case):
            chains += [("f >> g", f >> g, start), ("f >> g >> g", f >> g >> g, start), ("f >> g >> ~g", f >> g >> ~g, start), ("~(f >> g)", ~(f >> g), end)]
            chains += [("g >> ~f", g >> ~f, end), ("f >> g >> ~g >> ~f", f >> g >> ~g >> ~f, start), ("~(f >> ~g) >> f", ~(f >> ~g) >> f, end)]
    if endomorphism(f):
        chains += [("f >> g", f >> twin, start), ("f >> f >> g", f >> f >> twin, start)]
        chains += [("~f >> ~g", ~f >> ~twin, end), ("f >> g >> ~g >> f", f >> twin >> ~twin >> f, start)]
        for g in neighbours(f, case):
            chains += [("g >> f", g >> f, start), ("g >> f >> ~f >> g", g >> f >> ~f >> g, start)]
    for name, chain, side in chains:
        simple = chain.simplify()
        agree(chain, simple, side.value, side.context, case, f"simplify of {name} ({type(simple).__name__})")
    if (own := f.inverted()) is not None:
        agree(~f, own, end.value, end.context, case, "inverted() against ~f")
    if endomorphism(f) and (merged := f.merge(twin)) is not None:
        agree(f >> twin, merged, start.value, start.context, case, "merge against f >> g")
