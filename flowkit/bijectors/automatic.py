"""A bijector made from a forward function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.bijectors._scores import Solve, carry_diagonal, carry_solved
from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.errors import ConfigError, NotInvertibleError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, show, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.newton import newton_solve
from flowkit.numerics.root_finding import solve_increasing


@BIJECTORS.register("automatic")
class Automatic(Bijector):
    """x = function(z); the log_det comes from automatic differentiation, the inverse too where none is given.

    With ``jacobian="dense"`` the log_det is log|det J| of the whole Jacobian: D vector-Jacobian products and an O(D^3) determinant.
    With ``jacobian="diagonal"``, for functions that act on every coordinate alone, one product serves. Without
    ``inverse_function`` the inverse is Newton's method with a line search (dense), or bracketing, for a function that increases
    in every coordinate (diagonal); its gradients are those of the implicit function theorem, to second order.

    Args:
        function: (*B, *shape) -> (*B, *shape), row by row, or with a context (z, context) -> x. A bijector stands for its
            ``forward``, its own log_det unused. A registered module can be saved; a plain function trains, and ``save`` raises.
        shape: event shape, all sizes known.
        inverse_function: the inverse in the same form, if there is a formula.
        jacobian: "dense" or "diagonal".
        context_shape: event shape of the context, None for none.

    Raises:
        NotInvertibleError: no solution was found (eager mode on the CPU; elsewhere the event is NaN).

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Automatic
        >>> cube = Automatic(lambda z: z + z**3, 2, jacobian="diagonal")
        >>> x, log_det = cube(torch.tensor([0.0, 1.0]))
        >>> x.tolist(), round(log_det.item(), 4), cube.inverse(x)[0].tolist()
        ([0.0, 2.0], 1.3863, [0.0, 1.0])
    """

    def __init__(
        self,
        function: Bijector | nn.Module | Callable,  # type: ignore[type-arg]
        shape: int | Sequence[int],
        *,
        inverse_function: Bijector | nn.Module | Callable | None = None,  # type: ignore[type-arg]
        jacobian: Literal["dense", "diagonal"] = "dense",
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for given in (function, inverse_function):
            if given is not None and not callable(given):
                raise ConfigError(f"Automatic: expected a function or a module; got {given!r}.")
        if jacobian not in ("dense", "diagonal"):
            raise ConfigError(f"Automatic: expected jacobian to be 'dense' or 'diagonal'; got {jacobian!r}.")
        self.function, self.inverse_function, self.shape, self.jacobian = function, inverse_function, shape, jacobian
        self.in_shape = self.out_shape = as_shape(shape, "Automatic")
        if None in self.in_shape or (jacobian == "dense" and not self.in_shape):
            raise ShapeError(f"Automatic: expected a shape of known sizes, with an axis if the Jacobian is dense; got {show(self.in_shape)}.")
        self._size = torch.Size(self.in_shape).numel()  # type: ignore[arg-type]
        self.context_shape = None if context_shape is None else as_shape(tuple(context_shape), "Automatic")
        known = function.traits if isinstance(function, Bijector) else Traits()
        found = inverse_function is None
        self.traits = Traits(
            inverse="iterative" if found else "closed",
            jacobian=jacobian,
            score="closed" if jacobian == "diagonal" else "solve",
            smooth=known.smooth,
            compiles=known.compiles,
            vmaps=known.vmaps,
            tolerance={torch.float64: 1e-8, torch.float32: 1e-4} if found and jacobian == "dense" else {},
        )

    def _value(self, function: Any, z: Tensor, context: Any) -> Tensor:
        x = function(z) if self.context_shape is None else function(z, context)
        x = x[0] if isinstance(function, Bijector) else x
        if not isinstance(x, Tensor) or x.shape != z.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"Automatic: expected the function to keep the shape {tuple(z.shape)}; got {got}.")
        return x

    def _at(self, z: Tensor, context: Any) -> Tensor:
        return self._value(self.function, z, context)

    # -- the Jacobian -------------------------------------------------------------------------------------------

    def _linearized(self, z: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        """The value and the Jacobian: its diagonal (*B, *shape), or the matrix over flattened events (*B, D, D)."""
        x, pull = torch.func.vjp(lambda value: self._at(value, context), z)  # type: ignore[misc]
        if self.jacobian == "diagonal":
            return x, pull(torch.ones_like(z))[0]
        batch, size = z.shape[: z.dim() - len(self.in_shape)], self._size
        basis = torch.eye(size, dtype=z.dtype, device=z.device).reshape(size, *([1] * len(batch)), *z.shape[len(batch) :])
        rows = torch.func.vmap(lambda way: pull(way.expand_as(z))[0])(basis)  # an event's rows depend on that event alone
        return x, rows.reshape(size, *batch, size).movedim(0, -2)

    def _log_det(self, jacobian: Tensor) -> Tensor:
        if self.jacobian == "diagonal":
            return sum_event(jacobian.abs().log(), len(self.in_shape))
        return torch.linalg.slogdet(jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))).logabsdet

    # -- both directions ----------------------------------------------------------------------------------------

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, jacobian = self._linearized(z, context)
        return x, self._log_det(jacobian)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = self._solved(x, context) if self.inverse_function is None else self._value(self.inverse_function, x, context)
        return z, -self._log_det(self._linearized(z, context)[1])

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse:  # the call and one product of the other direction
            return super()._carry(value, score, context, generator, inverse)
        if self.jacobian == "diagonal":
            return carry_diagonal(self, value, score, context, generator, inverse)
        return carry_solved(lambda z: self._with_solve(z, context), value, score)

    def _with_solve(self, z: Tensor, context: Any) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v, from one Jacobian."""
        x, jacobian = self._linearized(z, context)
        return x, self._log_det(jacobian), lambda v: self._step(jacobian.mT, v)

    def _solved(self, x: Tensor, context: Any) -> Tensor:
        z = self._bracketed(x, context) if self.jacobian == "diagonal" else self._newton(x, context)
        z = self._judged(z, x, context)
        for _ in range(2):  # with a graph: exact first and second derivatives of the solution
            reached, jacobian = self._linearized(z, context)
            z = z - self._step(jacobian, reached - x)
        return z

    def _bracketed(self, x: Tensor, context: Any) -> Tensor:
        return x if x.is_meta else solve_increasing(lambda z: self._at(z, context), x)  # nothing to look for on "meta"

    def _newton(self, x: Tensor, context: Any) -> Tensor:
        def value(flat: Tensor) -> Tensor:
            return self._at(flat.reshape(x.shape), context).reshape(flat.shape)

        def slope(flat: Tensor) -> Tensor:
            return self._linearized(flat.reshape(x.shape), context)[1].reshape(*flat.shape, flat.shape[-1])

        batch = x.shape[: x.dim() - len(self.in_shape)]
        return newton_solve(value, slope, x.reshape(*batch, self._size)).reshape(x.shape)

    def _step(self, jacobian: Tensor, residual: Tensor) -> Tensor:
        if self.jacobian == "diagonal":
            return residual / torch.where(jacobian == 0, torch.ones_like(jacobian), jacobian)
        flat = residual.reshape(*jacobian.shape[:-1], 1)
        return torch.linalg.solve_ex(jacobian, flat)[0].reshape(residual.shape)

    def _judged(self, z: Tensor, x: Tensor, context: Any) -> Tensor:
        """The root where it is one; else raise, or NaN where values cannot be looked at."""
        rank = len(self.in_shape)
        with torch.no_grad():
            residual = sum_event((self._at(z, context) - x).abs(), rank)
            size = sum_event(x.abs(), rank)
            found = (residual <= torch.finfo(x.dtype).eps ** 0.5 * (1 + size)) | ~torch.isfinite(size)
        if may_raise(x) and not bool(found.all()):
            raise NotInvertibleError(
                f"Automatic.inverse: no solution found for {int((~found).sum())} of {found.numel()} events. "
                "Is the function invertible (increasing, if diagonal) and the value in its range? Pass inverse_function= if there is a formula."
            )
        return torch.where(found.reshape(*found.shape, *([1] * rank)), z, torch.full_like(z, torch.nan))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Automatic]]:
        options = {"univariate": {"name": "affine", "bound": 1.0}, "hidden": (8,), "activation": "tanh"}
        coupling = {"name": "coupling", "features": 2, **options}
        twisted = {"name": "chain", "transforms": [coupling, {"name": "permutation", "order": (1, 0)}, coupling]}
        yield "dense", cls(build(twisted, Bijector), 2)
        spline = {"name": "elementwise", "shape": (2,), "univariate": {"name": "rational_quadratic_spline", "bins": 3}, "context_features": 2, "hidden": (8,)}
        yield "diagonal_conditional", cls(build(spline, Bijector), (2,), jacobian="diagonal", context_shape=(2,))
        affine = build({"name": "affine", "shape": (2, 1)}, Bijector)
        yield "given_inverse", cls(affine, (2, 1), inverse_function=build({"name": "inverse", "bijector": affine}, Bijector))
