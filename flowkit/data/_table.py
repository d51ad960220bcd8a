"""Reading a table of numbers from a file, with messages that name the column at fault."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import DataError, nearest

TEXT, PARQUET = (".csv", ".tsv", ".txt", ".dat", ".data"), (".parquet", ".pq")
MEND = "Fill or drop it, or name the columns to use with columns=."


class Table(NamedTuple):
    """Finite numbers ``values`` (N, D), float64, and the ``names`` of the D columns."""

    values: NDArray[np.float64]
    names: tuple[str, ...]


def read_table(path: str | Path, columns: Sequence[str | int] | None = None, *, array: str | None = None) -> Table:
    """Read a table of numbers.

    Text files may be separated by commas, semicolons, tabs or blanks; a first row that holds a word is the header,
    otherwise the columns are called x0, x1, ...; a one-dimensional array is one column.

    Args:
        path: a .csv, .tsv, .txt, .dat, .data, .npy, .npz, .parquet or .pq file.
        columns: names or positions of the columns to take, in that order; all by default.
        array: which array of an .npz file; by default ``x``, or the only one.

    Raises:
        DataError: the file is missing, empty, of another kind, or a cell is not a finite number (the column is named).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give the path of a .csv, .npy, .npz or .parquet file.")
    kind = path.suffix.lower()
    if kind in TEXT:
        table = _read_text(path, columns)
    elif kind in (".npy", ".npz"):
        table = _read_numpy(path, columns, array)
    elif kind in PARQUET:
        table = _read_parquet(path, columns)
    else:
        raise DataError(f"{path}: cannot read a {kind or 'nameless'} file. Expected {', '.join((*TEXT, '.npy', '.npz', *PARQUET))}.")
    return _checked(path, table)


def _checked(path: Path, table: Table) -> Table:
    if table.values.size == 0:
        raise DataError(f"{path}: expected rows of numbers; the table is empty.")
    bad = ~np.isfinite(table.values)
    if bad.any():
        column = int(bad.any(0).argmax())
        rows = np.flatnonzero(bad[:, column])
        raise DataError(
            f"{path}: column '{table.names[column]}' has {len(rows)} values that are NaN or infinite, the first in row {rows[0] + 1}. {MEND}"
        )
    return table


def _positions(path: Path, names: Sequence[str], columns: Sequence[str | int] | None) -> list[int]:
    """Where the wanted columns stand."""
    found = []
    for column in range(len(names)) if columns is None else columns:
        if isinstance(column, int) and -len(names) <= column < len(names):
            found.append(column % len(names))
        elif column in names:
            found.append(list(names).index(str(column)))
        else:
            raise DataError(f"{path}: no column {column!r} among {len(names)}. {nearest(str(column), names)}")
    return found


# -- text -------------------------------------------------------------------------------------------------------


def _read_text(path: Path, columns: Sequence[str | int] | None) -> Table:
    opening = _opening(path)
    wanted = _positions(path, opening.names, columns)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty table has a message of its own
        rows = (line for _, line in _body(path, file, opening))
        try:
            values = np.loadtxt(rows, delimiter=opening.delimiter, quotechar='"', comments=None, ndmin=2, usecols=wanted)
        except DataError:
            raise
        except ValueError:
            raise DataError(_fault(path, opening, wanted)) from None
    return Table(values.reshape(-1, len(wanted)), tuple(opening.names[i] for i in wanted))


class _Opening(NamedTuple):
    """What the first lines of a text file say."""

    names: tuple[str, ...]
    delimiter: str | None
    header: bool


