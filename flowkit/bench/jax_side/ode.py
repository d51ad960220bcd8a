"""A continuous flow's log-det solve and gradient by diffrax, jitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from flowkit.bench.jax_side.wire import Arrays

Weights = dict[str, jax.Array]
MOST_STEPS = 256  # of a sample; the fewer the cheaper for the checkpoints of diffrax


def velocity(weights: Weights, t: jax.Array, y: jax.Array) -> jax.Array:
    """A net with two hidden layers at one sample (d,)."""
    h = jnp.tanh(weights["W1"] @ y + weights["b1"] + weights["r1"] * t)
    return weights["W3"] @ jnp.tanh(weights["W2"] @ h + weights["b2"]) + weights["b3"]


def slope(t: Any, state: Any, weights: Any) -> tuple[jax.Array, jax.Array]:
    """The velocity and its exact divergence, by a product with each unit vector; reverse mode is the faster one here."""
    v, pull = jax.vjp(lambda y: velocity(weights, t, y), state[0])
    (rows,) = jax.vmap(pull)(jnp.eye(len(v)))
    return v, jnp.trace(rows)


def one(weights: Weights, x: jax.Array, tolerance: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """z (d,), log_det and the number of steps of one sample, from t = 1 to t = 0."""
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(slope), diffrax.Dopri5(), t0=1.0, t1=0.0, dt0=None, y0=(x, jnp.zeros(())), args=weights,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance), max_steps=MOST_STEPS,
    )  # fmt: skip
    assert found.ys is not None
    return found.ys[0][-1], found.ys[1][-1], found.stats["num_steps"]


every = jax.vmap(one, in_axes=(None, 0, None))


def loss(weights: Weights, x: jax.Array, tolerance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-mean log p, and the number of steps."""
    z, log_det, steps = every(weights, x, tolerance)
    return (0.5 * (z**2).sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi) - log_det).mean(), steps


def ode(head: dict[str, Any], arrays: Arrays) -> dict[str, Callable[[], Any]]:
    """Jobs ``solve`` and ``step``, and of each with ", tolerance" what it gives and the evaluations of the field; x (B, d) and the weights."""
    x = jnp.asarray(arrays["x"])
    weights = {name: jnp.asarray(array) for name, array in arrays.items() if name != "x"}
    solve, step = jax.jit(every), jax.jit(jax.value_and_grad(loss, has_aux=True))

    def solved(tolerance: float) -> Arrays:
        z, log_det, steps = solve(weights, x, jnp.asarray(tolerance))
        return {"z": np.asarray(z), "log_det": np.asarray(log_det), "nfe": evaluations(steps)}

    def stepped(tolerance: float) -> Arrays:
        (value, steps), gradients = step(weights, x, jnp.asarray(tolerance))
        return {"loss": np.asarray(value), "nfe": evaluations(steps), **{name: np.asarray(gradient) for name, gradient in gradients.items()}}

    usual = jnp.asarray(head["tolerance"])
    jobs: dict[str, Callable[[], Any]] = {"solve": lambda: solve(weights, x, usual), "step": lambda: step(weights, x, usual)}
    for tolerance in (head["tolerance"], head["strict"]):
        jobs |= {f"solve, {tolerance}": partial(solved, tolerance), f"step, {tolerance}": partial(stepped, tolerance)}
    return jobs


def evaluations(steps: jax.Array) -> np.ndarray:
    """Of the field: six new stages a step, and two that choose the first step."""
    return 6 * np.asarray(steps) + 2
