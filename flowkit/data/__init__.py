"""Data sets, one class a file, each with train, validation and test splits."""

from flowkit.core.build import discover
from flowkit.data._dataset import Dataset, Scale, Split
from flowkit.data._table import Table, read_table

__all__ = ["Dataset", "Scale", "Split", "Table", "read_table"]
discover(__name__)
