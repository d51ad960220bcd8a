"""Metrics by name: what they are called for people, in which unit, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from flowkit.experiment._numbers import error_of, p_value, rounded

NOT_SHOWN = ("name", "data", "split", "baseline", "finished", "device", "flowkit", "torch", "best_step", "seconds", "steps", "parameters")


class Meaning(NamedTuple):
    """How a metric is shown: ``label``, ``unit``, and what it ``says``."""

    label: str
    unit: str
    says: str


MEANINGS: dict[str, Meaning] = {
    "rows": Meaning("rows", "", "held-out events, or exact samples of the target, that the NLL is a mean over"),
    "samples": Meaning("samples", "", "events drawn from the flow"),
    "nll": Meaning("NLL", "nats", "negative log-likelihood per event, in the units the flow was fitted in; lower is better"),
    "nll_raw": Meaning("NLL, raw units", "nats", "the same, for the data in their original units"),
    "bits_per_dim": Meaning("bits per dimension", "bits", "code length per number of the discrete data, at most; lower is better"),
    "outside_support": Meaning("outside the support", "rows", "held-out events to which the flow gives density zero"),
    "baseline_nll": Meaning("NLL of the Gaussian mixture", "nats", "the yardstick, fitted to the same rows, its size chosen by BIC"),
    "baseline_bits_per_dim": Meaning("bits per dimension of the Gaussian mixture", "bits", "the yardstick in bits"),
    "difference": Meaning("flow minus Gaussian mixture", "nats", "paired over events; below zero the flow is better"),
    "latent_p_value": Meaning("latents normal", "p", "Kolmogorov-Smirnov tests of all latent dimensions; small values speak against the flow"),
    "coverage_p_value": Meaning("calibrated", "p", "Kolmogorov-Smirnov test of coverage; small values speak against the flow"),
    "ess": Meaning("effective sample size", "of 1", "share of the samples that is left after weighting them to the target"),
    "log_z": Meaning("log Z", "nats", "logarithm of the target's normaliser, by importance sampling"),
    "elbo": Meaning("lower bound on log Z", "nats", "mean log-weight; what is missing to log Z is the reverse KL divergence"),
    "k_hat": Meaning("k_hat", "", "tail of the weights: above 0.7 neither they nor the errors above can be trusted"),
    "not_finite": Meaning("energies not finite", "", "samples whose density under the target is NaN or infinite; they have no weight"),
    "log_z_exact": Meaning("log Z, exact", "nats", "what is known of it"),
}


def rows_of(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Metrics as rows of (label with unit, value, error, meaning)."""
    rows = []
    for key, value in metrics.items():
        if key in NOT_SHOWN or key.endswith("_error"):
            continue
        meaning = MEANINGS.get(key, Meaning(key.replace("_", " "), "", ""))
        error = metrics.get(f"{key}_error", metrics.get("nll_error") if key == "nll_raw" else None)
        digits = metrics.get("log_z_error") if key == "log_z_exact" else error
        shown = p_value(value) if meaning.unit == "p" and value is not None else rounded(value, digits)
        unit = f" ({meaning.unit})" if meaning.unit not in ("", "p", "of 1", "rows") else ""
        rows.append((meaning.label + unit, shown.removeprefix("p = ").removeprefix("p "), error_of(error), meaning.says))
    return rows


def text_table(metrics: Mapping[str, Any]) -> str:
    """The same for a terminal, in aligned columns."""
    rows = [(label, f"{value} ± {error}" if error else value) for label, value, error, _ in rows_of(metrics)]
    width = max((len(label) for label, _ in rows), default=0)
    return "".join(f"{label.ljust(width)}  {value}\n" for label, value in rows)


def is_finite(value: Any) -> bool:
    """Whether a metric is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
