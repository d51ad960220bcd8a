"""Residual maps: the identity plus a contraction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._residual_inverse import implicit_root, newton_steps, solve_adjoint, solve_residual
from flowkit.bijectors._residual_log_det import (
    Function,
    Gradient,
    Kind,
    Lengths,
    SeriesOptions,
    estimated_log_det,
    formed_log_det,
    plus_identity,
)
from flowkit.bijectors._scores import Solve, carry_solved
from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.errors import ConfigError, NotInvertibleError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, as_shape, mask_event, positive, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.fixed_point import FixedPoint
from flowkit.numerics.traces import pullback, value_and_jacobian


@BIJECTORS.register("residual_of")
class ResidualOf(Bijector):
    """x = z + g(z), invertible because g is a contraction; the inverse is the fixed point of z = x - g(z).

    log det(I + J), J the Jacobian of g, is found

    - ``"exact"``: from the full Jacobian, D products in one batched pass; for D up to about 32;
    - ``"power_series"``: by the first ``terms`` of sum_k (-1)^{k+1} tr(J^k) / k, too short by at most
      D L^(terms + 1) / ((terms + 1) (1 - L)), L the net's Lipschitz bound; exact traces with ``probes=None``;
    - ``"roulette"``: without bias, by ``terms`` sure terms and N random ones weighted by 1 / P(N >= k). With geometric lengths the
      variance is finite where J's spectral radius squared is below 1 - rate, for certain if L^2 is; with Poisson lengths the
      weights grow like k! / rate^k and it never is for certain. N is drawn once per call, for all rows; the probes once per row.

    Random traces use ``probes`` orthogonal directions (all D of them make the traces exact), always from ``generator``, in
    training and evaluation alike. Their gradient is by default the Neumann series, itself unbiased and as cheap in memory as
    one term; the value stays the estimate of the log-determinant.

    ``inverse`` iterates with Anderson's method until |z + g(z) - x| <= tolerance max(1, |x|, |z|), which bounds the error of z by
    1 / (1 - L) of that in the 2-norm; 5 to 30 evaluations of g are usual. ``solve`` tells how it went. Gradients are exact by the
    implicit function theorem: two Newton steps where the Jacobian is formed (first and second order), else a second fixed
    point in the backward pass (first order; create_graph=True raises there).

    Args:
        net: g, with attributes ``lipschitz`` < 1 (a bound that holds for every parameter value) and ``context_features``, such
            as ``LipschitzMLP``, ``LipschitzDenseMLP`` or ``LipschitzConv``.
        shape: event shape; default the net's ``in_shape``.
        log_det: "exact", "power_series" or "roulette".
        terms: of the power series; for the roulette those summed for certain.
        probes: random directions per row, at most D; None for the exact traces of a power series.
        lengths: law of N, "geometric" (1, 2, ...) or "poisson" (0, 1, ...).
        rate: probability that a geometric N stops at each term (default 0.1: finite variance up to a spectral radius of 0.95), or the
            mean of a Poisson N (default 4).
        gradient: of random traces, "neumann" or "series" (the derivative of the drawn estimate, memory growing with the terms).
        tolerance: of the inverse; default 1e-12 in float64, 1e-6 in float32.
        max_iterations: evaluations of g the inverse may take.

    Raises:
        NotInvertibleError: the inverse has not converged (eager on the CPU; elsewhere those rows are NaN).

    Reference: Behrmann et al. (2019), Invertible Residual Networks, arXiv:1811.00995, equation 4 and algorithm 1; Chen et al. (2019),
    Residual Flows for Invertible Generative Modeling, arXiv:1906.02735, equations 6 to 9.

    Example:
        >>> import torch, flowkit as fk
        >>> f = fk.bijectors.ResidualOf(fk.nets.LipschitzMLP(2, 2, (8,)))
        >>> x, log_det = f(torch.ones(3, 2))
        >>> torch.allclose(f.inverse(x)[0], torch.ones(3, 2), atol=1e-5)
        True
    """

    def __init__(
        self,
        net: nn.Module,
        shape: int | Sequence[int | None] | None = None,
        *,
        log_det: Kind = "exact",
        terms: int = 4,
        probes: int | None = 1,
        lengths: Lengths = "geometric",
        rate: float | None = None,
        gradient: Gradient = "neumann",
        tolerance: float | None = None,
        max_iterations: int = 1000,
    ) -> None:
        super().__init__()
        self.net, self.shape, self.log_det = net, shape, log_det
        self.terms, self.probes, self.lengths, self.rate, self.gradient = terms, probes, lengths, rate, gradient
        self.tolerance, self.max_iterations = tolerance, positive(max_iterations, "ResidualOf", "max_iterations")
        bound = getattr(net, "lipschitz", None)
        if not isinstance(bound, int | float) or not 0 <= bound < 1:
            raise ConfigError(f"ResidualOf: expected a net with an attribute lipschitz below 1; {type(net).__name__} has {bound}. Use LipschitzMLP.")
        self.in_shape = self.out_shape = as_shape(getattr(net, "in_shape", ()) if shape is None else shape, "ResidualOf")
        _check_options(self)
        features = getattr(net, "context_features", 0)
        self.context_shape = (features,) if features else None
        self._formed = log_det == "exact" or (log_det == "power_series" and probes is None)
        rate = {"geometric": 0.1, "poisson": 4.0}[lengths] if rate is None else float(rate)
        self._options = SeriesOptions(self.terms, self.probes or 1, lengths, rate, gradient)
        self.traits = Traits(
            inverse="iterative",
            log_det="exact" if log_det == "exact" else "estimate",
            score="solve",
            stochastic=not self._formed,
            compiles=self._formed,
            vmaps=self._formed,
            smooth=bool(getattr(net, "smooth", True)),
            tolerance={} if self._formed else {torch.float64: 1e-12 / (1 - bound), torch.float32: 1e-5},
        )

    def solve(self, x: Tensor, context: Context = None) -> tuple[Tensor, FixedPoint]:
        """The inverse without its log_det and without a gradient, and how the iteration ended; it never raises for values.

        Args:
            x: (*B, *shape); context: as in ``inverse``.

        Returns:
            z (*B, *shape) and ``FixedPoint(iterations, residual, converged)``, each (*B).
        """
        x, context = self._prepare(x, context, True)
        with torch.no_grad():
            return self._solve(self._function(context), x)

    def _function(self, context: Any) -> Function:
        """g at that context; nets with a method ``at`` bound their weights once for all evaluations."""
        at = getattr(self.net, "at", None)
        if at is not None:
            function: Function = at(context)
            return function
        return self.net if context is None else lambda z: self.net(z, context)

    def _tolerance(self, value: Tensor) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return {torch.float64: 1e-12, torch.float32: 1e-6}.get(value.dtype, 8 * torch.finfo(value.dtype).eps)

    def _solve(self, function: Function, x: Tensor) -> tuple[Tensor, FixedPoint]:
        return solve_residual(function, x, len(self.in_shape), self._tolerance(x), self.max_iterations)

    def _at(self, function: Function, z: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rank = len(self.in_shape)
        if self._formed:
            value, jacobian = value_and_jacobian(function, z, rank)
            return value, self._log_det_of(jacobian)
        return estimated_log_det(function, z, rank, self.log_det, self._options, generator)

    def _log_det_of(self, jacobian: Tensor) -> Tensor:
        return formed_log_det(jacobian, None if self.log_det == "exact" else self.terms)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        value, log_det = self._at(self._function(context), z, generator)
        return z + value, log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rank, tolerance = len(self.in_shape), self._tolerance(x)
        function = self._function(context)
        with torch.no_grad():
            z, status = self._solve(function, x)
        z = self._checked(z, status, x)
        if self._formed:
            z = newton_steps(function, z, x, rank)
        elif torch.is_grad_enabled():
            z = implicit_root(function, z, x, rank, tolerance, self.max_iterations)
        return z, -self._at(function, z, generator)[1]

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """s' = b - J's' with b = s - grad log_det, solved by the Jacobian where it is formed, else as a fixed point of products with J'.

        The gradient is that of the log_det returned, from the same terms and directions: without bias where the estimate has none.
        """
        if inverse:  # the call and one product of the other direction; an estimate there draws its own terms
            return super()._carry(value, score, context, generator, inverse)
        return carry_solved(lambda z: self._with_solve(z, context, generator), value, score)

    def _with_solve(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> (I + J')^-1 v."""
        rank, function = len(self.in_shape), self._function(context)
        if self._formed:
            value, jacobian = value_and_jacobian(function, z, rank)

            def divide(v: Tensor) -> Tensor:
                matrix = plus_identity(jacobian).mT
                return torch.linalg.solve_ex(matrix, v.reshape(*matrix.shape[:-1], 1).to(matrix.dtype))[0].reshape(v.shape).to(v.dtype)

            return z + value, self._log_det_of(jacobian), divide
        value, log_det = self._at(function, z, generator)

        def solve(v: Tensor) -> Tensor:
            pull = pullback(function, z)[1]
            return solve_adjoint(pull, v, rank, self._tolerance(v), self.max_iterations)

        return z + value, log_det, solve

    def _checked(self, z: Tensor, status: FixedPoint, x: Tensor) -> Tensor:
        """Raise for rows that have not converged, or make them NaN where values cannot be looked at."""
        if not may_raise(x):
            return torch.where(mask_event(status.converged, len(self.in_shape)), z, torch.full_like(z, torch.nan))
        rows = torch.isfinite(x.flatten(x.dim() - len(self.in_shape))).all(-1) if self.in_shape else torch.isfinite(x)
        failed = rows & ~status.converged
        if bool(failed.any()):
            raise NotInvertibleError(
                f"ResidualOf.inverse: {int(failed.sum())} of {failed.numel()} events not converged after {self.max_iterations} iterations; largest residual "
                f"{float(status.residual[failed].max()):.3g}, tolerance {self._tolerance(x):.3g}. Raise max_iterations= or tolerance=."
            )
        return z

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ResidualOf]]:
        plain = {"name": "lipschitz_mlp", "in_features": 3, "out_features": 3, "hidden": (8,)}
        yield "exact", cls(build(plain, nn.Module))
        yield "conditional", cls(build({**plain, "context_features": 2, "activation": "clip_swish"}, nn.Module))
        yield "roulette", cls(build(plain, nn.Module), log_det="roulette", probes=3)  # all directions: value and gradient share one estimate
        dense = {"name": "lipschitz_dense_mlp", "in_features": 2, "out_features": 2, "hidden": (4, 4)}
        yield "dense", cls(build(dense, nn.Module))
        half = {**plain, "coefficient": 0.3}
        yield "series", cls(build(half, nn.Module), log_det="power_series", terms=25, gradient="series")
        image = {"name": "lipschitz_conv", "channels": 1, "width": 4, "coefficient": 0.8}
        yield "image", cls(build(image, nn.Module), (1, 3, 3))


