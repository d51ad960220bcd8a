"""The conformance suite of velocity fields."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from flowkit.core.build import build, describe
from flowkit.core.errors import ShapeError
from flowkit.core.registry import registered_name
from flowkit.core.vector_field import VectorField
from flowkit.testing._calls import mixed
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite, raises, scale_of
from flowkit.testing._draws import concrete, draw_context, map_context
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import FIELD
from flowkit.testing._transform_gradients import directional
from flowkit.testing._transform_state import plain_tensors

Inputs = tuple[Tensor, Tensor, Any]
STEP = 1e-7  # of finite differences: features of a time have frequencies up to 1000


def check_field(instance: VectorField, *, only: str | Iterable[str] | None = None, case: Case | None = None) -> CheckReport:
    """Run every check that applies to a velocity field, at perturbed parameters in float64.

    Args:
        instance: the field to judge; it is left as it is.
        only: names of checks to run, default all that apply.
        case: seed and batch of the inputs.

    Raises:
        ConformanceError: some checks failed; the message has a line for each, with a reproducer.
    """
    return FIELD.run_all(instance, only, case)


def inputs(field: Any, case: Case, batch: tuple[int, ...] | None = None, *, common: bool = False) -> Inputs:
    """A time, one for the batch or one per sample, a place (on the field's domain where it has one) and a context."""
    batch = case.batch if batch is None else batch
    t = 0.05 + 0.9 * torch.rand(() if common else batch, generator=case.generator(3), dtype=torch.float64)
    event = concrete(field.event_shape)
    if _on_domain(field):
        x = field.domain.uniform(torch.Size(batch).numel(), case.generator()).reshape(*batch, *event)
    else:
        x = 1.5 * case.spread * torch.randn((*batch, *event), generator=case.generator(), dtype=torch.float64)
    return t.to(case.dtype), x.to(case.dtype), draw_context(field, batch, case)


def both_times(field: Any, case: Case, batch: tuple[int, ...] | None = None) -> Iterator[tuple[str, Inputs]]:
    """The inputs with a time per sample, and with one for the batch."""
    yield "a time per sample", inputs(field, case, batch)
    yield "one time", inputs(field, case, batch, common=True)


def _on_domain(field: Any) -> bool:
    return hasattr(getattr(field, "domain", None), "uniform")


def analytic(field: Any) -> bool:
    return field.divergence is not None


def _row(context: Any, index: int) -> Any:
    return map_context(context, lambda part: part[index])


@register(FIELD, drawn=True)
def shapes(field: Any, case: Case) -> None:
    """Velocity has the shape of x, divergence that of the batch, for any batch, the empty one too, and both kinds of time."""
    for batch in ((), (3,), (2, 3), (0,)):
        for name, (t, x, context) in both_times(field, case, batch):
            v = field.velocity(t, x, context)
            expect(v.shape == x.shape, f"batch {batch}, {name}: velocity has shape {tuple(v.shape)}, expected {tuple(x.shape)}")
            finite(v, f"batch {batch}, {name}, velocity")
            close(field(t, x, context), v, 0.0, "calling the field against velocity")
            if analytic(field):
                divergence = field.divergence(t, x, context)
                expect(tuple(divergence.shape) == batch, f"batch {batch}, {name}: divergence has shape {tuple(divergence.shape)}, expected {batch}")


@register(FIELD, drawn=True)
def times_agree(field: Any, case: Case) -> None:
    """One time for the batch is the same as that time for every sample."""
    t, x, context = inputs(field, case, common=True)
    every = t.expand(case.batch)
    v = field.velocity(t, x, context)
    close(field.velocity(every, x, context), v, 1e-11 * scale_of(v), "velocity at a time per sample against one time")
    if analytic(field):
        divergence = field.divergence(t, x, context)
        close(field.divergence(every, x, context), divergence, 1e-11 * scale_of(divergence), "divergence at a time per sample against one time")


@register(FIELD)
def rows_independent(field: Any, case: Case) -> None:
    """A sample alone, with its own time and context, gives its row of the batch."""
    t, x, context = inputs(field, case, (4,))
    v = field.velocity(t, x, context)
    for i in range(4):
        single = (t[i], x[i], _row(context, i))
        close(field.velocity(*single), v[i], 1e-11 * scale_of(v[i]), f"velocity of row {i} alone")
        if analytic(field):
            got, wanted = field.divergence(*single), field.divergence(t, x, context)[i]
            close(got, wanted, 1e-11 * scale_of(wanted), f"divergence of row {i} alone")


@register(FIELD, applies=lambda field: field.context_shape is not None)
def context_broadcast(field: Any, case: Case) -> None:
    """One context for the whole batch is the same as a copy for every sample."""
    t, x, _ = inputs(field, case, (3,))
    context = draw_context(field, (), case)
    v = field.velocity(t, x, map_context(context, lambda part: part.expand(3, *part.shape)))
    close(field.velocity(t, x, context), v, 1e-11 * scale_of(v), "velocity with one context")


@register(FIELD)
def context_checked(field: Any, case: Case) -> None:
    """A declared context is required and used; one not declared, and a wrong event, are refused."""
    t, x, context = inputs(field, case)
    if context is None:
        raises(ShapeError, lambda: field.velocity(t, x, x.new_zeros(*case.batch, 2)), "velocity with a context not declared")
    else:
        raises(ShapeError, lambda: field.velocity(t, x), "velocity without the declared context")
        other = draw_context(field, case.batch, case.but(seed=case.seed + 17))
        expect(bool((field.velocity(t, x, other) != field.velocity(t, x, context)).any()), "the context is not used")
    if None not in field.event_shape:
        raises(ShapeError, lambda: field.velocity(t, torch.cat([x, x], dim=-1), context), "velocity of a wrong event")


def _trace(field: Any, t: Tensor, x: Tensor, context: Any) -> Tensor:
    """The trace of dv/dx, one coordinate after the other by autograd: (*B)."""
    point = x.detach().requires_grad_()
    with torch.enable_grad():
        flat = field.velocity(t, point, context).reshape(*t.expand(x.shape[: x.dim() - len(field.event_shape)]).shape, -1)
        total = torch.zeros(flat.shape[:-1], dtype=x.dtype)
        for i in range(flat.shape[-1]):
            (row,) = torch.autograd.grad(flat[..., i].sum(), point, retain_graph=True, materialize_grads=True)
            total = total + row.reshape(flat.shape)[..., i]
    return total


@register(FIELD, applies=analytic, drawn=True)
def divergence_trace(field: Any, case: Case) -> None:
    """The divergence is the trace of the autograd Jacobian to 1e-10, and what comes with the velocity in one pass is the same."""
    for name, (t, x, context) in both_times(field, case):
        divergence = field.divergence(t, x, context)
        close(divergence, _trace(field, t, x, context), 1e-10 * scale_of(divergence), f"{name}, divergence against the autograd trace")
        if getattr(field, "velocity_and_divergence", None) is not None:
            v, shared = field.velocity_and_divergence(t, x, context)
            alone = field.velocity(t, x, context)
            close(v, alone, 1e-11 * scale_of(alone), f"{name}, velocity from velocity_and_divergence")
            close(shared, divergence, 1e-11 * scale_of(divergence), f"{name}, divergence from velocity_and_divergence")


def _outputs(field: Any, t: Tensor, x: Tensor, context: Any) -> Tensor:
    v = field.velocity(t, x, context)
    divergence = field.divergence(t, x, context) if analytic(field) else v.new_zeros(v.shape[: v.dim() - len(field.event_shape)])
    return mixed(v, divergence)


def _at(field: Any, context: Any, at: list[Tensor]) -> Tensor:
    return _outputs(field, at[0], at[1], at[2] if len(at) > 2 else context)


def _at_time(field: Any, x: Tensor, context: Any, at: list[Tensor]) -> Tensor:
    return _outputs(field, at[0], x, context)


class _Outputs(torch.nn.Module):
    def __init__(self, field: Any) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, x: Tensor, context: Any) -> Tensor:
        return _outputs(self.field, t, x, context)


