"""Animations and strips of samples on their way from noise to data, alone and through the command line."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flowkit as fk
from flowkit import plots
from flowkit.core.domain import Sphere
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.data import Split
from flowkit.experiment._paths import has_paths, paths_of
from flowkit.experiment.config import Evaluation, check_config
from flowkit.experiment.evaluate import MOST_NUMBERS, affordable, calibration, measure
from flowkit.experiment.record import Run, Units, read_run
from flowkit.experiment.run import start
from flowkit.experiment.samples import chunk_size, write_samples

TIMES = [0.0, 0.25, 0.5, 0.75, 1.0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lines(*event: int, count: int = 40) -> torch.Tensor:
    """Places (5, count, *event) on straight lines."""
    start, end = torch.randn((2, count, *event), generator=seeded()).unbind()
    return torch.stack([(1 - t) * start + t * end for t in TIMES])


def opened(content: bytes) -> Image.Image:
    assert content.startswith(b"GIF8")
    return Image.open(io.BytesIO(content))


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures() -> Iterator[None]:
    """Fewer pixels, frames and samples shown: drawing is most of a tiny run."""
    few = {"DPI": 30, "POLE_TO_POLE": 12, "PICTURES": 6, "MOVING": 60, "STRIP_ROWS": 2, "STRIP_TIMES": 3}
    with pytest.MonkeyPatch.context() as patch:
        for name, number in few.items():
            patch.setattr(f"flowkit.experiment._pictures.{name}", number)
        patch.setattr("flowkit.experiment._paths.FRAMES", 4)
        yield


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_a_frame_for_each_time(columns: int) -> None:
    image = opened(plots.path_animation(lines(columns), TIMES, size=1.6))
    assert image.n_frames == len(TIMES) and image.info["loop"] == 0  # type: ignore[attr-defined]
    frames = []
    for i in range(len(TIMES)):
        image.seek(i)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert image.info["duration"] > 1000  # it rests at the end
    assert all(abs(before - after).sum() > 1000 for before, after in itertools.pairwise(frames))


def test_dots_are_left_out_before_the_file_is_too_large() -> None:
    places = lines(2, count=3000)
    free = plots.path_animation(places, TIMES, size=3.0)
    small = plots.path_animation(places, TIMES, size=3.0, most_bytes=len(free) // 2)
    assert len(small) <= len(free) // 2 and opened(small).n_frames == len(TIMES)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="most_bytes=100 "):
        plots.path_animation(places, TIMES, size=1.5, most_bytes=100)


def test_directions_in_space_are_drawn_on_the_globe() -> None:
    places = torch.nn.functional.normalize(lines(3), dim=-1)
    flat, globe = opened(plots.path_animation(places, TIMES, size=1.6)), opened(plots.path_animation(places, TIMES, sphere=True, size=1.6))
    assert flat.size[0] == flat.size[1] and globe.size[0] > globe.size[1]
    with pytest.raises(ShapeError, match="directions"):
        plots.path_animation(lines(2), TIMES, sphere=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_move_side_by_side_and_in_a_strip(channels: int) -> None:
    places = lines(channels, 8, 8, count=9)
    assert opened(plots.path_animation(places, TIMES)).n_frames == len(TIMES)  # type: ignore[attr-defined]
    made = plots.path_strip(places, TIMES, rows=4)
    assert [axis.get_title() for axis in made.axes] == ["t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1"]
    assert made.axes[0].images[0].get_array().shape == (4 * 9 - 1, 8, 3)  # type: ignore[union-attr]


def test_bad_places() -> None:
    with pytest.raises(ShapeError, match="at 4 times"):
        plots.path_animation(lines(2), TIMES[:4])
    with pytest.raises(ShapeError, match="NaN"):
        plots.path_animation(torch.full((5, 3, 2), float("nan")), TIMES)
    with pytest.raises(ShapeError, match="images"):
        plots.path_strip(lines(2), TIMES)
    with pytest.raises(ShapeError, match="expected 2 names"):
        plots.path_animation(lines(2), TIMES, names=("a",))


def test_paths_end_at_samples_in_the_units_of_the_file() -> None:
    flow = fk.flows.ContinuousFlow(2, hidden=(8, 8), duration=0.7)
    units = Units((2,), ("a", "b"), (10.0, 0.0), (2.0, 1.0))
    paths = paths_of(Run(Path("run"), flow, units, None), 6, seed=3, frames=4)
    assert paths.times == pytest.approx([0.3, 0.3 + 0.7 / 3, 0.3 + 1.4 / 3, 1.0])
    z = flow.base.sample((6,), generator=seeded(3))
    torch.testing.assert_close(paths.places[0], units.restore(z))
    torch.testing.assert_close(paths.places[-1], units.restore(flow.to_data(z)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("flow", "expected"), [(fk.flows.RiemannianFlow(Sphere(2), (8,)), True), (fk.flows.RealNVP(2, layers=1, hidden=(8,)), False)])
def test_which_flows_have_paths(flow: fk.Flow, expected: bool) -> None:
    assert has_paths(flow) is expected


# -- the report and files ---------------------------------------------------------------------------------------


def ran(root: Path, **changes: object) -> Path:
    tree = {"name": "tiny", "objective": "flow_matching", "training": {"max_steps": 2, "batch_size": 16, "progress": False}}
    outcome = start(check_config({**tree, "evaluation": {"samples": 16, "baseline": False}, **changes}, "test"), root=root)
    assert outcome is not None
    return outcome.folder


SMALL = {"train_size": 64, "validation_size": 32, "test_size": 32}
CONTINUOUS = {"name": "continuous_flow", "hidden": [8, 8]}


def test_a_continuous_run_shows_its_paths(tmp_path: Path) -> None:
    folder = ran(tmp_path, data={"name": "two_moons", "classes": True, **SMALL}, flow=CONTINUOUS)
    text = (folder / "report.html").read_text()
    assert "From noise to data" in text and text.count("data:image/gif;base64,") == 1
    run = read_run(folder)
    with pytest.raises(ConfigError, match="the flow is conditional"):
        write_samples(run, tmp_path / "moving.gif", 10)
    write_samples(run, tmp_path / "moving.gif", 10, contexts=torch.tensor([1]))
    assert opened((tmp_path / "moving.gif").read_bytes()).n_frames == 4  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="at most 5,000"):
        write_samples(run, tmp_path / "moving.gif", 5001, contexts=torch.tensor([1]))


def test_a_run_on_the_sphere_shows_maps(tmp_path: Path) -> None:
    flow = {"name": "riemannian_flow", "domain": {"name": "sphere", "dim": 2}, "hidden": [8]}
    folder = ran(tmp_path, data={"name": "sphere_events", **SMALL}, flow=flow, objective="riemannian_flow_matching")
    text = (folder / "report.html").read_text()
    assert "equal-area map of the sphere" in text and "data:image/gif;base64," in text


def test_a_run_of_pictures_shows_a_strip(tmp_path: Path) -> None:
    field = {"name": "unet_field", "image_shape": [1, 8, 8], "channels": 4, "multipliers": [1]}
    flow = {"name": "continuous_flow", "field": field, "solver": "midpoint", "steps": 2}
    folder = ran(tmp_path, data="digits", flow=flow)
    assert (folder / "pictures" / "paths.png").is_file()
    text = (folder / "report.html").read_text()
    assert "a picture on the right" in text and "Coverage" not in text  # an estimated density ranks nothing
    assert chunk_size(read_run(folder)) == 2048


def test_pictures_of_tokens_are_scaled_by_the_vocabulary(tmp_path: Path) -> None:
    units = Units((1, 8, 8), levels=1, vocabulary=17)
    assert float(units.as_pictures(torch.full((1, 1, 8, 8), 8.0)).max()) == 0.5
    flow = {"name": "discrete_flow", "levels": 17, "hidden": [8], "steps": 2}
    folder = ran(tmp_path, data={"name": "digit_tokens", "form": "image"}, flow=flow, objective="discrete_flow_matching")
    run = read_run(folder)
    assert run.units.vocabulary == 17
    write_samples(run, tmp_path / "grid.png", 4)
    grey = np.unique(np.asarray(Image.open(tmp_path / "grid.png")))
    assert len(grey) > 8 and set(grey) <= {round(255 * k / 16) for k in range(17)}
    with pytest.raises(ConfigError, match=r"DiscreteFlow has no paths"):
        write_samples(run, tmp_path / "moving.gif", 4)


def test_a_bound_is_not_asked_for_coverage() -> None:
    flow = fk.flows.DiscreteFlow(4, 3, hidden=(8,), steps=2)
    assert calibration(flow, Split(torch.zeros(8, 4))) == (None, None)


def test_an_estimated_density_is_measured_on_some_rows() -> None:
    def flow(divergence: str) -> fk.Flow:
        return fk.flows.ContinuousFlow(2, hidden=(8, 8), divergence=divergence)

    rows = Split(torch.arange(2.0 * MOST_NUMBERS).reshape(-1, 2), torch.arange(MOST_NUMBERS))
    some = affordable(flow("hutchinson"), rows, 0)
    assert len(some.x) == MOST_NUMBERS // 2 and bool((some.x[1:, 0] > some.x[:-1, 0]).all())
    assert some.context is not None and torch.equal(some.x[:, 0], 2.0 * some.context)
    assert affordable(flow("exact"), rows, 0) is rows
    few = Split(torch.randn((40, 2), generator=seeded()))
    estimated = measure(flow("hutchinson").double(), Split(few.x.double()), Units((2,)), Evaluation(baseline=False, batch_size=16))
    assert estimated["rows"] == 40 and "coverage_p_value" not in estimated and "latent_p_value" in estimated


def test_the_estimate_of_an_untrained_image_flow_is_that_of_its_base() -> None:
    """Zero velocity: bits/dim by Hutchinson are the base's, exactly, behind the maps of the box."""
    field = fk.continuous.UNetField((1, 4, 4), 4, (1,))
    flow = fk.flows.ContinuousFlow(field=field, support=fk.core.domain.Box(0.0, 1.0, (1, 4, 4)), solver="midpoint", steps=2)
    x = torch.rand((3, 1, 4, 4), generator=seeded())
    logit = x.double().logit()
    expected = (torch.distributions.Normal(0.0, 1.0).log_prob(logit) - (x.double() * (1 - x.double())).log()).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(x, generator=seeded()).double(), expected, atol=1e-4, rtol=1e-5)
