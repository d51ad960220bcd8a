"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys

import pytest
import torch

import flowkit

MODULES = sorted(info.name for info in pkgutil.walk_packages(flowkit.__path__, "flowkit.") if not info.name.endswith("__main__"))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flowkit"):
            raise
        pytest.skip(f"{error.name} is not installed")
    if not doctest.DocTestFinder(exclude_empty=True).find(module):
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name} fail; run python -m doctest on it"


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = sum(bool(test.examples) for name in MODULES if name in sys.modules for test in finder.find(sys.modules[name]))
    assert found >= 5
