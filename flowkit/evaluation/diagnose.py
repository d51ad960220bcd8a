"""What goes wrong inside a flow: each layer's round trip, conditioning, saturation and use of its bins."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.checks import checks
from flowkit.core.errors import ConfigError, FlowkitError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.layers import layers
from flowkit.core.shapes import Context, expand_context
from flowkit.evaluation._univariate_calls import UnivariateUse, univariate_use

CONDITION_EVENTS = 8  # events whose Jacobians are formed
CONDITION_FEATURES = 256  # the largest event whose Jacobian is formed


@dataclass(frozen=True)
class LayerDiagnosis:
    """One map, seen from the data: ``inverse`` of the events that reach it, and ``forward`` back.

    Attributes:
        layer: position from latent to data, from 1; name: its class.
        round_trip: largest |forward(inverse(x)) - x| / max(1, |x|).
        log_det_error: largest |log_det of inverse + log_det of forward back|.
        log_det: mean of the inverse's log_det.
        condition: largest condition number of the Jacobian over a few events; None if it is not square, or too large.
        saturated: share of the univariate's parameter sets at a limit, None where that is not known.
        tail: share of values in no bin; bins_used: effective number of bins (exp of the entropy) of the least used coordinate,
            of ``bins``; None where there are no bins.
        non_finite: events whose value or log_det became NaN or infinite here.
    """

    layer: int
    name: str
    round_trip: float | None
    log_det_error: float | None
    log_det: float
    condition: float | None
    saturated: float | None
    tail: float | None
    bins_used: float | None
    bins: int | None
    non_finite: int


@dataclass(frozen=True)
class Diagnosis:
    """The layers from latent to data, and the flow as a whole.

    Attributes:
        layers: one entry a map.
        events: how many were examined; outside: how many of those given lie outside the support and were left out.
        round_trip: largest |to_data(to_latent(x)) - x| / max(1, |x|), None if a layer draws or fails.
        first_non_finite: name of the first layer on the way from data to latent that made a value NaN or infinite.
        failure: the error that ended the examination, if one did.
    """

    layers: tuple[LayerDiagnosis, ...]
    events: int
    outside: int
    round_trip: float | None
    first_non_finite: str | None
    failure: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        header = ("", "map", "round trip", "log_det error", "log_det", "condition", "saturated", "tail", "bins used", "non-finite")
        rows = [header, *(_cells(layer) for layer in self.layers)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = ["  ".join(cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
        whole = "" if self.round_trip is None else f", round trip of the flow {self.round_trip:.1e}"
        left_out = f", {self.outside} outside the support left out" if self.outside else ""
        ends = [f"first non-finite layer, from the data: {self.first_non_finite}"] if self.first_non_finite else []
        ends += [f"stopped: {self.failure}"] if self.failure else []
        return "\n".join([f"{self.events} events{left_out}{whole}", *lines, *ends])


def diagnose(flow: Flow, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> Diagnosis:
    """Follow events from the data to the latent space and say what each map does to them.

    Args:
        flow: the flow, in the mode (train or eval) it is to be examined in.
        x: (N, *event) or any batch shape; a few hundred events tell enough.
        context: (*Bc, *context_shape), broadcast against the batch.
        generator: for maps that draw.

    Returns:
        A ``Diagnosis``; print it for a table.

    Raises:
        ShapeError: wrong shapes or dtype, or no event inside the support. ConfigError: not a flow.
    """
    if not isinstance(flow, Flow):
        raise ConfigError(f"diagnose: expected a Flow; got {type(flow).__name__}.")
    flow._check_values(x, flow.event_shape, "diagnose")
    with torch.no_grad(), checks(values=False):
        x, context, outside = _inside(flow, x, context)
        rows, failure = [], None
        found = list(enumerate(layers(flow), 1))
        value = x
        for number, (name, step) in reversed(found):
            try:
                value, row = _examine(number, name, step, value, None if step.context_shape is None else context, generator)
            except FlowkitError as error:
                failure = f"{number} {name}: {error}"
                break
            rows.append(row)
        first = next((f"{row.layer} {row.name}" for row in rows if row.non_finite), None)
        whole = None
        if failure is None and not any(step.traits.stochastic for _, (_, step) in found):
            back = value
            for _, (_, step) in found:
                back, _ = step(back, None if step.context_shape is None else context)
            whole = _relative(back, x)
    return Diagnosis(tuple(reversed(rows)), len(x), outside, whole, first, failure)


def _inside(flow: Flow, x: Tensor, context: Context) -> tuple[Tensor, Any, int]:
    """Events in rows, the context as the maps see it in as many rows, and how many events were left out."""
    rank = len(flow.event_shape)
    context = flow.embed_context(context)
    batch = x.shape[: x.dim() - rank]
    context = expand_context(context, flow._inner_context, batch)
    rows = x.reshape(-1, *x.shape[x.dim() - rank :])
    inside = flow.domain.contains(rows) & torch.isfinite(rows).flatten(1).all(-1) if rank else flow.domain.contains(rows) & torch.isfinite(rows)
    if not bool(inside.any()):
        raise ShapeError(f"diagnose: none of the {len(rows)} events lies inside the flow's support. Give events like its training data.")

    def kept(part: Tensor) -> Tensor:
        return part.reshape(-1, *part.shape[len(batch) :])[inside]

    if isinstance(context, dict):
        return rows[inside], {key: kept(part) for key, part in context.items()}, int((~inside).sum())
    return rows[inside], kept(context) if isinstance(context, Tensor) else None, int((~inside).sum())


def _examine(number: int, name: str, step: Any, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, LayerDiagnosis]:
    with univariate_use(step) as use:
        z, log_det = step.inverse(x, context, generator=generator)
    good = torch.isfinite(z).reshape(len(z), -1).all(-1) & torch.isfinite(log_det)
    was_good = torch.isfinite(x).reshape(len(x), -1).all(-1)
    round_trip = error = condition = None
    if not step.traits.stochastic and bool(good.any()):
        back, forward_log_det = step(z, context)
        round_trip, error = _relative(back[good], x[good]), float((log_det + forward_log_det)[good].abs().max())
        condition = _condition(step, z[good], None if context is None else _rows(context, good))
    return z, LayerDiagnosis(
        layer=number,
        name=name,
        round_trip=round_trip,
        log_det_error=error,
        log_det=float(log_det[good].mean()) if bool(good.any()) else math.nan,
        condition=condition,
        non_finite=int((was_good & ~good).sum()),
        **_use(use),
    )


def _use(use: UnivariateUse) -> dict[str, Any]:
    return {"saturated": use.saturated, "tail": use.tail, "bins_used": use.bins_used, "bins": use.bins}


def _relative(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    return float(((a - b).abs() / b.abs().clamp(min=1)).max())


def _rows(context: Any, keep: Tensor) -> Any:
    return {key: part[keep] for key, part in context.items()} if isinstance(context, dict) else context[keep]


def _condition(step: Any, z: Tensor, context: Any) -> float | None:
    """Largest condition number of d forward / d z over a few events, in float64 linear algebra."""
    z = z[:CONDITION_EVENTS]
    if z[0].numel() > CONDITION_FEATURES:
        return None
    context = None if context is None else _rows(context, torch.arange(len(z), device=z.device))
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        flat = step(point, context)[0].flatten(1) if z.dim() > 1 else step(point, context)[0].unsqueeze(-1)
        if flat.shape[1] != z[0].numel() or not flat.requires_grad:
            return None
        rows = [torch.autograd.grad(flat[:, i].sum(), point, retain_graph=True)[0].reshape(len(z), -1) for i in range(flat.shape[1])]
    matrix = torch.stack(rows, 1).double().cpu()
    if not bool(torch.isfinite(matrix).all()):
        return math.inf
    return float(torch.linalg.cond(matrix).max())


def _cells(row: LayerDiagnosis) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    used = "" if row.bins_used is None else f"{row.bins_used:.1f} of {row.bins}"
    return (
        str(row.layer),
        row.name,
        number(row.round_trip, ".1e"),
        number(row.log_det_error, ".1e"),
        number(row.log_det, ".2f"),
        number(row.condition, ".1e"),
        number(row.saturated, ".1%"),
        number(row.tail, ".1%"),
        used,
        str(row.non_finite) if row.non_finite else "",
    )