def _opening(path: Path) -> _Opening:
    comment = first = ""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for line in file:
            if line.startswith("#"):
                comment = line.lstrip("# ")  # numpy.savetxt writes its header so
            elif line.strip():
                first = line
                break
    delimiter = next((mark for mark in (",", ";", "\t") if mark in first), None)
    head = _cells(first, delimiter)
    if not head:
        raise DataError(f"{path}: expected rows of numbers; the table is empty.")
    if not all(_is_number(cell) for cell in head):
        return _Opening(tuple(head), delimiter, True)
    named = _cells(comment, delimiter) if comment else []
    return _Opening(tuple(named) if len(named) == len(head) else tuple(f"x{i}" for i in range(len(head))), delimiter, False)


def _body(path: Path, file: Iterable[str], opening: _Opening) -> Iterator[tuple[int, str]]:
    """The lines of numbers with their places in the file, each checked to have as many cells as the first."""
    waiting = opening.header
    for number, line in enumerate(file, 1):
        if line.startswith("#") or not line.strip():
            continue
        if waiting:
            waiting = False
            continue
        plain = opening.delimiter is not None and '"' not in line
        count = line.count(opening.delimiter) + 1 if plain else len(_cells(line, opening.delimiter))  # type: ignore[arg-type]
        if count != len(opening.names):
            raise DataError(f"{path}: line {number} has {count} cells; expected {len(opening.names)}, as in the first line. Mend the line, or the separators.")
        yield number, line


def _cells(line: str, delimiter: str | None) -> list[str]:
    return line.split() if delimiter is None else [cell.strip() for cell in next(csv.reader([line.strip("\r\n")], delimiter=delimiter))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _fault(path: Path, opening: _Opening, wanted: Sequence[int]) -> str:
    """Which cell of a text file is not a number."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, line in _body(path, file, opening):
            cells = _cells(line, opening.delimiter)
            for i in wanted:
                if not _is_number(cells[i]):
                    got = f"got '{cells[i]}'" if cells[i] else "the cell is empty"
                    return f"{path}: column '{opening.names[i]}' is not numeric: expected a number in line {number}; {got}. {MEND}"
    return f"{path}: cannot be read as a table of numbers. Save it as comma-separated text in UTF-8."


# -- arrays -----------------------------------------------------------------------------------------------------


def _read_numpy(path: Path, columns: Sequence[str | int] | None, array: str | None) -> Table:
    try:
        loaded = np.load(path, allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded[_array_name(path, loaded.files, array)]
    except DataError:
        raise
    except Exception as error:  # a damaged file fails in numpy, zipfile or zlib
        raise DataError(f"{path}: not a readable NumPy file ({error}). Save it again with numpy.save or numpy.savez.") from None
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected an array of real numbers; got dtype {values.dtype}. Convert it with .astype('float64').")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise DataError(f"{path}: expected rows and columns, an array (N, D); got shape {values.shape}. Reshape it to (len(a), -1).")
    names = tuple(f"x{i}" for i in range(values.shape[1]))
    wanted = _positions(path, names, columns)
    return Table(values[:, wanted].astype(np.float64), tuple(names[i] for i in wanted))


def _array_name(path: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is None and "x" not in names and len(names) == 1:
        return names[0]
    name = "x" if wanted is None else wanted
    if name not in names:
        raise DataError(f"{path}: no array '{name}' in it; it holds {', '.join(names) or 'nothing'}. Say which with array=.")
    return name


def _read_parquet(path: Path, columns: Sequence[str | int] | None) -> Table:
    try:
        import pandas as pd

        frame: Any = pd.read_parquet(path)
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pandas and pyarrow. Install them with: pip install 'flowkit[data]'") from None
    except Exception as error:  # pyarrow has error classes of its own
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from None
    names = tuple(str(name) for name in frame.columns)
    wanted = _positions(path, names, columns)
    for i in wanted:
        if frame.dtypes.iloc[i].kind not in "biuf":
            raise DataError(f"{path}: column '{names[i]}' is not numeric: its type is {frame.dtypes.iloc[i]}. {MEND}")
    return Table(frame.iloc[:, wanted].to_numpy(dtype=np.float64, na_value=np.nan), tuple(names[i] for i in wanted))