def _at_parameters(field: Any, names: list[str], point: Inputs, at: list[Tensor]) -> Tensor:
    return functional_call(_Outputs(field), {f"field.{name}": value for name, value in zip(names, at, strict=True)}, point)  # type: ignore[no-any-return]


@register(FIELD)
def gradients(field: Any, case: Case) -> None:
    """Gradients of velocity and divergence in time, place, context and parameters agree with finite differences."""
    for name, (t, x, context) in both_times(field, case, (3,)):
        if _on_domain(field):
            directional(partial(_at_time, field, x, context), [t], case, f"{name}, time", STEP)
        else:
            parts = [context] if isinstance(context, Tensor) and context.is_floating_point() else []
            directional(partial(_at, field, context), [t, x, *parts], case, f"{name}, time, place and context", STEP)
        trainable = {key: parameter.detach() for key, parameter in field.named_parameters() if parameter.requires_grad}
        if trainable:
            directional(partial(_at_parameters, field, list(trainable), (t, x, context)), list(trainable.values()), case, f"{name}, parameters", STEP)


@register(FIELD)
def gradients_reach(field: Any, case: Case) -> None:
    """A finite gradient that is not zero reaches every trainable parameter."""
    for name, (t, x, context) in both_times(field, case, (20,)):
        parameters = {key: parameter for key, parameter in field.named_parameters() if parameter.requires_grad}
        found = torch.autograd.grad(field.velocity(t, x, context).square().sum(), list(parameters.values()), allow_unused=True) if parameters else ()
        dead = [key for key, gradient in zip(parameters, found, strict=True) if gradient is None or not bool((gradient != 0).any())]
        expect(not dead, f"{name}: no gradient reaches {', '.join(dead)}")
        for key, gradient in zip(parameters, found, strict=True):
            finite(gradient, f"{name}, gradient of {key}")  # type: ignore[arg-type]


