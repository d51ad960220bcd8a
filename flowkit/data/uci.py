"""Tables of the UCI machine learning repository."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import UnknownNameError, nearest
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, _Parts
from flowkit.data._fetch import fetch, find
from flowkit.data._table import Table
from flowkit.data._tabular import dequantized, split_rows, split_table, without_constant, without_discrete
from flowkit.data._uci_files import TABLES, Name


@DATA.register("uci")
class UCI(Dataset):
    """A table of the UCI repository as a joint density of all its columns, the target column too.

    The file is read from ``$FLOWKIT_DATA/uci``, or from the cache (``$FLOWKIT_CACHE``, else ``~/.cache/flowkit``), or
    downloaded into it; its SHA-256 is checked each time. Columns with fewer distinct values than 5 % of the rows
    are dropped as discrete, the others get uniform noise as wide as their smallest step. Of the rows, in random order,
    10 % are test and 10 % of the rest validation. ``names`` says which columns are left.

    ``miniboone`` is the first 1,523 events of the 43-column version of Papamakarios et al., not comparable with published
    numbers on all 36,488.

    Args:
        dataset: which table; words (the sex of an abalone) become numbers in alphabetical order.
        drop_discrete: drop discrete columns; constant ones are dropped anyway.
        dequantize: add the noise.
        standardize: subtract the mean and divide by the standard deviation of the train rows.
        seed: of the split and of the noise.

    Raises:
        DataError: when the data are first looked at: the file cannot be had, or is not the published one.

    Reference:
        Papamakarios et al. (2017), Masked autoregressive flow for density estimation, arXiv:1705.07057, section 4.2;
        Uria et al. (2013), RNADE: the real-valued neural autoregressive density-estimator, arXiv:1306.0186, section 4.1.
    """

    license = "as stated by the UCI machine learning repository for each table (CC BY 4.0 for most)"
    source = "UCI machine learning repository (archive.ics.uci.edu; kin8nm: DELVE), through public copies on GitHub"

    def __init__(
        self, dataset: Name = "power-plant", *, drop_discrete: bool = True, dequantize: bool = True, standardize: bool = True, seed: int = 0
    ) -> None:
        if dataset not in TABLES:
            raise UnknownNameError(f"UCI: no table named {dataset!r}. {nearest(str(dataset), TABLES)}")
        self.dataset, self.seed = dataset, seed
        self.drop_discrete, self.dequantize, self.standardize = drop_discrete, dequantize, standardize

    @property
    def at_hand(self) -> bool:
        return find(TABLES[self.dataset].file) is not None

    def _load(self) -> _Parts:
        who = f"UCI({self.dataset!r})"
        published = TABLES[self.dataset]
        content = fetch(published.file, who)
        values = _whole_rows(content) if published.file.file.endswith(".npy") else _numbers(content, published.codes)
        table = Table(values, published.columns)
        rows = split_rows(len(values), self.seed, who)
        table = without_discrete(table) if self.drop_discrete else without_constant(table)
        if self.dequantize:
            table = Table(dequantized(table.values, np.random.default_rng([self.seed, 1])), table.names)
        return split_table(table, rows, who, standardize=self.standardize)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UCI]]:
        yield "power_plant", cls("power-plant")
        yield "wine_red_all", cls("wine-quality-red", drop_discrete=False)


def _numbers(content: bytes, codes: tuple[str, ...]) -> NDArray[np.float64]:
    """Rows of a text file without header, commas or blanks between the cells; words become their position in ``codes``."""
    text = content.decode("ascii")
    rows = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    return np.array([[codes.index(cell) if cell in codes else float(cell) for cell in row] for row in rows])


def _whole_rows(content: bytes) -> NDArray[np.float64]:
    """The rows that are whole in a .npy file cut off after some bytes."""
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    (_, columns), _, dtype = np.lib.format.read_array_header_1_0(stream)
    body = content[stream.tell() :]
    row = columns * dtype.itemsize
    return np.frombuffer(body[: len(body) // row * row], dtype=dtype).reshape(-1, columns).astype(np.float64)
