"""The inverse of an autoregressive layer by one kernel has the values of its levels one by one (kernels-K3, K4)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
import torch
from stepped_layers import LAYERS, by_reference, fused, given, made, note_calls

from flowkit.kernels.cpu import library
from flowkit.testing.ops import SIZES, worst


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return note_calls(monkeypatch)


@fused
@pytest.mark.parametrize("name", LAYERS)
def test_values_in_float64(name: str, calls: list[str]) -> None:
    layer = made(name)
    for size in SIZES:
        x, context = given(layer, size)
        wanted = by_reference(layer, x, context)
        calls.clear()
        found = layer.inverse(x, context)
        assert len(calls) == (size > 0) and all(call.startswith("stepped_") for call in calls)
        for mine, true in zip(found, wanted, strict=True):
            assert mine.shape == true.shape and mine.dtype == true.dtype
            assert worst(mine, true) <= 1e-12


@fused
@pytest.mark.parametrize("name", LAYERS)
def test_float32_error_is_that_of_the_reference(name: str) -> None:
    """At most twice that of the levels one by one in float32, both against float64: the median over draws of the largest errors."""
    layer, single = made(name), made(name, torch.float32)
    errors: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
    for seed in range(20):
        x, context = given(single, 200, seed=seed, dtype=torch.float32)
        true = by_reference(layer, x.double(), None if context is None else context.double())
        for found, place in ((single.inverse(x, context), 0), (by_reference(single, x, context), 1)):
            for tensor in range(2):
                errors[tensor][place].append(worst(found[tensor], true[tensor]))
    for mine, plain in errors:
        assert statistics.median(mine) <= max(2 * statistics.median(plain), 3e-7)


@fused
@pytest.mark.parametrize("name", ["rational_quadratic", "narrow_conditional", "residual_conditional"])
def test_any_layout_and_batch(name: str) -> None:
    layer = made(name)
    x, context = given(layer, 12)
    wanted = layer.inverse(x, context)
    turned = x.t().contiguous().t()
    other = None if context is None else torch.stack([context, context], dim=1)[:, 0]
    assert not turned.is_contiguous()
    for mine, true in zip(layer.inverse(turned, other), wanted, strict=True):
        assert torch.equal(mine, true)
    grid = layer.inverse(x.reshape(3, 4, -1), None if context is None else context.reshape(3, 4, -1))
    assert torch.equal(grid[0].reshape(12, -1), wanted[0]) and torch.equal(grid[1].reshape(12), wanted[1])
    one = layer.inverse(x[5], None if context is None else context[5])
    torch.testing.assert_close(one, (wanted[0][5], wanted[1][5]), rtol=1e-13, atol=1e-13)  # torch's product with a single context differs
    if context is not None:
        shared, repeated = layer.inverse(x, context[0]), layer.inverse(x, context[:1].expand(12, -1))
        assert torch.equal(shared[0], repeated[0]) and torch.equal(shared[1], repeated[1])


@fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["relu", "narrow", "residual"])
def test_neither_threads_nor_neighbours_change_a_bit(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(name, dtype)
    x, _ = given(layer, 333, dtype=dtype)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(library, "_threads", lambda work, threads=threads: threads)
        found.append(layer.inverse(x))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0]) and torch.equal(other[1], found[0][1])
    for size in (1, 7, 20, 100):  # tiles of other widths
        few = layer.inverse(x[-size:])
        assert torch.equal(few[0], found[0][0][-size:]) and torch.equal(few[1], found[0][1][-size:])


@fused
@pytest.mark.parametrize("name", ["relu", "silu", "affine", "quadratic", "residual_conditional", "narrow_conditional"])
def test_a_poisoned_sample_is_alone(name: str) -> None:
    layer = made(name)
    x, context = given(layer, 70)
    bad = x.clone()
    bad[9, 0] = torch.nan
    wanted, found = layer.inverse(x, context), layer.inverse(bad, context)
    rest = torch.arange(70) != 9
    for mine, true in zip(found, wanted, strict=True):
        assert torch.equal(mine[rest], true[rest])
    true = by_reference(layer, bad, context)
    assert bool(true[0][9].isnan().any())
    assert torch.equal(found[0].isnan(), true[0].isnan()) and torch.equal(found[1].isnan(), true[1].isnan())


@fused
def test_memory_is_not_trusted_to_be_finite() -> None:
    """What a call leaves in the memory of its threads does not reach the next."""
    layer = made("narrow_conditional")
    x, context = given(layer, 100)
    wanted = layer.inverse(x, context)
    poisoned = made("residual_conditional")
    poisoned.inverse(torch.full((130, 6), torch.nan, dtype=torch.float64), torch.full((130, 2), torch.nan, dtype=torch.float64))
    found = layer.inverse(x, context)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
