"""Checks of state: buffers, dtypes, copies, saved state, stale caches, purity."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build, describe
from flowkit.core.errors import NotInvertibleError
from flowkit.core.registry import registered_name
from flowkit.testing._calls import mixed, sides
from flowkit.testing._case import Case, perturb, rebuilt, reloaded
from flowkit.testing._compare import close, expect, same_call, scale_of
from flowkit.testing._draws import map_context
from flowkit.testing._suite import register
from flowkit.testing._suites import BIJECTOR, TRANSFORMS


def parametric(f: Any) -> bool:
    return any(True for _ in f.parameters())


def describable(f: Any) -> bool:
    """Whether the class and every module among its constructor's arguments is registered."""
    given = (getattr(f, key, None) for key in inspect.signature(type(f).__init__).parameters if key != "self")
    parts = [part for value in given for part in (value if isinstance(value, nn.ModuleList | list | tuple) else [value]) if isinstance(part, nn.Module)]
    return registered_name(type(f)) is not None and all(describable(part) for part in parts)


def importable(f: Any) -> bool:
    return all("<locals>" not in type(part).__qualname__ for part in f.modules())


def agree(f: Any, other: Any, case: Case, what: str, tolerance: float = 0.0) -> None:
    """Both maps give the same outputs in every direction."""
    for side in sides(f, case):
        same_call(side(other), side(f), tolerance, f"{side.name}, {what}")


@register(*TRANSFORMS)
def constants_are_buffers(f: Any, case: Case) -> None:
    """No tensor is a plain attribute, before or after a call, unless it is a constructor argument."""
    for moment in ("as built", "after a call"):
        found = [f"{type(module).__name__}.{path}" for module in f.modules() for path in plain_tensors(module)]
        expect(not found, f"{moment}: plain tensor attributes {', '.join(found)}; register them as buffers, or compute them in the call")
        for side in sides(f, case):
            side(f)


def plain_tensors(module: nn.Module) -> Iterator[str]:
    """Paths of tensors in a module's own attributes that are neither parameters, buffers nor constructor arguments."""
    arguments = set(inspect.signature(type(module).__init__).parameters)
    own = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    for key, value in vars(module).items():
        if key not in own and key not in arguments and not key.startswith(("_forward_", "_backward_", "_state_dict_", "_load_state_")):
            yield from _tensors_in(value, key, 0)


def _tensors_in(value: Any, path: str, depth: int) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield path
    elif depth < 4 and isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors_in(item, f"{path}[{key!r}]", depth + 1)
    elif depth < 4 and isinstance(value, list | tuple | set):
        for i, item in enumerate(value):
            yield from _tensors_in(item, f"{path}[{i}]", depth + 1)
    elif depth < 4 and dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from _tensors_in(getattr(value, item.name), f"{path}.{item.name}", depth + 1)


@register(BIJECTOR, applies=lambda f: f.traits.compiles and not f.traits.stochastic)
def device_followed(f: Any, case: Case) -> None:
    """Moved to another device (torch's "meta"), both directions run there: no constant stays behind."""
    moved = copy.deepcopy(f).to("meta")
    for side in sides(f, case, (3,)):
        value = torch.empty_like(side.value, device="meta")
        context = map_context(side.context, lambda part: torch.empty_like(part, device="meta"))
        try:
            outputs = side(moved, value, context)
        except NotImplementedError:
            continue  # torch has no meta kernel for an operator used here
        except RuntimeError as error:
            if "unsupported scalarType" in str(error):
                continue  # torch.autocast does not know the device
            raise
        expect(all(out.device.type == "meta" for out in outputs), f"{side.name}: an output is not on the input's device")


@register(*TRANSFORMS)
def dtype_kept(f: Any, case: Case) -> None:
    """float32 in gives float32 out, float64 in float64 out, whatever torch's default dtype."""
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float64, torch.float32):
            f = f.to(dtype)
            for default in (torch.float32, torch.float64):
                torch.set_default_dtype(default)
                for side in sides(f, case.but(dtype=dtype)):
                    got = [out.dtype for out in side(f)]
                    expect(got == [dtype, dtype], f"{side.name}: {dtype} in, {got[0]} and {got[1]} out (default dtype {default})")
    finally:
        torch.set_default_dtype(before)


@register(*TRANSFORMS)
def half_precision(f: Any, case: Case) -> None:
    """bfloat16 in gives bfloat16 values and a float32 log_det, where torch has the operators."""
    f = f.to(torch.bfloat16)
    for side in sides(f, case.but(dtype=torch.bfloat16)):
        try:
            value, log_det = side(f)
        except NotInvertibleError:
            expect(f.traits.inverse == "iterative", f"{side.name} in bfloat16 raises NotInvertibleError")
            continue  # an iteration may say that eight bits do not reach its tolerance
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented" in str(error) or "Low precision" in str(error) or "Unsupported input type" in str(error):
                continue  # torch lacks the operator in bfloat16
            raise
        expect(value.dtype == torch.bfloat16 and log_det.dtype == torch.float32, f"{side.name}: bfloat16 in, {value.dtype} and {log_det.dtype} out")


@register(*TRANSFORMS)
def state_dict_round_trip(f: Any, case: Case) -> None:
    """A new instance with the state loaded gives the same output."""
    agree(f, reloaded(f), case, "after load_state_dict into a new instance")


