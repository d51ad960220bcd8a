"""What tables share: discrete columns, dequantisation, the three splits, standardisation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit.core.errors import DataError
from flowkit.data._dataset import Scale, Split, _Parts
from flowkit.data._table import Table

DISCRETE_SHARE = 0.05


def without_discrete(table: Table) -> Table:
    """Drop the discrete columns: those with fewer distinct values than 5 % of the rows."""
    fewest = DISCRETE_SHARE * len(table.values)
    return _keep(table, [len(np.unique(column)) >= fewest for column in table.values.T])


def without_constant(table: Table) -> Table:
    """Drop the columns that hold one value only."""
    return _keep(table, [bool(column.min() < column.max()) for column in table.values.T])


def _keep(table: Table, kept: list[bool]) -> Table:
    return Table(table.values[:, kept], tuple(name for name, keep in zip(table.names, kept, strict=True) if keep))


def dequantized(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Add to each column uniform noise one quantum wide and centred; the quantum is the column's smallest step."""
    steps = [np.diff(np.unique(column)) for column in values.T]
    quantum = np.array([step.min() if step.size else 0.0 for step in steps])
    return values + quantum * (rng.random(values.shape) - 0.5)


def split_rows(n: int, seed: int, who: str, *, test: float = 0.1, validation: float = 0.1) -> tuple[NDArray[np.int64], ...]:
    """Row numbers of train, validation and test: ``test`` of all rows at random, then ``validation`` of the others.

    A share above 0 gets one row at least.

    Reference:
        Papamakarios et al. (2017), Masked autoregressive flow for density estimation, arXiv:1705.07057, section 4.2.
    """
    if n < 3:
        raise DataError(f"{who}: expected at least 3 rows, for train, validation and test; got {n}.")
    order = np.random.default_rng(seed).permutation(n)
    tests = max(int(test * n), int(test > 0))
    validations = max(int(validation * (n - tests)), int(validation > 0))
    trains = n - tests - validations
    return order[:trains], order[trains : trains + validations], order[trains + validations :]


def split_table(
    table: Table, rows: tuple[NDArray[np.int64], ...], who: str, *, context: NDArray[np.float64] | NDArray[np.int64] | None = None, standardize: bool
) -> _Parts:
    """Cut a table by rows; columns, and a float context, are standardised by the train rows.

    Raises:
        DataError: no column is left, or one is constant on the train rows (it is named).
    """
    if not table.names:
        raise DataError(f"{who}: no column is left. Pass drop_discrete=False, or other columns.")
    x = torch.from_numpy(np.ascontiguousarray(table.values))
    given = None if context is None else torch.from_numpy(np.ascontiguousarray(context))
    train = torch.from_numpy(rows[0])
    flat = (x[train].amax(0) <= x[train].amin(0)).tolist()
    if any(flat):
        raise DataError(
            f"{who}: column '{table.names[flat.index(True)]}' is constant on the train rows, so it has no density. Leave it out with columns=."
        )
    scale = _scale_of(x[train]) if standardize else None
    if scale is not None:
        x = scale.standardize(x)
    if standardize and given is not None and given.is_floating_point():
        given = _scale_of(given[train]).standardize(given)
    parts = [torch.from_numpy(part) for part in rows]
    train_part, validation_part, test_part = (Split(x[part].float(), None if given is None else _narrow(given[part])) for part in parts)
    return _Parts(train_part, validation_part, test_part, table.names, scale)


def _scale_of(x: Tensor) -> Scale:
    deviation = x.std(0, correction=0)
    return Scale(x.mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation)))


def _narrow(context: Tensor) -> Tensor:
    return context.float() if context.is_floating_point() else context
