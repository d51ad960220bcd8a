"""Pictures of ``evaluation.latent_normality`` and ``evaluation.coverage``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flowkit.evaluation import Coverage, LatentNormality
from flowkit.plots._style import DATA, FAINT, INK, MODEL, MUTED, array, column_names, dress, figure, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KS_SCALE = 1.358  # sqrt(n) D exceeds it with probability 5 %


def latent_qq(check: LatentNormality, names: Sequence[str] | None = None) -> Figure:
    """Latent against normal quantiles, and the Kolmogorov-Smirnov statistic of each dimension.

    The band holds a quantile of a normal sample of this size with 95 % probability, the dashed line a statistic; the
    farthest dimension is drawn in the second colour.

    Args:
        check: from ``evaluation.latent_normality``.
        names: of the latent dimensions.
    """
    normal, latent, statistic = array(check.normal_quantiles), array(check.latent_quantiles), array(check.statistic)
    count = len(statistic)
    labels = column_names(names, count, "latent_qq") if names is not None else [f"z{i}" for i in range(count)]
    worst = int(statistic.argmax())
    made = figure(8.4, 3.9)
    left, right = made.subplots(1, 2, width_ratios=[1, 1.15])

    p = (np.arange(len(normal)) + 0.5) / len(normal)
    slack = 1.96 * np.sqrt(p * (1 - p) / check.events) * np.sqrt(2 * np.pi) * np.exp(normal**2 / 2)
    left.fill_between(normal, normal - slack, normal + slack, color=FAINT, alpha=0.7, linewidth=0, label="95 % if normal")
    left.plot(normal, normal, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for i in range(count):
        if i != worst:
            left.plot(normal, latent[:, i], color=MODEL, linewidth=1.1, alpha=max(0.15, min(0.8, 6 / count)))
    left.plot(normal, latent[:, worst], color=DATA, linewidth=1.6, label=f"{labels[worst]}, farthest")
    bound = 1.25 * float(np.abs(normal).max())
    left.set_xlim(-bound, bound)
    left.set_ylim(-bound, bound)
    left.set_box_aspect(1)
    dress(left, "Latents of held-out data", "normal quantile", "latent quantile")
    legend(left, loc="upper left")

    limit = KS_SCALE / np.sqrt(check.events)
    colours = [DATA if i == worst else MODEL for i in range(count)]
    right.vlines(range(count), 0, statistic, colors=colours, linewidth=1.2, alpha=0.5)
    right.scatter(range(count), statistic, s=float(np.clip(900 / count, 8, 42)), color=colours, zorder=3)
    right.axhline(limit, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="exceeded by 5 % if normal")
    right.set_xlim(-0.6, count - 0.4)
    right.set_ylim(0, 1.3 * max(limit, float(statistic.max())))
    legend(right, loc="upper right")
    if count <= 12:
        right.set_xticks(range(count), labels, rotation=0 if max(map(len, labels)) < 5 else 30)
    dress(right, "Distance from normal", "latent dimension", "Kolmogorov-Smirnov statistic")
    return made


def coverage_plot(check: Coverage) -> Figure:
    """Share of held-out data inside the model's highest-density regions, against their probability.

    The band holds the curve of the true model, at each level, with 95 % probability.

    Args:
        check: from ``evaluation.coverage``.
    """
    level, observed, error = array(check.levels), array(check.observed), array(check.standard_error)
    made = figure(4.4, 4.3)
    axis = made.subplots()
    ends = np.concatenate([[0.0], level, [1.0]])
    slack = 1.96 * np.concatenate([[0.0], error, [0.0]])
    axis.fill_between(ends, ends - slack, ends + slack, color=FAINT, alpha=0.7, linewidth=0, label="95 % if calibrated")
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.plot(ends, np.concatenate([[0.0], observed, [1.0]]), color=MODEL, linewidth=1.8, label="held-out data")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_box_aspect(1)
    axis.annotate("model too wide", (0.04, 0.80), xycoords="axes fraction", fontsize=8, color=MUTED)
    axis.annotate("model too narrow", (0.96, 0.04), xycoords="axes fraction", fontsize=8, color=MUTED, ha="right")
    dress(axis, "Coverage of highest-density regions", "probability under the model", "share of held-out data")
    legend(axis, loc="upper left")
    return made
