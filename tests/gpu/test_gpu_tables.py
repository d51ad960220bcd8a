"""What the kernels of splines share with the rest of the package: how many parameters an element has, and floors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flowkit.kernels
from flowkit.core.registry import UNIVARIATES
from flowkit.kernels import bins, piecewise_quadratic, rational_quadratic
from flowkit.kernels.gpu import maps, numbers

FOLDER = Path(flowkit.kernels.__file__).parent
SPLINES = {
    "rational_quadratic_spline": maps.RATIONAL_QUADRATIC_SPLINE,
    "quadratic_spline": maps.PIECEWISE_QUADRATIC_SPLINE,
    "linear_spline": maps.PIECEWISE_LINEAR_SPLINE,
}


@pytest.mark.parametrize("ends", ["linear", "bounded", "circular", "mixed"])
@pytest.mark.parametrize("name", SPLINES)
def test_as_many_parameters_as_the_univariate_has(name: str, ends: str) -> None:
    """Mixed ends are called as bounded ones."""
    spline = UNIVARIATES[name](5, 2.0, ends=["linear", "bounded", "circular"] if ends == "mixed" else ends)
    table = SPLINES[name].table(5, -2.0, 2.0, "bounded" if ends == "mixed" else ends)
    assert table.count == spline.parameter_count


def test_one_floor() -> None:
    """The kernels have one floor for all sizes and slopes, that of the reference, and write it once."""
    floors = {bins.MIN_WIDTH, bins.MIN_HEIGHT, rational_quadratic.MIN_SLOPE, piecewise_quadratic.MIN_SLOPE, getattr(numbers.FLOOR, "value", numbers.FLOOR)}
    assert floors == {1e-3}
    sources = (*(FOLDER / "gpu").glob("*.py"), *(FOLDER / "cpu").glob("*spline*.cpp"))
    written = [path.name for path in sources if re.search(r"\b(1e-3|0\.001)\b", path.read_text(encoding="utf-8"))]
    assert not written, f"floors of their own: {written}"
    found = re.findall(r"double FLOOR = (\S+);", (FOLDER / "cpu" / "bins.h").read_text(encoding="utf-8"))
    assert [float(number) for number in found] == [bins.MIN_WIDTH]