def _kernel_weights(field: Any) -> bool:
    context = draw_context(field, (2,), Case())
    return getattr(field, "trajectory_weights", None) is not None and field.double().trajectory_weights(context) is not None


@register(FIELD, applies=_kernel_weights)
def trajectory_weights(field: Any, case: Case) -> None:
    """What is handed to the whole-trajectory kernel describes the same velocity."""
    acts: dict[str, Any] = {"tanh": torch.tanh, **{key: getattr(torch.nn.functional, key) for key in ("softplus", "silu", "elu", "gelu", "selu")}}
    for name, (t, x, context) in both_times(field, case):
        given = field.trajectory_weights(context)
        time = t if t.dim() == 0 else t.unsqueeze(-1)
        gates = torch.sigmoid(given["gates"][:, 0] * time + given["gates"][:, 1]) if len(given["gates"]) else 1.0
        sizes = [len(given[f"r{k}"]) for k in (1, 2, 3)]
        gate = gates.split(sizes, dim=-1) if isinstance(gates, Tensor) else (gates,) * 3
        h = x
        for k in (1, 2, 3):
            a = gate[k - 1] * (h @ given[f"W{k}"].mT + given[f"b{k}"]) + given[f"r{k}"] * time
            h = acts[given["activation"]](a) if k < 3 else a
        close(h, field.velocity(t, x, context), 1e-11 * scale_of(h), f"{name}, velocity from trajectory_weights")


@register(FIELD)
def dtype_kept(field: Any, case: Case) -> None:
    """float32 in gives float32 out, float64 in float64 out; times may be float64 all the same."""
    for dtype in (torch.float32, torch.float64):
        field = field.to(dtype)
        t, x, context = inputs(field, case.but(dtype=dtype))
        for time in (t, t.double()):
            got = field.velocity(time, x, context).dtype
            expect(got == dtype, f"{dtype} in, {got} out")
            if analytic(field):
                expect(field.divergence(time, x, context).dtype == dtype, f"{dtype} in, divergence is {field.divergence(time, x, context).dtype}")


@register(FIELD)
def constants_are_buffers(field: Any, case: Case) -> None:
    """No tensor is a plain attribute, before or after a call, unless it is a constructor argument."""
    for _ in range(2):
        found = [path for module in field.modules() for path in plain_tensors(module)]
        expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
        field.velocity(*inputs(field, case))


@register(FIELD, applies=lambda field: registered_name(type(field)) is not None)
def describe_build(field: Any, case: Case) -> None:
    """build(describe(field)) with the state loaded, and a deep copy, give the same velocity."""
    weights: dict[str, Tensor] = {}
    written = describe(field, weights)
    made: Any = build(written, type(field), weights=weights).double().eval()
    expect(describe(made, {}) == written, f"build(describe(field)) describes itself as {describe(made, {})}")
    made.load_state_dict(field.state_dict())
    point = inputs(field, case)
    close(made.velocity(*point), field.velocity(*point), 0.0, "after build(describe(field))")
    close(copy.deepcopy(field).velocity(*point), field.velocity(*point), 0.0, "after deepcopy")


@register(FIELD, costly=True)
def compiled(field: Any, case: Case) -> None:
    """torch.compile(fullgraph=True, backend="aot_eager") agrees with eager."""
    point = inputs(field, case)
    wanted = field.velocity(*point)
    torch._dynamo.reset()
    try:
        got = torch.compile(field.velocity, fullgraph=True, backend="aot_eager")(*point)
    finally:
        torch._dynamo.reset()
    close(got, wanted, 1e-11 * scale_of(wanted), "compiled velocity")
