"""flowjax's rational-quadratic spline on parameters of every element, jitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.utils import get_ravelled_pytree_constructor

from flowkit.bench.jax_side.wire import Arrays


def spline_of(bins: int, bound: float, floor: float) -> RationalQuadraticSpline:
    """Bins with the same smallest width, height and slope as ours."""
    return RationalQuadraticSpline(knots=bins - 1, interval=bound, min_width=2 * bound * floor, min_derivative=floor)


def spline(head: dict[str, Any], arrays: Arrays) -> dict[str, Callable[[], Any]]:
    """Jobs ``forward`` and ``both``, and ``values``, what both give; x (N, D), params (N, D, 3K + 1) as flowjax ravels them."""
    constructor, count = get_ravelled_pytree_constructor(
        spline_of(head["bins"], head["bound"], head["floor"]), filter_spec=eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    x, params = jnp.asarray(arrays["x"]), jnp.asarray(arrays["params"])
    if params.shape[-1] != count:
        raise ValueError(f"{params.shape[-1]} parameters where flowjax has {count}")

    def one(value: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        return paramax.unwrap(constructor(raw)).transform_and_log_det(value)

    def mapped(value: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, log_slope = jax.vmap(jax.vmap(one))(value, raw)
        return y, log_slope.sum(-1)

    def total(value: jax.Array, raw: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        y, log_det = mapped(value, raw)
        return y.sum() + log_det.sum(), (y, log_det)

    forward, both = jax.jit(mapped), jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    jobs: dict[str, Callable[[], Any]] = {"forward": lambda: forward(x, params), "both": lambda: both(x, params)}

    def values() -> Arrays:
        (of_x, of_params), (y, log_det) = both(x, params)
        return {"y": np.asarray(y), "log_det": np.asarray(log_det), "of_x": np.asarray(of_x), "of_params": np.asarray(of_params)}

    return {**jobs, "values": values}
