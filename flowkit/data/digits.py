"""Handwritten digits, 8 x 8."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from flowkit.core.errors import ConfigError
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, Split, _Parts
from flowkit.data._tabular import split_rows


@DATA.register("digits")
class Digits(Dataset):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels of 17 levels, as numbers in [0, 1).

        x = (k + u) / 17,   k in 0..16,   u ~ U[0, 1)

    A pixel's cell is 1/17 wide, so ``evaluation.bits_per_dim(log_prob, 64, levels=17)`` bounds the code length of k.

    Args:
        form: "image" for events (1, 8, 8), "vector" for (64,).
        dequantize: draw u; otherwise u = 1/2, the middle of the cell.
        classes: give the digit as context, an int64 label of 10.
        seed: of the split (10 % test, then 10 % validation) and of u.
    """

    license = "CC BY 4.0 (UCI), shipped with scikit-learn"
    source = "UCI Optical recognition of handwritten digits, through sklearn.datasets.load_digits"
    levels = 17

    def __init__(self, *, form: Literal["image", "vector"] = "image", dequantize: bool = True, classes: bool = False, seed: int = 0) -> None:
        if form not in ("image", "vector"):
            raise ConfigError(f"Digits: expected form 'image' or 'vector'; got {form!r}.")
        self.form, self.dequantize, self.classes, self.seed = form, dequantize, classes, seed

    @property
    def log_det_per_row(self) -> float:
        """log|det dx/dk|: minus 64 log 17."""
        return -64 * math.log(self.levels)

    def _load(self) -> _Parts:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = torch.from_numpy(np.asarray(bunch.images)).float().reshape(-1, 64)
        noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float32)
        # in float32 (16 + u) / 17 rounds up to 1 when u is the largest float below 1
        x = ((pixels + (noise if self.dequantize else 0.5)) / self.levels).clamp_max(1 - 2**-24)
        x = x if self.form == "vector" else x.reshape(-1, 1, 8, 8)
        labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
        rows = [torch.from_numpy(part) for part in split_rows(len(x), self.seed, "Digits")]
        train, validation, test = (Split(x[part], labels[part] if self.classes else None) for part in rows)
        return _Parts(train, validation, test)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Digits]]:
        yield "image", cls()
        yield "vector_classes", cls(form="vector", classes=True)
