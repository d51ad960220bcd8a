"""flowjax's ``fit_to_data`` from data to the best weights, with all that it compiles."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.train import fit_to_data
from flowjax.train.train_utils import train_val_split

from flowkit.bench.jax_side.flows import build, load
from flowkit.bench.jax_side.wire import Arrays


def fit(head: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """``split``: the rows that ``fit_to_data`` will train on and hold out. Otherwise the fit: its seconds, epochs and held-out loss."""
    key = jr.key(head["seed"])
    if head.get("split"):
        train, held_out = train_val_split(jr.split(key)[1], [jnp.asarray(arrays["x"])], head["share"])
        return {}, {"train": np.asarray(train[0]), "held_out": np.asarray(held_out[0])}
    weights = {name: array for name, array in arrays.items() if name[0] in "wb"}
    x, test = jnp.asarray(arrays["x"]), jnp.asarray(arrays["test"])
    start = time.perf_counter()
    dist = load(build(head, key), weights, head["kind"])
    dist, losses = fit_to_data(
        key, dist, x, learning_rate=head["lr"], max_epochs=head["epochs"], max_patience=head["patience"], batch_size=head["batch"],
        val_prop=head["share"], show_progress=False,
    )  # fmt: skip
    jax.block_until_ready(jax.tree.leaves(dist))
    seconds = time.perf_counter() - start
    loss = -float(paramax.unwrap(dist).log_prob(test).mean())
    return {"seconds": seconds, "epochs": len(losses["val"]), "validation": min(losses["val"]), "test": loss}, {}
