"""The divergence of a velocity field: exact, or estimated with random probes, by products with its Jacobian.

With J = dv/dx at one sample and probes e, E[e e'] = I:

    exact        div v = sum_i e_i' J e_i over the unit vectors: d products
    hutchinson   mean over the probes of e' J e; its variance for Rademacher probes is 2 (|S|_F^2 - sum_i S_ii^2), S = (J + J') / 2,
                 and for Gaussian probes 2 |S|_F^2
    hutch++      tr(Q' J Q) + mean over g of g' P J P g, with Q an orthonormal basis of the sketch J' [e_1 .. e_k] and P = I - Q Q'

Products are J'e by reverse mode; the ``_forward`` modes use J e by forward mode, which keeps no activations: less memory where only
the value is needed, but slower than reverse mode for small networks. All are differentiable in x and in what the velocity is made
of, and work where nothing is recorded too.

A solve draws its probes once and keeps them through all steps: fresh ones at every stage would make the right-hand side jump.

Reference: Hutchinson (1990), Commun. Stat. Simul. Comput. 19; Grathwohl et al. (2019), FFJORD, arXiv:1810.01367;
Meyer et al. (2021), Hutch++, arXiv:2010.09649.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.checks import runs_eagerly
from flowkit.core.errors import ConfigError, UnknownNameError, nearest
from flowkit.core.shapes import Context, batch_shape, positive, sum_event
from flowkit.numerics.precision import full_precision
from flowkit.numerics.traces import Pull, pullback

Velocity = Callable[[Tensor], Tensor]

MODES = ("auto", "analytic", "exact", "hutchinson", "hutch++", "exact_forward", "hutchinson_forward")
PROBED = ("hutchinson", "hutch++", "hutchinson_forward")
_EXACT, _EXACT_IN_EVALUATION = 8, 64  # the largest events for which "auto" spends d products
_AT_ONCE = 64  # products of one batched pass, which pays where the batch is small
_ROWS_ON_CPU, _ROWS_ELSEWHERE = 64, 2048


def check_mode(mode: str, who: str) -> str:
    """Check the name of a divergence mode."""
    if mode not in MODES:
        raise UnknownNameError(f"{who}: no divergence mode named {mode!r}. {nearest(str(mode), MODES)}")
    return mode


def choose(mode: str, field: Any, size: int, training: bool) -> str:
    """What "auto" means for a field: its own divergence if it has one, else exact while that is cheap, else Hutchinson's estimate.

    Args:
        mode: a name of ``MODES``; all but "auto" and "analytic" come back as they are.
        field: a ``VectorField``.
        size: d, the numbers in one event.
        training: whether a loss asks; then d <= 8 counts as cheap, in evaluation d <= 64.

    Raises:
        ConfigError: "analytic" for a field without an exact divergence of its own.
    """
    check_mode(mode, "divergence")
    analytic = getattr(field, "divergence", None) is not None
    if mode == "analytic" and not analytic:
        raise ConfigError(f"divergence: {type(field).__name__} has no exact divergence of its own. Use mode='exact' or 'hutchinson'.")
    if mode != "auto":
        return mode
    if analytic:
        return "analytic"
    return "exact" if size <= (_EXACT if training else _EXACT_IN_EVALUATION) else "hutchinson"


def draw_probes(like: Tensor, rank: int, *, count: int = 1, law: str = "rademacher", generator: torch.Generator | None = None) -> Tensor:
    """Random directions with E[e e'] = I for one solve.

    Args:
        like: x (*B, *event); rank: number of event axes.
        count: directions for each sample, S. For "hutch++" an even number: 3 S / 2 products.
        law: "rademacher" or "gaussian".

    Returns:
        (*B, S, *event), in the dtype of x.
    """
    count = positive(count, "draw_probes", "count")
    batch = batch_shape(like, tuple(like.shape[like.dim() - rank :]))
    empty = torch.empty((*batch, count, *like.shape[len(batch) :]), dtype=like.dtype, device=like.device)
    if law == "gaussian":
        return empty.normal_(generator=generator)
    if law != "rademacher":
        raise ConfigError(f"draw_probes: expected law 'rademacher' or 'gaussian'; got {law!r}.")
    return empty.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


def field_and_divergence(field: Any, t: Tensor, x: Tensor, context: Context = None, *, mode: str, probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Velocity and divergence of a ``VectorField``, by its own exact divergence for ``mode="analytic"``.

    Args:
        field: offers ``velocity`` and, for "analytic", ``divergence`` or better ``velocity_and_divergence``.
        t, x, context: as for ``VectorField.velocity``.
        mode, probes: as for ``velocity_and_divergence``.

    Returns:
        v (*B, *event) in the dtype of x, and div v (*B), which autocast leaves in float32.
    """
    if mode != "analytic":
        return velocity_and_divergence(lambda point: field.velocity(t, point, context), x, len(field.event_shape), mode, probes)
    if torch.is_autocast_enabled(x.device.type):
        with full_precision(x):
            return _analytic(field, t, x, context)
    return _analytic(field, t, x, context)


def velocity_and_divergence(velocity: Velocity, x: Tensor, rank: int, mode: str = "exact", probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A velocity and its divergence from products with the Jacobian.

    Args:
        velocity: (*B, *event) -> the same, samples independent of each other.
        x: (*B, *event); rank: number of event axes.
        mode: "exact", "hutchinson", "hutch++", "exact_forward" or "hutchinson_forward".
        probes: (*B, S, *event), or (*B, *event) for one; from ``draw_probes``, the same throughout a solve. For "hutch++" the first
            half makes the sketch, which counts as constant for gradients.

    Returns:
        v (*B, *event) and div v (*B), float32 at least.

    Raises:
        ConfigError: probes are missing; UnknownNameError: no such mode.

    Example:
        >>> import torch
        >>> from flowkit.numerics.divergence import velocity_and_divergence
        >>> v, divergence = velocity_and_divergence(lambda x: x**2, torch.tensor([[1.0, 2.0]]), 1)
        >>> divergence.tolist()
        [6.0]
    """
    if mode in ("exact", "exact_forward"):
        return _summed(velocity, x, rank, mode, _unit_vectors(x, rank, mode))
    if mode not in PROBED:
        raise UnknownNameError(f"velocity_and_divergence: no mode named {mode!r}. {nearest(str(mode), ('exact', 'exact_forward', *PROBED))}")
    vectors = _in_front(probes, x, rank, mode)
    if mode == "hutchinson_forward":
        v, total = _summed(velocity, x, rank, mode, iter([vectors]))
        return v, total / len(vectors)
    if mode == "hutch++":
        return _sketched(velocity, x, rank, vectors)
    v, divergence, _ = velocity_and_products(velocity, x, rank, vectors)
    return v, divergence


def velocity_and_products(velocity: Velocity, x: Tensor, rank: int, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hutchinson's estimate with the products it is made of, which also estimate |J|_F^2 = E |J'e|^2.

    Args:
        velocity, x, rank: as for ``velocity_and_divergence``.
        vectors: e (S, *B, *event).

    Returns:
        v (*B, *event), the mean of e' J e (*B), and J'e (S, *B, *event).
    """
    v, pull = pullback(velocity, x)
    products = _pulled(pull, vectors)
    return v.to(x.dtype), sum_event(products * vectors, rank).mean(0), products


def _analytic(field: Any, t: Tensor, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    both = getattr(field, "velocity_and_divergence", None)
    if both is None:
        return field.velocity(t, x, context), field.divergence(t, x, context)
    v, divergence = both(t, x, context)
    return v, divergence


def _in_front(probes: Tensor | None, x: Tensor, rank: int, mode: str) -> Tensor:
    """The probes with their own axis first: (S, *B, *event)."""
    if probes is None:
        raise ConfigError(f"velocity_and_divergence: expected probes for mode {mode!r}; got none. Pass probes=draw_probes(x, rank).")
    if probes.dim() == x.dim():
        return probes.unsqueeze(0)
    return probes.movedim(-rank - 1, 0)


def _pulled(pull: Pull, vectors: Tensor) -> Tensor:
    return pull(vectors[0]).unsqueeze(0) if len(vectors) == 1 else pull(vectors, True)


def _unit_vectors(x: Tensor, rank: int, mode: str) -> Iterator[Tensor]:
    """The unit vectors of an event, some at a time: (n, *B, *event)."""
    event, rows = x.shape[x.dim() - rank :], batch_shape(x, tuple(x.shape[x.dim() - rank :])).numel()
    basis = torch.eye(event.numel(), dtype=x.dtype, device=x.device).reshape(-1, *([1] * (x.dim() - rank)), *event)
    few = mode == "exact_forward" or rows <= (_ROWS_ON_CPU if x.device.type == "cpu" else _ROWS_ELSEWHERE)
    return (part.expand(len(part), *x.shape) for part in basis.split(_AT_ONCE if few or not runs_eagerly() else 1))


def _summed(velocity: Velocity, x: Tensor, rank: int, mode: str, parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """v and the sum of e' J e over all vectors."""
    pull = None
    if not mode.endswith("_forward"):
        v, pull = pullback(velocity, x)
    total: Tensor | None = None
    for vectors in parts:
        if pull is None:
            v, products = _pushed(velocity, x, vectors)
        else:
            products = _pulled(pull, vectors)
        share = sum_event(products * vectors, rank).sum(0)
        total = share if total is None else total + share
    assert total is not None
    return v.to(x.dtype), total


def _pushed(velocity: Velocity, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """v and J e by forward mode: (*B, *event) and (S, *B, *event)."""

    def push(vector: Tensor) -> Any:  # torch.func: softmax under plain forward mode cannot be differentiated again (torch 2.13)
        return torch.func.jvp(velocity, (x,), (vector,))

    if len(vectors) == 1:
        v, product = push(vectors[0])
        return v, product.unsqueeze(0)
    every: Any = torch.func.vmap(push, out_dims=(None, 0))  # type: ignore[arg-type]
    v, products = every(vectors)
    return v, products


def _sketched(velocity: Velocity, x: Tensor, rank: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Hutch++ for J', whose trace is that of J."""
    half = len(vectors) // 2
    if 2 * half != len(vectors) or not half:
        raise ConfigError(f"velocity_and_divergence: expected an even number of probes for 'hutch++'; got {len(vectors)}. Use draw_probes(..., count=2).")
    v, pull = pullback(velocity, x)
    shape, size = vectors.shape[1:], x.shape[x.dim() - rank :].numel()
    with torch.no_grad():
        sketch = _pulled(pull, vectors[:half]).detach()
        columns = sketch.reshape(half, *shape[: len(shape) - rank], size).movedim(0, -1)
        basis = torch.linalg.qr(columns.to(torch.promote_types(x.dtype, torch.float32))).Q.to(x.dtype)  # (*B, d, min(k, d))
        others = vectors[half:].reshape(half, *shape[: len(shape) - rank], size).movedim(0, -1)
        others = others - basis @ (basis.mT @ others)
        both = torch.cat([basis, others], dim=-1).movedim(-1, 0)
    both = both.reshape(len(both), *shape)
    found = sum_event(_pulled(pull, both) * both, rank)
    return v.to(x.dtype), found[: basis.shape[-1]].sum(0) + found[basis.shape[-1] :].mean(0)
