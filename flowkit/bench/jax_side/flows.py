"""flowjax's coupling and autoregressive flows with the weights of ours, and their jobs, jitted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from flowjax.bijections import Chain, Coupling, Flip, Invert, MaskedAutoregressive, Permute, Scan
from flowjax.distributions import StandardNormal, Transformed
from flowjax.flows import _affine_with_min_scale
from jax.flatten_util import ravel_pytree

from flowkit.bench.jax_side.spline import spline_of
from flowkit.bench.jax_side.wire import Arrays

Jobs = dict[str, Callable[[], Any]]


def build(spec: dict[str, Any], key: jax.Array) -> Transformed:
    """The recipe of ``flowjax.flows`` with a fixed permutation between the layers, so that they can be compared with ours."""
    features = spec["features"]
    transformer = spline_of(spec["bins"], spec["bound"], spec["floor"]) if spec["univariate"] == "spline" else _affine_with_min_scale()
    net = {"transformer": transformer, "dim": features, "nn_width": spec["hidden"][0], "nn_depth": len(spec["hidden"])}

    def layer(key: jax.Array) -> Any:
        if spec["kind"] == "autoregressive":
            return Chain([MaskedAutoregressive(key, **net), Flip((features,))])  # type: ignore[call-arg]
        swap = jnp.roll(jnp.arange(features), features // 2)
        return Chain([Coupling(key, untransformed_dim=features // 2, **net), Permute(swap)])

    layers = eqx.filter_vmap(layer)(jr.split(key, spec["layers"]))
    return Transformed(StandardNormal((features,)), Invert(Scan(layers)))  # type: ignore[call-arg]


def load(dist: Transformed, weights: Arrays, kind: str) -> Transformed:
    """Put in weights ``w0, b0, w1, ...``, each with a leading axis of layers."""

    def places(tree: Any) -> list[jax.Array]:
        inner = tree.bijection.bijection.bijection.bijections[0]
        if kind == "coupling":
            return [part for linear in inner.conditioner.layers for part in (linear.weight, linear.bias)]
        return [part for linear in inner.masked_autoregressive_mlp.layers for part in (linear.weight.args[1], linear.bias)]

    wanted = [jnp.asarray(weights[f"{part}{number}"]) for number, part in itertools.product(range(len(weights) // 2), "wb")]
    for old, new in zip(places(dist), wanted, strict=True):
        if old.shape != new.shape:
            raise ValueError(f"weights of shape {new.shape} where flowjax has {old.shape}")
    return eqx.tree_at(places, dist, wanted)


def flow(spec: dict[str, Any], arrays: Arrays) -> tuple[Jobs, dict[str, Any]]:
    """Jobs ``step``, ``log_prob`` and ``sample``, and ``check_...`` for the values by which each is verified; and the number of parameters."""
    weights = {name: array for name, array in arrays.items() if name[0] in "wb"}
    dist = load(build(spec, jr.key(0)), weights, spec["kind"])
    params, static = eqx.partition(dist, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable))
    optimizer = optax.adam(spec["lr"])
    x = jnp.asarray(arrays["x"])

    def whole(params: Any) -> Transformed:
        return eqx.combine(params, static)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return -paramax.unwrap(whole(params)).log_prob(x).mean()

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, grads = jax.value_and_grad(loss)(params, x)
        updates, state = optimizer.update(grads, state, params)
        return eqx.apply_updates(params, updates), state, value

    log_prob = jax.jit(lambda params, x: whole(params).log_prob(x))
    sample = jax.jit(lambda params, key: whole(params).sample(key, (spec["draws"],)))
    training, keys = [params, optimizer.init(params)], itertools.count()

    def trained() -> Any:
        training[0], training[1], value = step(*training, x)
        return training, value

    jobs: Jobs = {"step": trained, "log_prob": lambda: log_prob(params, x), "sample": lambda: sample(params, jr.key(next(keys)))}

    def generated() -> Arrays:
        bijection = paramax.unwrap(dist).bijection
        made = jax.jit(jax.vmap(bijection.transform))(jnp.asarray(arrays["z"]))
        return {"generated": np.asarray(made), "encoded": np.asarray(jax.jit(jax.vmap(bijection.inverse))(made))}

    def losses() -> Arrays:
        at, found = [params, optimizer.init(params)], []
        for _ in range(spec["steps"]):
            *at, value = step(*at, x)
            found.append(float(value))
        return {"losses": np.asarray(found)}

    checks = {"check_step": losses, "check_log_prob": lambda: {"log_prob": np.asarray(log_prob(params, x))}, "check_sample": generated}
    return {**jobs, **checks}, {"parameters": int(ravel_pytree(params)[0].size)}
