"""Images in rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import ShapeError
from flowkit.plots._style import array, dress, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(samples: Any, real: Any = None, *, columns: int = 8, rows: int = 8, low: float = 0.0, high: float = 1.0) -> Figure:
    """Images of a model, beside real ones if given.

    Args:
        samples: (N, C, H, W) with 1 or 3 channels.
        real: (M, C, H, W), or None.
        columns, rows: images shown at most, the first ones.
        low, high: values drawn as black and as full colour; what lies outside is clipped.
    """
    blocks = [("Samples", samples)] if real is None else [("Real", real), ("Samples", samples)]
    mosaics = [(title, mosaic(array(images), columns, rows, low, high)) for title, images in blocks]
    tallest = max(picture.shape[0] / picture.shape[1] for _, picture in mosaics)
    made = figure(4.2 * len(mosaics), 4.2 * tallest + 0.4, gap=0.06)
    for axis, (title, picture) in zip(made.subplots(1, len(mosaics), squeeze=False)[0], mosaics, strict=True):
        axis.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
        dress(axis, title)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return made


def mosaic(images: NDArray[np.float64], columns: int, rows: int, low: float, high: float) -> NDArray[np.float64]:
    """(N, C, H, W) -> one (height, width, 3) picture, the images a thin white line apart."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ShapeError(f"image_grid: expected images (N, C, H, W) with 1 or 3 channels; got {images.shape}. Reshape them.")
    images = np.nan_to_num(np.clip((images[: columns * rows] - low) / (high - low), 0, 1))
    images = np.broadcast_to(images, (len(images), 3, *images.shape[2:])) if images.shape[1] == 1 else images
    count, _, height, width = images.shape
    gap = max(1, round(0.08 * width))
    across, down = min(columns, count), -(-count // columns)
    picture = np.ones((down * (height + gap) - gap, across * (width + gap) - gap, 3))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return picture
