"""Handwritten digits, 28 x 28."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, Split, _Parts
from flowkit.data._fetch import PublicFile, fetch, find
from flowkit.data._pixels import LEVELS, dequantized_pixels
from flowkit.data._tabular import split_rows

URL = "https://ossci-datasets.s3.amazonaws.com/mnist"


def _file(name: str, size: int, sha256: str) -> PublicFile:
    return PublicFile("mnist", name, f"{URL}/{name}", size, sha256)


TEST = (
    _file("t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    _file("t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)
TRAIN = (
    _file("train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    _file("train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
)


@DATA.register("mnist")
class MNIST(Dataset):
    """Handwritten digits, 28 x 28 pixels of 256 levels, as numbers in (0, 1).

        x = (k + u) / 256,   k in 0..255,   u ~ U(0, 1)

    A pixel's cell is 1/256 wide, so ``evaluation.bits_per_dim(log_prob, 784, levels=256)`` bounds the code length of k.
    Files are read from ``$FLOWKIT_DATA/mnist``, or from the cache, or downloaded into it; their SHA-256 is checked each time.

    Args:
        images: "all" 70,000: the published test set is the test split, 10 % of the 60,000 others validate; "test" for the 10,000 of the
            published test set alone, split at random (10 % test, then 10 % validation): a small set, not comparable with published numbers.
        dequantize: draw u; otherwise u = 1/2, the middle of the cell.
        classes: give the digit as context, an int64 label of 10.
        seed: of the split and of u.

    Raises:
        DataError: when the data are first looked at: a file cannot be had, or is not the published one.

    Reference: LeCun et al. (1998), Gradient-based learning applied to document recognition, Proc. IEEE 86.
    """

    license = "none stated by its authors (Y. LeCun, C. Cortes, C. Burges); some copies say CC BY-SA 3.0"
    source = "the MNIST database, from the copy that torchvision uses"
    levels = LEVELS

    def __init__(self, images: Literal["all", "test"] = "all", *, dequantize: bool = True, classes: bool = False, seed: int = 0) -> None:
        if images not in ("all", "test"):
            raise ConfigError(f"MNIST: expected images 'all' or 'test'; got {images!r}.")
        self.images, self.dequantize, self.classes, self.seed = images, dequantize, classes, seed

    @property
    def at_hand(self) -> bool:
        return all(find(file) is not None for file in (TEST if self.images == "test" else (*TEST, *TRAIN)))

    @property
    def log_det_per_row(self) -> float:
        """log|det dx/dk|: minus 784 log 256."""
        return -784 * math.log(self.levels)

    def _load(self) -> _Parts:
        pixels, labels = _read(TEST)
        if self.images == "test":
            train, validation, test = split_rows(len(pixels), self.seed, "MNIST")
        else:
            others, names = _read(TRAIN)
            train, validation, _ = split_rows(len(others), self.seed, "MNIST", test=0.0)
            test = np.arange(len(others), len(others) + len(pixels))
            pixels, labels = torch.cat([others, pixels]), torch.cat([names, labels])
        x = dequantized_pixels(pixels, self.seed, noise=self.dequantize)
        rows = [torch.from_numpy(part) for part in (train, validation, test)]
        first, second, third = (Split(x[part], labels[part] if self.classes else None) for part in rows)
        return _Parts(first, second, third)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MNIST]]:
        yield "test_classes", cls("test", classes=True)


def _read(files: tuple[PublicFile, PublicFile]) -> tuple[Tensor, Tensor]:
    """Pixels (N, 1, 28, 28) uint8 and labels (N,) int64 of two files in IDX form: big-endian sizes after four bytes, then the bytes."""
    images, labels = (gzip.decompress(fetch(file, "MNIST")) for file in files)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