@register(BIJECTOR, applies=parametric)
def no_stale_cache(f: Any, case: Case) -> None:
    """After a call, a change of parameters (in place, by load_state_dict, of dtype) takes effect at once."""
    with torch.no_grad():
        for side in sides(f, case):
            side(f)
    for side in sides(f, case):
        side(f)
    changed = copy.deepcopy(f)
    perturb(changed, seed=2)
    agree(reloaded(changed), changed, case, "after parameters changed in place", 1e-13)
    for side in sides(f, case):
        side(changed)
    changed.load_state_dict(f.state_dict())
    agree(reloaded(f), changed, case, "after load_state_dict into a used instance", 1e-13)
    changed.float()
    fresh = reloaded(f).float()
    agree(fresh, changed, case.but(dtype=torch.float32), "after .to(float32) of a used instance", 1e-6)
    _gradients_after_no_grad(f, case)


def _gradients_after_no_grad(f: Any, case: Case) -> None:
    """What was computed under no_grad is not reused where a gradient is wanted."""
    used, fresh = copy.deepcopy(f), reloaded(f)
    with torch.no_grad():
        for side in sides(f, case):
            side(used)
    for side in sides(f, case):
        for module in (used, fresh):
            module.zero_grad(set_to_none=True)
            mixed(*side(module)).backward()
        for (name, after), wanted in zip(used.named_parameters(), fresh.parameters(), strict=True):
            if wanted.grad is not None:
                expect(after.grad is not None, f"{side.name} after a call under no_grad: no gradient reaches {name}")
                close(after.grad, wanted.grad, 1e-9 * max(1.0, float(wanted.grad.abs().max())), f"{side.name} after a call under no_grad, gradient of {name}")


@register(*TRANSFORMS)
def deepcopy(f: Any, case: Case) -> None:
    """A deep copy, also of a used instance, gives the same output and shares no parameter."""
    for side in sides(f, case):
        side(f)
    twin = copy.deepcopy(f)
    agree(f, twin, case, "after deepcopy")
    shared = {id(parameter) for parameter in f.parameters()} & {id(parameter) for parameter in twin.parameters()}
    expect(not shared, "a deep copy shares parameters")


@register(*TRANSFORMS, applies=importable)
def pickled(f: Any, case: Case) -> None:
    """Pickling and unpickling gives the same output."""
    for side in sides(f, case):
        side(f)
    buffer = io.BytesIO()
    pickle.dump(f, buffer)
    buffer.seek(0)
    agree(f, pickle.load(buffer), case, "after pickling")


@register(*TRANSFORMS, applies=describable)
def describe_build(f: Any, case: Case) -> None:
    """build(describe(f)) is of the same class, describes itself the same way and, with the state loaded, is the same map."""
    weights: dict[str, Tensor] = {}
    written = describe(f, weights)
    made = build(written, type(f), weights=weights)
    expect(type(made) is type(f), f"build(describe(f)) is a {type(made).__name__}")
    expect(describe(made, {}) == written, f"build(describe(f)) describes itself as {describe(made, {})}, not {written}")
    made = made.to(torch.float64).eval()
    made.load_state_dict(f.state_dict())
    agree(f, made, case, "after build(describe(f))")


@register(*TRANSFORMS, applies=lambda f: not f.traits.stochastic)
def pure(f: Any, case: Case) -> None:
    """Two calls agree; a call changes neither the state, nor the training flag's meaning, nor the global generator."""
    for training in (False, True):
        f.train(training)
        before = copy.deepcopy(f.state_dict())
        for side in sides(f, case):
            generator = torch.get_rng_state()
            first = side(f)
            if not training:
                same_call(side(f), first, 0.0, f"{side.name}, second call")
                expect(torch.equal(generator, torch.get_rng_state()), f"{side.name} draws from the global generator")
            _same_state(before, f.state_dict(), f"{side.name} {'in training mode ' if training else ''}changed")


@register(BIJECTOR, applies=lambda f: not f.traits.stochastic)
def initialize_agrees(f: Any, case: Case) -> None:
    """initialize returns what the map then gives for that batch, in both directions; a second one changes nothing."""
    for side in sides(f, case, (16,)):
        fresh = rebuilt(f)
        with torch.no_grad():
            after = fresh.initialize(side.value, side.context, inverse=side.inverse)
            value, _ = side(fresh)
            close(after, value, 1e-9 * scale_of(value), f"initialize against {side.name}")
            again = fresh.initialize(side.value * 0.5, side.context, inverse=side.inverse) if f.domain.trivial and f.codomain.trivial else None
            if again is not None:
                close(side(fresh)[0], value, 0.0, f"{side.name} after a second initialize")


@register(*TRANSFORMS, applies=lambda f: f.traits.stochastic)
def generator_used(f: Any, case: Case) -> None:
    """Draws come from the generator given: reproducible, the global one untouched, the state unchanged."""
    before = copy.deepcopy(f.state_dict())
    for side in sides(f, case):
        state = torch.get_rng_state()
        same_call(side(f), side(f), 0.0, f"{side.name}, same generator")
        expect(torch.equal(state, torch.get_rng_state()), f"{side.name} draws from the global generator though one was given")
        _same_state(before, f.state_dict(), f"{side.name} changed")


def _same_state(before: dict[str, Tensor], after: dict[str, Tensor], what: str) -> None:
    for key, tensor in before.items():
        expect(torch.equal(tensor, after[key]), f"{what} the state '{key}'")

