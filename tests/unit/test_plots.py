"""Every picture renders, has words on its axes, and leaves pyplot alone."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import pytest
import torch

import flowkit as fk
from flowkit import evaluation, plots
from flowkit.core.errors import ShapeError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flow(dim: int = 2) -> fk.Flow:
    return fk.Flow(fk.distributions.StandardNormal((dim,)), fk.bijectors.Affine((dim,), scale=2.0))


def render(figure: object) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)  # type: ignore[attr-defined]
    assert stream.getvalue().startswith(b"\x89PNG")
    assert len(stream.getvalue()) > 1000


def words(figure: object) -> set[str]:
    return {word for axis in figure.axes for word in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title(loc="left")) if word}  # type: ignore[attr-defined]


def test_density_2d() -> None:
    made = plots.density_2d(flow(), 2 * normal(300, 2), names=("height", "weight"), resolution=40, generator=torch.Generator().manual_seed(0))
    render(made)
    assert {"Data", "Samples", "Density", "height", "weight"} <= words(made)
    assert "Data" not in words(plots.density_2d(flow(), points=50, resolution=20))
    with pytest.raises(ShapeError, match="pair_plot"):
        plots.density_2d(flow(3))


def test_density_2d_of_a_conditional_model_inside_a_box() -> None:
    from flowkit.core.domain.box import Box

    boxed = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,), context_features=1), Box(0.0, 1.0, 2))
    render(plots.density_2d(boxed, context=torch.ones(1), extent=(-1.0, 2.0, -1.0, 2.0), points=50, resolution=30))


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_pair_plot(columns: int) -> None:
    made = plots.pair_plot(normal(200, columns), normal(100, columns, seed=1), [f"column {i}" for i in range(columns)])
    render(made)
    assert {f"column {i}" for i in range(columns)} <= words(made)


def test_pair_plot_shows_the_first_columns() -> None:
    assert len(plots.pair_plot(normal(50, 10), columns=3).axes) == 9
    with pytest.raises(ShapeError, match="2 columns"):
        plots.pair_plot(normal(50, 2), normal(50, 3))
    with pytest.raises(ShapeError, match="expected 2 names"):
        plots.pair_plot(normal(50, 2), names=["a"])


def test_tables_draw_constant_columns_and_leave_out_broken_rows() -> None:
    data = normal(50, 2)
    data[:, 1] = 3.0
    data[0, 0] = math.nan
    render(plots.pair_plot(data, data))
    with pytest.raises(ShapeError, match="NaN"):
        plots.pair_plot(torch.full((5, 2), math.nan))


def test_marginals() -> None:
    made = plots.marginals(normal(200, 6), normal(100, 6, seed=1), bins=20)
    render(made)
    assert {"x0", "x5", "density"} <= words(made)


def test_loss_curves() -> None:
    steps = list(range(300))
    history = {
        "step": steps,
        "epoch": steps,
        "loss": [math.exp(-step / 30) + 0.01 * (step % 7) for step in steps],
        "validation_loss": [0.1 if step % 50 == 0 else math.nan for step in steps],
        "lr": [1e-3] * 300,
        "skipped": [0] * 300,
    }
    made = plots.loss_curves(history)
    render(made)
    assert words(made) == {"loss", "lr", "step"}
    render(plots.loss_curves({"step": [1], "loss": [2.0]}))
    for broken, message in (({"loss": [1.0]}, "'step'"), ({"step": [1, 2], "loss": [1.0]}, "2 values"), ({"step": [1], "loss": [math.nan]}, "no finite")):
        with pytest.raises(ShapeError, match=message):
            plots.loss_curves(broken)


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_latent_qq(dim: int) -> None:
    made = plots.latent_qq(evaluation.latent_normality(flow(dim), 2 * normal(100, dim)))
    render(made)
    assert {"normal quantile", "latent quantile", "latent dimension"} <= words(made)


def test_coverage_plot() -> None:
    made = plots.coverage_plot(evaluation.coverage(flow(), 2 * normal(100, 2), samples=200))
    render(made)
    assert {"probability under the model", "share of held-out data"} <= words(made)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid(channels: int) -> None:
    made = plots.image_grid(normal(10, channels, 8, 8), torch.rand(5, channels, 8, 8))
    render(made)
    assert words(made) == {"Real", "Samples"}
    with pytest.raises(ShapeError, match="channels"):
        plots.image_grid(normal(10, 2, 8, 8))


def test_pyplot_is_never_imported() -> None:
    code = """
import sys, torch
from flowkit import plots
assert "matplotlib" not in sys.modules
plots.pair_plot(torch.randn(50, 2))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
