"""The small tables that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from flowkit.core.errors import ConfigError
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, _Parts
from flowkit.data._table import Table
from flowkit.data._tabular import dequantized, split_rows, split_table, without_constant, without_discrete


@DATA.register("sklearn_table")
class SklearnTable(Dataset):
    """A table bundled with scikit-learn: iris (4 columns), wine (13), breast_cancer (30) or diabetes (10 with the target).

    Columns with fewer distinct values than 5 % of the rows are dropped as discrete; the others get uniform
    noise as wide as their smallest step. The split is that of Papamakarios et al. (2017): 10 % test, then 10 % validation.

    Args:
        dataset: which table.
        classes: give the class of each row as context, an int64 label; not for diabetes, whose target is a column.
        drop_discrete: drop discrete columns.
        dequantize: add the noise.
        standardize: subtract the mean and divide by the standard deviation of the train rows.
        seed: of the split and of the noise.
    """

    license = "BSD-3-Clause (scikit-learn); the data are public"
    source = "sklearn.datasets"

    def __init__(
        self,
        dataset: Literal["iris", "wine", "breast_cancer", "diabetes"] = "iris",
        *,
        classes: bool = False,
        drop_discrete: bool = True,
        dequantize: bool = True,
        standardize: bool = True,
        seed: int = 0,
    ) -> None:
        if dataset not in ("iris", "wine", "breast_cancer", "diabetes"):
            raise ConfigError(f"SklearnTable: expected dataset iris, wine, breast_cancer or diabetes; got {dataset!r}.")
        if classes and dataset == "diabetes":
            raise ConfigError("SklearnTable: diabetes has no classes; its target is a column. Drop classes=True.")
        self.dataset, self.classes, self.seed = dataset, classes, seed
        self.drop_discrete, self.dequantize, self.standardize = drop_discrete, dequantize, standardize

    def _load(self) -> _Parts:
        table, labels = self._raw()
        rows = split_rows(len(table.values), self.seed, self.dataset)
        table = without_discrete(table) if self.drop_discrete else without_constant(table)
        if self.dequantize:
            table = Table(dequantized(table.values, np.random.default_rng([self.seed, 1])), table.names)
        return split_table(table, rows, self.dataset, context=labels if self.classes else None, standardize=self.standardize)

    def _raw(self) -> tuple[Table, Any]:
        from sklearn import datasets

        bunch: Any = datasets.load_diabetes(scaled=False) if self.dataset == "diabetes" else getattr(datasets, f"load_{self.dataset}")()
        values, names = np.asarray(bunch.data, dtype=np.float64), tuple(map(str, bunch.feature_names))
        if self.dataset == "diabetes":
            return Table(np.column_stack([values, bunch.target]), (*names, "progression")), None
        return Table(values, names), np.asarray(bunch.target, dtype=np.int64)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SklearnTable]]:
        yield "iris", cls("iris")
        yield "wine_classes", cls("wine", classes=True)
