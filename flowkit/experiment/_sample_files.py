"""Writers of sample files: each takes chunks one after the other and renames its temporary file when all are there."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.experiment.record import Units


class Chunk(NamedTuple):
    """Samples ``x`` (m, *event), their ``log_prob`` (m,), and their ``context`` (m, *context) or None."""

    x: Tensor
    log_prob: Tensor
    context: Tensor | None


Write = Callable[[Chunk], None]


@contextmanager
def _npz(path: Path, units: Units, n: int) -> Iterator[Write]:
    """Arrays are spooled to files beside the target, because a zip takes one member at a time."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_beside(path))
        spools: dict[str, IO[bytes]] = {}
        kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

        def write(chunk: Chunk) -> None:
            for name, value in zip(("x", "log_prob", "context"), chunk, strict=True):
                if value is not None:
                    array = np.ascontiguousarray(value.numpy())
                    if name not in spools:
                        spools[name] = stack.enter_context((folder / name).open("w+b"))
                        kinds[name] = (array.dtype, array.shape[1:])
                    spools[name].write(array.tobytes())

        yield write
        whole = folder / "whole"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            for name, spool in spools.items():
                dtype, event = kinds[name]
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n, *event)}
                    np.lib.format.write_array_header_2_0(member, header)
                    spool.seek(0)
                    shutil.copyfileobj(spool, member, 2**20)
        _put(whole, path)


@contextmanager
def _csv(path: Path, units: Units, n: int) -> Iterator[Write]:
    with _beside(path) as folder:
        with (folder / "whole").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            header: list[str] = []

            def write(chunk: Chunk) -> None:
                columns = _columns(chunk, units)
                if not header:
                    header.extend(columns)
                    writer.writerow(header)
                text = io.StringIO()
                np.savetxt(text, np.column_stack(list(columns.values())), fmt="%.9g", delimiter=",")
                file.write(text.getvalue())

            yield write
        _put(folder / "whole", path)


@contextmanager
def _parquet(path: Path, units: Units, n: int) -> Iterator[Write]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path}: writing Parquet needs pyarrow. Install it with: pip install 'flowkit[data]'") from None
    with _beside(path) as folder:
        writers: list[Any] = []

        def write(chunk: Chunk) -> None:
            table = pyarrow.table({name: np.ascontiguousarray(column) for name, column in _columns(chunk, units).items()})
            if not writers:
                writers.append(pyarrow.parquet.ParquetWriter(folder / "whole", table.schema))
            writers[0].write_table(table)

        try:
            yield write
        finally:
            for writer in writers:
                writer.close()
        _put(folder / "whole", path)


@contextmanager
def _png(path: Path, units: Units, n: int) -> Iterator[Write]:
    """A grid as square as can be, white lines between the pictures; values are clipped to [0, 1]."""
    from PIL import Image

    height, width = units.event_shape[1:]
    across = math.ceil(math.sqrt(n))
    down, gap = math.ceil(n / across), 1 if min(height, width) > 4 else 0
    scale = max(1, min(8, 1600 // (across * (width + gap)))) if across * (width + gap) < 1600 else 1
    grid = np.full((down * (height + gap) - gap, across * (width + gap) - gap, 3), 255, dtype=np.uint8)
    done = 0

    def write(chunk: Chunk) -> None:
        nonlocal done
        pictures = (units.as_pictures(chunk.x).clamp(0, 1).nan_to_num().float().numpy() * 255).round().astype(np.uint8)
        for picture in pictures:
            top, left = done // across * (height + gap), done % across * (width + gap)
            grid[top : top + height, left : left + width] = np.broadcast_to(picture.transpose(1, 2, 0), (height, width, 3))
            done += 1

    with _beside(path) as folder:
        yield write
        image = Image.fromarray(grid)
        image.resize((grid.shape[1] * scale, grid.shape[0] * scale), Image.Resampling.NEAREST).save(folder / "whole", format="PNG")
        _put(folder / "whole", path)


@contextmanager
def _xyz(path: Path, units: Units, n: int) -> Iterator[Write]:
    """Elements and positions in angstroms, the log-density in each frame's comment."""
    from flowkit.heads.boltzmann.structure_files import write_xyz_frame

    elements = _molecule(path, units)["elements"]
    with _beside(path) as folder:
        with (folder / "whole").open("w", encoding="utf-8") as file:

            def write(chunk: Chunk) -> None:
                for frame, log_prob in zip(chunk.x, chunk.log_prob.tolist(), strict=True):
                    write_xyz_frame(file, elements, frame, f"log_prob={log_prob:.9g}")

            yield write
        _put(folder / "whole", path)


@contextmanager
def _pdb(path: Path, units: Units, n: int) -> Iterator[Write]:
    """One model a sample, by OpenMM."""
    from flowkit.heads.boltzmann.structure_files import PDBModels

    with _beside(path) as folder:
        with (folder / "whole").open("w", encoding="utf-8") as file:
            models = PDBModels(file, _molecule(path, units), several=n > 1)

            def write(chunk: Chunk) -> None:
                for frame in chunk.x:
                    models.write(frame)

            yield write
            models.close()
        _put(folder / "whole", path)


def _molecule(path: Path, units: Units) -> dict[str, Any]:
    """Names and elements of the atoms."""
    if units.molecule is None:
        raise ConfigError(f"{path}: {path.suffix} is for structures of a molecule; this run knows of none. Use .npz.")
    return units.molecule


def _columns(chunk: Chunk, units: Units) -> dict[str, Any]:
    """A chunk as columns by name: the numbers of an event, the context's, the log-density."""
    names = [name if name != "log_prob" else "log_prob_" for name in units.columns]
    columns = dict(zip(names, chunk.x.flatten(1).T.numpy(), strict=True))
    if chunk.context is not None:
        flat = chunk.context.reshape(len(chunk.context), -1).T.numpy()
        columns |= {("context" if len(flat) == 1 else f"context{i}"): column for i, column in enumerate(flat)}
    return {**columns, "log_prob": chunk.log_prob.numpy()}


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the target's own file system."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder)


def _put(whole: Path, path: Path) -> None:
    """Flush a file to disk and move it into its place."""
    with whole.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(whole, path)


WRITERS: dict[str, Any] = {".npz": _npz, ".csv": _csv, ".parquet": _parquet, ".png": _png, ".xyz": _xyz, ".pdb": _pdb}
