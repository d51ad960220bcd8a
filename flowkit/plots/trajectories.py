"""Samples on their way from noise to data."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.plots._style import FAINT, INK, MODEL, MUTED, array, column_names, dress, figure, span
from flowkit.plots.images import mosaic
from flowkit.plots.sphere import angles, globe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Frame = NDArray[np.uint8]

MILLISECONDS, REST, COLOURS = 70, 1800, 64
FEWEST = 50  # dots; below that a smaller file is not worth it


def path_animation(
    places: Any, times: Sequence[float], *, names: Sequence[str] | None = None, sphere: bool = False, most_bytes: int = 600_000, size: float = 4.2
) -> bytes:
    """Samples moving from noise to data, over where they end, as the bytes of an animated GIF.

    Rows are dots in the plane of the first two columns, directions in space are dots on Mollweide's map of the sphere, images are
    images side by side. Dots are left out, then frames, until the file is small enough.

    Args:
        places: (T, N, *event), where N samples are at T times; event (D,), or (C, H, W) with 1 or 3 channels and values in [0, 1].
        times: the T times.
        names: of the columns.
        sphere: events are unit vectors (3,).
        most_bytes: of the file.
        size: of a frame's side, in inches of 100 dots.

    Raises:
        ShapeError: the places are none, not finite, or not as many as the times.
    """
    values, moments = _checked(places, times, "path_animation"), [float(t) for t in times]
    if values.ndim == 5:
        return _small_enough(lambda count: _image_frames(values[:, :count]), moments, values.shape[1], most_bytes, fewest=1)
    rows = values.reshape(*values.shape[:2], -1)
    labels = column_names(names, rows.shape[2], "path_animation")
    if sphere and rows.shape[2] != 3:
        raise ShapeError(f"path_animation: expected directions (T, N, 3) for the sphere; got {values.shape}.")
    return _small_enough(lambda count: _dot_frames(rows[:, :count], moments, labels, sphere, size), moments, rows.shape[1], most_bytes, fewest=FEWEST)


def path_strip(places: Any, times: Sequence[float], *, rows: int = 6) -> Figure:
    """Images on their way from noise to data: a row for each sample, a column for each time.

    Args:
        places: (T, N, C, H, W) with 1 or 3 channels and values in [0, 1]; what lies outside is clipped.
        times: the T times.
        rows: samples shown at most, the first ones.
    """
    values = _checked(places, times, "path_strip")
    if values.ndim != 5:
        raise ShapeError(f"path_strip: expected images (T, N, C, H, W) with 1 or 3 channels; got {values.shape}. Use path_animation for rows.")
    values = values[:, :rows]
    steps, count = values.shape[:2]
    made = figure(1.05 * steps + 0.2, 1.05 * count + 0.45)
    for i, axis in enumerate(made.subplots(1, steps, squeeze=False)[0]):
        axis.imshow(mosaic(values[i], 1, count, 0.0, 1.0), interpolation="nearest", vmin=0, vmax=1)
        axis.set_title(f"t = {float(times[i]):.2g}", fontsize=9, color=MUTED)
        axis.set_axis_off()
    return made


def _checked(places: Any, times: Sequence[float], who: str) -> NDArray[np.float64]:
    values = array(places)
    if values.ndim < 3 or 0 in values.shape or len(values) != len(times):
        raise ShapeError(f"{who}: expected places (T, N, *event) at {len(times)} times; got {values.shape}.")
    if values.ndim == 5 and values.shape[2] in (1, 3):
        return np.nan_to_num(values)
    values = values.reshape(*values.shape[:2], -1)
    values = values[:, np.isfinite(values).all((0, 2))]
    if not values.shape[1]:
        raise ShapeError(f"{who}: every sample holds NaN or infinity. Look at the model's samples first.")
    return values


def _small_enough(draw: Callable[[int], list[Frame]], times: list[float], count: int, most: int, *, fewest: int) -> bytes:
    """The GIF of as many samples as fit."""
    while True:
        frames = draw(count)
        content = _gif(frames)
        if len(content) <= most:
            return content
        if count <= fewest:
            break
        count = max(fewest, int(0.85 * count * most / len(content)))
    while len(frames) > 2:
        frames = [*frames[:-1:2], frames[-1]]
        content = _gif(frames)
        if len(content) <= most:
            return content
    raise ConfigError(f"path_animation: {len(content):,} bytes even for two frames of {count} samples; expected most_bytes={most:,} to hold them.")


def _gif(frames: list[Frame]) -> bytes:
    """Frames as an animation that rests at its end and begins again; one palette serves all, and only what changes is stored."""
    from PIL import Image

    palette = Image.fromarray(np.concatenate([frames[0], frames[-1]])).quantize(COLOURS)
    reduced: list[Image.Image] = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    stream = io.BytesIO()
    durations = [MILLISECONDS] * (len(frames) - 1) + [REST]
    reduced[0].save(stream, format="GIF", save_all=True, append_images=reduced[1:], duration=durations, loop=0, optimize=False)
    return stream.getvalue()


def _dot_frames(rows: NDArray[np.float64], times: list[float], labels: list[str], sphere: bool, size: float) -> list[Frame]:
    """A frame for each time: dots at their places (T, N, D), and faintly where they end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    made = figure(1.5 * size, 0.85 * size) if sphere else figure(size, size)
    canvas = FigureCanvasAgg(made)
    if sphere:
        axis, dots = globe(made, 1, 1, " "), np.stack(angles(rows.reshape(-1, 3)), axis=-1).reshape(*rows.shape[:2], 2)
    else:
        axis, dots = made.subplots(), _plane(rows)
        dress(axis, " ", labels[0], labels[1] if rows.shape[2] > 1 else "")
        ends = dots[[0, -1]].reshape(-1, 2)
        axis.set_xlim(span(ends[:, 0], share=0.004))
        axis.set_ylim(span(ends[:, 1], share=0.004))
        axis.set_box_aspect(1)
        if rows.shape[2] == 1:
            axis.set_yticks([])
    side = float(np.clip(3000 / rows.shape[1], 2.0, 14))
    axis.scatter(dots[-1, :, 0], dots[-1, :, 1], s=side, color=FAINT, linewidths=0)
    moving = axis.scatter(dots[0, :, 0], dots[0, :, 1], s=side, color=MODEL, linewidths=0)
    title: Any = axis.set_title(" ", fontsize=10, color=INK, loc="left" if not sphere else "center", pad=8)
    for artist in (moving, title):
        artist.set_animated(True)
    canvas.draw()
    still, frames = canvas.copy_from_bbox(made.bbox), []  # type: ignore[no-untyped-call]
    for t, places in zip(times, dots, strict=True):
        canvas.restore_region(still)  # type: ignore[no-untyped-call]
        title.set_text(f"t = {t:.2f}")
        moving.set_offsets(places)
        for artist in (moving, title):
            axis.draw_artist(artist)
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames


def _plane(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first two columns; a single one is spread out along the other axis, evenly in the order of its end."""
    if rows.shape[2] > 1:
        return rows[:, :, :2]
    order = np.random.default_rng(0).permutation(rows.shape[1]) / rows.shape[1]
    return np.stack([rows[:, :, 0], np.broadcast_to(order, rows.shape[:2])], axis=-1)


def _image_frames(images: NDArray[np.float64]) -> list[Frame]:
    """A frame for each time: images (T, N, C, H, W) as square as can be, enlarged to some 400 dots."""
    across = int(np.ceil(np.sqrt(images.shape[1])))
    frames = [(255 * mosaic(step, across, images.shape[1], 0.0, 1.0)).round().astype(np.uint8) for step in images]
    scale = max(1, 400 // frames[0].shape[1])
    return [frame.repeat(scale, 0).repeat(scale, 1) for frame in frames]