def _check_options(f: ResidualOf) -> None:
    if f.log_det not in ("exact", "power_series", "roulette") or f.lengths not in ("geometric", "poisson") or f.gradient not in ("neumann", "series"):
        raise ConfigError(
            f"ResidualOf: expected log_det 'exact', 'power_series' or 'roulette', lengths 'geometric' or 'poisson', gradient 'neumann' or "
            f"'series'; got {f.log_det!r}, {f.lengths!r}, {f.gradient!r}."
        )
    f.terms = whole_number(f.terms, "ResidualOf", "terms", 0 if f.log_det == "roulette" else 1)
    if f.rate is not None and not (0 < f.rate < 1 if f.lengths == "geometric" else f.rate > 0):
        raise ConfigError(f"ResidualOf: expected a rate between 0 and 1 for geometric lengths, above 0 for Poisson; got {f.rate}.")
    if f.probes is None:
        if f.log_det == "roulette":
            raise ConfigError("ResidualOf: the roulette needs probes; give probes=, at most the size of an event.")
        return
    size = None if None in f.in_shape else torch.Size([s for s in f.in_shape if s is not None]).numel()
    f.probes = positive(f.probes, "ResidualOf", "probes")
    if f.probes > (size or f.probes):
        raise ConfigError(f"ResidualOf: expected at most {size} probes, the size of an event; got {f.probes}.")
