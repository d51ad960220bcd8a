"""Conditional flow matching."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError, UnknownNameError, nearest
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive_number
from flowkit.numerics.schedules import Quantity, described, margin, velocity_weights
from flowkit.objectives._ends import base_draws, batch_mean, continuous_flow, map_parts
from flowkit.objectives._label_drop import checked_share, seen_context
from flowkit.objectives._pairings import DEFAULT_REG, Pairing
from flowkit.objectives._paths import Path
from flowkit.objectives._times import TimeLaw

WEIGHT_LIMIT = 400.0  # of the squared ratio by which a weight converts errors: 1 - t >= 0.05 on the linear path


@OBJECTIVES.register("flow_matching", "cfm")
class FlowMatching(Objective):
    """Regress the velocity on that of paths between noise x0 and data x1: simulation-free training of a continuous flow.

        loss = E w(t) |v(t, x_t) - u_t|^2 / d,   (x0, x1) ~ pairing,  t ~ time,  x_t and u_t = dx_t/dt from the path

    The minimiser is the velocity E[u_t | x_t] that carries the base to the data. A name, or ``{name: ..., **options}``, chooses each part:

    - ``pairing``: "independent"; "ot", the exact best permutation in the batch; "equivariant_ot", the same up to the order and the rotation of
      alike particles (N, d), for a field and a base as symmetric and no standardisation; "conditional_ot" (weight), "ot" among equal labels or near
      contexts, without which pairing makes the noise depend on the condition; "sinkhorn" (reg), pairs from the entropic plan; "unbalanced" (reg,
      marginal_penalty), which may leave outliers out. Labels, contexts and weights stay with their data. "ot" is solved on the CPU.
    - ``path``: "linear", "trig" ("cosine"), "vp" (beta_min, beta_max), "linear_vp", "polynomial" (power), "target_ot" ("gaussian"), whose noise
      ends at sigma, and "bridge", a Brownian bridge of diffusion sigma^2; the others add N(0, sigma^2) to every place.
    - ``time``: "uniform", "stratified", "logit_normal" (mean, std), "edm" (mean, std).
    - ``weight``: the quantity whose error is measured, "velocity", "data", "noise" or "score" (limit, of the factor), whichever is predicted.

    I-CFM is the default; OT-CFM is pairing="ot"; SB-CFM is pairing="sinkhorn", path="bridge", with reg = 2 sigma^2 by default. A field that predicts
    something else than a velocity, ``continuous.PredictionField``, is regressed on what it predicts. ``extra["source"]`` (B, *event) takes the place
    of draws of the base, in the space of the field (the standardised one, if the flow standardises): flows between two data sets, of which
    sample by ``flow.path``. ``extra["weight"]`` weighs rows; where rows are paired, they are drawn anew with these probabilities first, so that
    the noise keeps its law.

    Args:
        pairing, path, time, weight: as above. sigma: >= 0.
        label_drop: probability in [0, 1) that a row is trained without its context, for classifier-free guidance (``flow.guided(scale)``).

    Raises:
        UnknownNameError, ConfigError: an option, or a model that is no continuous flow. NonFiniteError: data are NaN or infinite.

    Reference: Lipman et al. (2023), Flow Matching for Generative Modeling, arXiv:2210.02747; Tong et al. (2024), arXiv:2302.00482; Klein, Kraemer and
        Noe (2023), arXiv:2306.15030 (equivariant_ot); Albergo and Vanden-Eijnden (2023), arXiv:2209.15571; Ho and
        Salimans (2022), Classifier-free diffusion guidance, arXiv:2207.12598.

    Example:
        >>> import torch, flowkit as fk
        >>> flow, x = fk.flows.ContinuousFlow(2, hidden=(8, 8)), torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> fk.fit(flow, x, fk.objectives.FlowMatching(pairing="ot"), max_steps=2, batch_size=32, seed=0, progress=False).steps
        2
    """

    requires = frozenset({"data"})

    def __init__(
        self,
        pairing: str | Mapping[str, Any] = "independent",
        path: str | Mapping[str, Any] = "linear",
        sigma: float = 0.0,
        *,
        time: str | Mapping[str, Any] = "uniform",
        label_drop: float = 0.0,
        weight: str | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.pairing, self.path, self.sigma, self.time, self.label_drop, self.weight = pairing, path, sigma, time, label_drop, weight
        if not _is_number(sigma) or not 0 <= sigma < math.inf:
            raise ConfigError(f"FlowMatching: expected a finite sigma >= 0; got {sigma!r}.")
        checked_share(label_drop, "FlowMatching")
        self._path = Path.of(path, float(sigma), "FlowMatching")
        self._pairing = Pairing.of(pairing, "FlowMatching", reg=DEFAULT_REG if self._path.schedule is not None else 2 * float(sigma) ** 2)
        self._time = TimeLaw.of(time, "FlowMatching")
        self._weight, self._limit = _measured(weight)
        if self._weight is not None and self._path.schedule is None:
            raise ConfigError("FlowMatching: a bridge has no weight; it is regressed on velocities. Drop weight=, or choose another path.")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = continuous_flow(model, "FlowMatching")
        predicted_quantity = self._predicted(flow.field)
        x0, x1, context, weight = self._pairs(flow, batch, generator)
        t = self._time.draw(x1, generator)
        noise = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=x1.device) if self._path.sigma else None
        x, velocity = self._path.at(t, x0, x1, noise)
        call = flow.field.velocity if predicted_quantity == "velocity" else flow.field.prediction
        predicted = call(t, x, seen_context(self, flow, context, x1, generator))
        target = velocity if predicted_quantity == "velocity" else self._target(predicted_quantity, t, x0, x1)
        if weight is None and self._weight in (None, predicted_quantity):
            return Loss(functional.mse_loss(predicted, target))
        errors = (predicted - target).square().flatten(1).mean(1) * self._factor(predicted_quantity, t)
        return Loss(batch_mean(errors, Batch(extra={} if weight is None else {"weight": weight})))

    def _pairs(self, flow: Any, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Any, Tensor | None]:
        """x0, x1, the raw context and the weights of the pairs."""
        if batch.x is None:
            raise ConfigError("FlowMatching: expected a batch of data; got none. Pass the source to fit.")
        _check_finite(batch.x, "data")
        x1, context, weight = flow.endpoint(batch.x, batch.context), batch.context, batch.extra.get("weight")
        x0 = self._source(flow, batch, x1, generator)
        if self._pairing.independent:
            return x0, x1, context, weight
        if context is None and self._pairing.name == "conditional_ot":
            raise ConfigError("FlowMatching: pairing='conditional_ot' needs a context; the batch has none. Pass (x, context), or pairing='ot'.")
        if weight is not None:
            drawn = torch.multinomial(weight.double().clamp(min=1e-300), len(x1), replacement=True, generator=generator)
            x1, context, weight = x1[drawn], map_parts(context, lambda part: part[drawn]), weight.mean().expand(len(x1))
        rows = self._pairing.rows(x0, x1, context, generator)
        if rows.data is not None:
            at = rows.data
            x1, context = x1[at], map_parts(context, lambda part: part[at])
        return self._pairing.aligned(x0 if rows.noise is None else x0[rows.noise], x1), x1, context, weight

    def _source(self, flow: Any, batch: Batch, x1: Tensor, generator: torch.Generator | None) -> Tensor:
        source = batch.extra.get("source")
        if source is None:
            if flow.base.context_shape is not None and not self._pairing.independent:
                raise ConfigError("FlowMatching: a conditional base cannot be paired anew, its draws belong to their contexts. Use pairing='independent'.")
            return base_draws(flow, len(x1), batch.context, generator).to(x1)
        if source.shape != x1.shape:
            raise ShapeError(f"FlowMatching: expected extra['source'] of shape {tuple(x1.shape)}, as the data in field space; got {tuple(source.shape)}.")
        _check_finite(source, "extra['source']")
        return source.to(x1)

    def _predicted(self, field: Any) -> Quantity:
        """What the field predicts, once it is seen to fit the path."""
        quantity: Quantity = getattr(field, "predicts", "velocity")
        if quantity == "velocity":
            return quantity
        if self._path.sigma or field.schedule != self._path.schedule:
            raise ConfigError(f"FlowMatching: the field predicts {quantity} on {field.schedule}; got {self._path}. Give both the same path, sigma=0.")
        if quantity == "score" and not self._pairing.independent:
            raise ConfigError("FlowMatching: a score is that of independent noise. Use pairing='independent', or a field that predicts data or noise.")
        return quantity

    def _target(self, quantity: Quantity, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        if quantity != "score":
            return x1 if quantity == "data" else x0
        return -x0 / self._path.coefficients(t.clamp(max=1 - margin(t)), x0).sigma

    def _factor(self, quantity: Quantity, t: Tensor) -> Tensor | float:
        """By how much a squared error of the predicted quantity counts, (B)."""
        if self._weight in (None, quantity):
            return 1.0
        assert self._path.schedule is not None and self._weight is not None
        at = self._path.schedule.coefficients(t.clamp(margin(t), 1 - margin(t)))
        return (velocity_weights(quantity, at)[1] / velocity_weights(self._weight, at)[1]).square().clamp(max=self._limit)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, FlowMatching, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 2.0 + 0.5 * torch.randn(48, 2, generator=generator)
        labels, weight = torch.randint(0, 3, (48,), generator=generator), torch.rand(48, generator=generator)
        plain = {"name": "continuous_flow", "features": 2, "hidden": (16, 16)}
        yield "optimal_transport", cls("ot"), build(plain, Flow), Batch(x)
        yield "labels_dropped", cls("conditional_ot", label_drop=0.2, time="edm"), build({**plain, "classes": 3}, Flow), Batch(x, labels)
        yield "bridge", cls("sinkhorn", "bridge", 0.5), build(plain, Flow), Batch(x)
        field = {"name": "prediction_field", "field": {"name": "mlp_field", "features": 2, "hidden": (16, 16)}, "predicts": "data", "path": "vp"}
        yield "data_prediction", cls(path="vp", weight="noise"), build({**plain, "field": field}, Flow), Batch(x, extra={"weight": weight})
        yield "unbalanced", cls({"name": "unbalanced", "reg": 0.5}, "trig", 0.1, time="stratified"), build(plain, Flow), Batch(x, extra={"weight": weight})
        clusters = torch.randn(16, 3, 2, generator=generator)
        symmetric: dict[str, Any] = {"name": "continuous_flow", "field": {"name": "egnn_field", "particles": 3, "dim": 2, "hidden": 8}, "standardize": False}
        symmetric["base"] = {"name": "mean_free_normal", "particles": 3, "dim": 2}
        yield "clusters", cls("equivariant_ot"), build(symmetric, Flow), Batch(clusters - clusters.mean(1, keepdim=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _measured(weight: str | Mapping[str, Any] | None) -> tuple[Quantity | None, float]:
    """The quantity whose error counts, and the limit of the factor."""
    if weight is None:
        return None, WEIGHT_LIMIT
    name, options = described(weight, "weight", "FlowMatching")
    known: tuple[Quantity, ...] = get_args(Quantity)
    if name not in known:
        raise UnknownNameError(f"FlowMatching: no weight named {name!r}. {nearest(name, known)}")
    unknown = set(options) - {"limit"}
    if unknown:
        raise ConfigError(f"FlowMatching: weight '{name}' has no option {min(unknown)!r}. It takes: limit.")
    return next(one for one in known if one == name), positive_number(options.get("limit", WEIGHT_LIMIT), "FlowMatching", "weight's limit")


def _check_finite(value: Tensor, what: str) -> None:
    if not may_raise(value) or math.isfinite(value.sum().item()):  # the sum alone is quick, but may overflow
        return
    if not bool(torch.isfinite(value).all()):
        row = int((~torch.isfinite(value.flatten(1))).any(1).nonzero()[0])
        raise NonFiniteError(f"FlowMatching: {what} holds NaN or infinite values, the first in row {row} of the batch. Drop or impute them.")
