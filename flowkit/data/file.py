"""The user's own table."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from flowkit.core.errors import ConfigError, DataError
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, _Parts
from flowkit.data._table import Table, read_table
from flowkit.data._tabular import dequantized, split_rows, split_table


@DATA.register("file")
class File(Dataset):
    """A table of numbers in a .csv, .tsv, .txt, .npy, .npz or .parquet file, one event a row.

    Rows are shuffled by ``seed`` and split; columns are standardised by the train rows (``log_det_per_row`` refers
    log-densities back to raw units).

    Args:
        path: the file; a first row that holds a word is its header.
        columns: names or positions of the columns to model; by default all but those of ``context``.
        context: names or positions of the columns to condition on.
        array: which array of an .npz file; by default ``x``, or the only one.
        validation_fraction, test_fraction: shares of the rows, in [0, 1); validation is a share of what test leaves.
        standardize: subtract the mean and divide by the standard deviation of the train rows.
        dequantize: add uniform noise one quantum wide to each modelled column, for rounded data.
        seed: of the shuffle and of the noise.

    Raises:
        DataError: when the data are first looked at: an empty file, fewer than three rows, a cell that is not a finite
            number, a constant column; the column is named.
    """

    license = "the user's own"
    source = "a file of the user's"

    def __init__(
        self,
        path: str,
        *,
        columns: Sequence[str | int] | None = None,
        context: Sequence[str | int] | None = None,
        array: str | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        standardize: bool = True,
        dequantize: bool = False,
        seed: int = 0,
    ) -> None:
        for name, share in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
            if not 0 <= share < 1:
                raise ConfigError(f"File: expected {name} in [0, 1); got {share}.")
        self.path, self.columns, self.context, self.array = path, columns, context, array
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.standardize, self.dequantize, self.seed = standardize, dequantize, seed

    def _load(self) -> _Parts:
        conditions = list(self.context or ())
        if self.columns is None:
            table = read_table(self.path, array=self.array)
            given = read_table(self.path, conditions, array=self.array) if conditions else None
            kept = [i for i, name in enumerate(table.names) if given is None or name not in given.names]
            table = Table(table.values[:, kept], tuple(table.names[i] for i in kept))
        else:
            table = read_table(self.path, [*self.columns, *conditions], array=self.array)
            given = Table(table.values[:, len(self.columns) :], table.names[len(self.columns) :]) if conditions else None
            table = Table(table.values[:, : len(self.columns)], table.names[: len(self.columns)])
        if not table.names:
            raise DataError(f"{self.path}: no column is left to model. Name them with columns=.")
        rows = split_rows(len(table.values), self.seed, self.path, test=self.test_fraction, validation=self.validation_fraction)
        if self.dequantize:
            table = Table(dequantized(table.values, np.random.default_rng([self.seed, 1])), table.names)
        return split_table(table, rows, self.path, context=None if given is None else given.values, standardize=self.standardize)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, File]]:
        path = str(Path(_example_folder().name) / "table.csv")
        yield "csv", cls(path)
        yield "context", cls(path, columns=["height", "weight"], context=["age"], standardize=False)


@cache
def _example_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with a small table, removed when the process ends."""
    folder = tempfile.TemporaryDirectory()
    rows = np.random.default_rng(0).normal(size=(40, 3)).round(3).tolist()
    with (Path(folder.name) / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["height", "weight", "age"], *rows])
    return folder
