"""The flow of a velocity field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._augmented import Running, ScoreSlopes, Slopes, Transport
from flowkit.bijectors._flow_rows import Rows
from flowkit.bijectors._fused_flow import fused_transport
from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, flag, positive, positive_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.core.vector_field import VectorField
from flowkit.numerics.divergence import PROBED, check_mode, choose, draw_probes
from flowkit.numerics.ode import Solution, solve
from flowkit.numerics.ode.arguments import check_solver


@BIJECTORS.register("continuous")
class Continuous(Bijector):
    """x(1) from x(0) = z along dx/dt = v(t, x), with log det = int div v(t, x(t)) dt.

    ``inverse`` follows the field back. Both are as exact as the solver's tolerance; with a fixed number of ``steps`` they are the
    discrete map's own up to its error, which falls with a power of the step. The divergence is the field's own where it has one,
    else exact by d products for small events, else Hutchinson's unbiased estimate with probes drawn once for a call.

    With ``duration`` T the time runs from 1 - T (latent) to 1 (data): what a field says about times near the data does not
    change with T, which ``TemporalOptimization`` learns.

    Args:
        field: the velocity field.
        divergence: "auto", "analytic", "exact", "hutchinson", "hutch++", or a forward-mode variant (``numerics.divergence``).
        solver: the name of a method of ``numerics.ode.solve``.
        steps: number of fixed steps; None for steps by error control, which needs a method with an error estimate.
        rtol, atol: tolerances of the error control, for the place and the log_det alike.
        adjoint: gradient of the solution, as in ``solve``.
        per_sample: a step size for each sample, so that no sample's result depends on the others.
        duration: T > 0.
        probes: random directions per sample of an estimated divergence; law: "rademacher" or "gaussian".
        max_steps: attempts per sample.

    Raises:
        IntegrationError, NonFiniteError: the solution could not be followed (eager on the CPU); the message names time and sample.

    Reference: Chen et al. (2018), Neural Ordinary Differential Equations, arXiv:1806.07366; Grathwohl et al. (2019), FFJORD,
    arXiv:1810.01367.

    Example:
        >>> import torch, flowkit as fk
        >>> f = fk.bijectors.Continuous(fk.continuous.MLPField(2, (8, 8)), rtol=1e-6, atol=1e-6)
        >>> x, log_det = f(torch.zeros(3, 2))
        >>> torch.allclose(f.inverse(x)[0], torch.zeros(3, 2), atol=1e-4)
        True
    """

    def __init__(
        self,
        field: VectorField,
        *,
        divergence: str = "auto",
        solver: str = "dopri5",
        steps: int | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        adjoint: Literal["discrete", "backprop", "continuous", "reversible"] = "discrete",
        per_sample: bool = True,
        duration: float = 1.0,
        probes: int = 1,
        law: str = "rademacher",
        max_steps: int = 10_000,
    ) -> None:
        super().__init__()
        if not isinstance(field, VectorField):
            raise ConfigError(f"{self.who}: expected field to be a velocity field; got {type(field).__name__}. Subclass VectorField, or use MLPField.")
        self.field, self.divergence, self.solver = field, check_mode(divergence, self.who), solver
        self.steps = None if steps is None else positive(steps, self.who, "steps")
        self.rtol, self.atol, self.adjoint, self.per_sample = rtol, atol, adjoint, flag(per_sample, self.who, "per_sample")
        self.probes, self.law, self.max_steps = positive(probes, self.who, "probes"), law, positive(max_steps, self.who, "max_steps")
        self.duration = positive_number(duration, self.who, "duration")
        check_solver(solver, self.steps, adjoint, rtol, atol, self.who)
        self.in_shape = self.out_shape = field.event_shape
        self.context_shape = field.context_shape
        self.register_buffer("time_span", torch.tensor(float(duration)))
        self._settle()

    time_span: Tensor

    def _settle(self) -> None:
        """Traits that follow from the options."""
        size = 1
        for entry in self.field.event_shape:
            size *= entry or 65
        estimated = choose(self.divergence, self.field, size, True) in PROBED
        wide = max(self.rtol, self.atol) if self.steps is None else 1e-4
        self.traits = Traits(
            inverse="iterative",
            log_det="estimate" if estimated else "exact",
            score="solve",
            stochastic=estimated,
            compiles=False,
            vmaps=False,
            tolerance={torch.float64: 100 * wide, torch.float32: 100 * wide + 1e-5},
        )

    def times(self, *, inverse: bool = False) -> Tensor:
        """Latent's and data's time, in the order of the call: (2,)."""
        one = torch.ones_like(self.time_span)
        return torch.stack([one, one - self.time_span] if inverse else [one - self.time_span, one])

    def transport(
        self,
        value: Tensor,
        context: Context = None,
        *,
        inverse: bool = False,
        log_det: bool = True,
        generator: torch.Generator | None = None,
        times: Tensor | Sequence[float] | None = None,
        running: Running | None = None,
        products: bool = False,
        probes: Tensor | None = None,
        boundary: Any = None,
    ) -> Transport:
        """Carry a batch along the field, with what ``forward`` and ``inverse`` leave out.

        Args:
            value: (*B, *event); context: (*Bc, *context_shape).
            log_det: whether to integrate the divergence; without it sampling costs less.
            times: (T,) times to stop at, the first that of ``value``; default the two ends.
            running: (t, x, context, v, e'J (S, r, *event) or None) -> (r, m): costs to integrate along the way; time counts as
                passing forward in both directions. They have no part in the error control.
            products: whether ``running`` wants the products of probes with the Jacobian; the divergence is then estimated from them.
            probes: directions (*B, S, *event) in place of fresh ones.
            boundary: an object with ``reflect``, usually a domain, that keeps the paths inside.

        Returns:
            ``Transport``.
        """
        value, context = self._prepare(value, context, inverse)
        rows = Rows(value, self.field.event_shape, context, self.context_shape)
        several = times is not None
        ends = self.times(inverse=inverse) if times is None else times
        mode = choose("hutchinson" if products else self.divergence, self.field, rows.size, self.training and torch.is_grad_enabled()) if log_det else "none"
        if mode in ("analytic", "none") and running is None and boundary is None and not several:
            moved = fused_transport(self, rows, rows.context(rows.parts), self.times(inverse=inverse), log_det=log_det)
            if moved is not None:
                return Transport(rows.restore(moved[0]), rows.restore_rows(moved[1], 0), None, moved[2], None)
        if mode in PROBED and probes is None:
            probes = self._drawn(value, mode, generator)
        flat_probes = rows.flat_probes(probes) if mode in PROBED else None
        slopes = Slopes(self.field, rows, mode, -1.0 if inverse else 1.0, running, products, flat_probes is not None)
        costs = slopes.costs(rows.value, ends, flat_probes)
        state = tuple(member for member in (rows.value, rows.value.new_zeros(len(rows.value)) if log_det else None, costs) if member is not None)
        constants = (*rows.parts, *(() if flat_probes is None else (flat_probes,)))
        solution = self._solved(slopes, state, ends, constants, 1 + log_det, boundary)
        found = list(solution.ys) if several else [member[-1] for member in solution.ys]
        place, tally = rows.restore(found[0]), found[1] if log_det else found[0].new_zeros(found[0].shape[: 1 + several])
        integrals = None if costs is None else rows.restore_rows(found[-1], 1)
        return Transport(place, rows.restore_rows(tally, 0).to(torch.promote_types(tally.dtype, torch.float32)), integrals, solution.stats, probes)

    def _drawn(self, value: Tensor, mode: str, generator: torch.Generator | None) -> Tensor:
        count = max(self.probes, 2) if mode == "hutch++" else self.probes
        return draw_probes(value, len(self.field.event_shape), count=count, law=self.law, generator=generator)

    def _solved(
        self, slopes: Any, state: tuple[Tensor, ...], ends: Tensor | Sequence[float], constants: tuple[Tensor, ...], controlled: int, boundary: Any
    ) -> Solution:
        """The equation solved; the first ``controlled`` members of the state take part in the error control."""
        smallest = 10 * torch.finfo(state[0].dtype).eps
        return solve(
            slopes,
            state,
            ends,
            args=constants,
            method=self.solver,
            rtol=self.rtol,
            atol=tuple(max(self.atol, smallest) if i < controlled else float("inf") for i in range(len(state))),
            adjoint=self.adjoint,
            per_sample=self.per_sample,
            steps=self.steps,
            max_steps=self.max_steps,
            params=self.field,
            boundary=boundary,
        )

    def _forward(self, value: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        moved = self.transport(value, context, generator=generator)
        return moved.value, moved.log_det

    def _inverse(self, value: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        moved = self.transport(value, context, inverse=True, generator=generator)
        return moved.value, moved.log_det

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The score by an equation of its own, solved beside the place's and the log_det's; their error alone sets its steps.

        Where a gradient is wanted the call itself is made too, as its graph (the steps' own adjoint, or a fused kernel) knows no score. Both
        solve one equation by one rule from one set of probes, so they take the same steps.
        """
        rows = Rows(value, self.field.event_shape, context, self.context_shape)
        mode = choose(self.divergence, self.field, rows.size, self.training and torch.is_grad_enabled())
        probes = self._drawn(value, mode, generator) if mode in PROBED else None
        moved = self.transport(value, context, inverse=inverse, probes=probes) if torch.is_grad_enabled() else None
        with torch.no_grad():
            flat = rows.flat_probes(probes)
            slopes = ScoreSlopes(Slopes(self.field, rows, mode, -1.0 if inverse else 1.0, None, False, flat is not None))
            state = (rows.value, rows.value.new_zeros(len(rows.value)), score.reshape(rows.value.shape))
            constants = (*rows.parts, *(() if flat is None else (flat,)))
            place, tally, carried = (member[-1] for member in self._solved(slopes, state, self.times(inverse=inverse), constants, 2, None).ys)
        if moved is not None:
            return moved.value, moved.log_det, rows.restore(carried)
        return rows.restore(place), rows.restore_rows(tally, 0).to(torch.promote_types(tally.dtype, torch.float32)), rows.restore(carried)

    def move(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Where a batch goes, without the divergence."""
        return self.transport(value, context, inverse=inverse, log_det=False, generator=generator).value

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Continuous]]:
        plain = {"name": "mlp_field", "features": 2, "hidden": (8, 8)}
        yield "mlp", cls(build(plain, VectorField), solver="dopri8", rtol=1e-11, atol=1e-11)
        conditional = build({**plain, "context_features": 3, "activation": "silu"}, VectorField)
        yield "conditional", cls(conditional, divergence="exact", solver="dopri8", rtol=1e-11, atol=1e-11)
        yield "joint_steps", cls(build(plain, VectorField), solver="dopri8", steps=6, per_sample=False)
