"""What linear maps keep between calls is never stale: every way that a parameter can change, and every mode in which nothing may be kept."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from flowkit.bijectors import Linear, Orthogonal, Rotation
from flowkit.numerics import value_cache

SIZE = 4
MAKERS: dict[str, Callable[[], Any]] = {
    "linear": lambda: Linear(SIZE),
    "cayley": lambda: Orthogonal(SIZE, form="cayley"),
    "exp": lambda: Orthogonal(SIZE, form="exp"),
    "rotation": lambda: Rotation(SIZE),
}


def made(kind: str, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    layer = MAKERS[kind]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return layer


def main(layer: Any) -> nn.Parameter:
    """The parameter that the cached tensors derive from."""
    return next(iter(layer.learned.values.values()))


def points(layer: Any) -> Tensor:
    return torch.randn(5, SIZE, generator=torch.Generator().manual_seed(9)).to(main(layer))


def outputs(layer: Any) -> list[Tensor]:
    """Both directions without gradients, which is where the cache serves."""
    with torch.no_grad():
        x = points(layer)
        return [*layer(x), *layer.inverse(x)]


def uncached(layer: Any) -> list[Tensor]:
    """The same from a new instance that has never been called, holding copies of the parameters."""
    fresh = type(layer)(SIZE, **({"form": layer.form} if isinstance(layer, Orthogonal) else {})).to(main(layer).dtype)
    with torch.no_grad():
        for own, theirs in zip(fresh.parameters(), layer.parameters(), strict=True):
            own.copy_(theirs.detach().clone())
    assert fresh._cache._entry is None
    return outputs(fresh)


def agree(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- ways to change a parameter ---------------------------------------------------------------------------------------


def _step(**options: Any) -> Callable[[Any], None]:
    def run(layer: Any) -> None:
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, **options)
        x, log_det = layer(points(layer) + 1)
        (x.pow(3).sum() + log_det.sum()).backward()
        optimizer.step()

    return run


def _load(layer: Any, assign: bool = False) -> None:
    other = made({Linear: "linear", Rotation: "rotation"}.get(type(layer)) or layer.form, seed=1)
    layer.load_state_dict(other.state_dict(), assign=assign)


def _in_place(layer: Any) -> None:
    with torch.no_grad():
        main(layer).mul_(1.5)


def _copied(layer: Any) -> None:
    with torch.no_grad():
        main(layer).copy_(torch.flip(main(layer), (0,)) * 0.9)


def _in_inference_mode(layer: Any) -> None:
    with torch.inference_mode():
        main(layer).mul_(1.5)


def _data_copied(layer: Any) -> None:
    main(layer).data.mul_(1.5)


def _data_swapped(layer: Any) -> None:
    main(layer).data = main(layer).detach() * 1.5


def _data_swapped_to_the_same_address(layer: Any) -> None:
    """The memory that was there when the cache was filled is freed and taken again, as an allocator likes to do."""
    kept = main(layer).detach().clone()
    address = main(layer).data_ptr()
    main(layer).data = kept
    spare = []
    for _ in range(64):
        spare.append(kept * 1.5)
        if spare[-1].data_ptr() == address:
            break
    main(layer).data = spare[-1]


def _through_numpy(layer: Any) -> None:
    main(layer).detach().numpy()[...] *= 1.5


def _as_vector(layer: Any) -> None:
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(1.5 * vector.detach(), layer.parameters())


def _new_parameter(layer: Any) -> None:
    name = next(iter(layer.learned.values))
    layer.learned.values[name] = nn.Parameter(main(layer).detach() * 1.5)


def _tensors_swapped(layer: Any) -> None:
    torch.utils.swap_tensors(main(layer), nn.Parameter(main(layer).detach() * 1.5))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "adam": _step(foreach=False),
    "adam_foreach": _step(foreach=True),
    "adam_fused": _step(fused=True),
    "load_state_dict": _load,
    "load_state_dict_assign": lambda layer: _load(layer, assign=True),
    "in_place": _in_place,
    "copy_": _copied,
    "inference_mode": _in_inference_mode,
    "data_in_place": _data_copied,
    "data_swapped": _data_swapped,
    "data_swapped_same_address": _data_swapped_to_the_same_address,
    "numpy": _through_numpy,
    "vector_to_parameters": _as_vector,
    "new_parameter": _new_parameter,
    "swap_tensors": _tensors_swapped,
    "to_double": lambda layer: layer.double(),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_takes_effect_at_once(kind: str, change: str) -> None:
    layer = made(kind)
    outputs(layer)
    assert layer._cache._entry is not None
    CHANGES[change](layer)
    assert agree(outputs(layer), uncached(layer))


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_would_be_missed_by_a_blind_cache(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with a cache that never looks, every change gives old numbers (or an error of dtypes)."""
    layer = made("exp")
    outputs(layer)
    CHANGES[change](layer)
    monkeypatch.setattr(value_cache, "_equal", lambda kept, sources: True)
    try:
        got = outputs(layer)
    except RuntimeError as error:
        assert "dtype" in str(error)
        return
    monkeypatch.undo()
    assert not agree(got, uncached(layer))


@pytest.mark.parametrize("change", ["adam_fused", "data_in_place", "data_swapped", "numpy", "vector_to_parameters"])
def test_version_counters_would_not_do(change: str) -> None:
    """Why values are compared: these changes leave torch's version counter as it was."""
    layer = made("linear")
    before = main(layer)._version, main(layer).detach().clone()
    CHANGES[change](layer)
    assert main(layer)._version == before[0] and not torch.equal(main(layer), before[1])


# -- what is kept, and when -------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one entry for every factorisation and every exponential."""
    calls: list[str] = []
    factor, exponential = torch.linalg.lu_factor_ex, torch.linalg.matrix_exp
    monkeypatch.setattr(torch.linalg, "lu_factor_ex", lambda *a, **k: (calls.append("lu"), factor(*a, **k))[1])
    monkeypatch.setattr(torch.linalg, "matrix_exp", lambda *a, **k: (calls.append("exp"), exponential(*a, **k))[1])
    return calls


@pytest.mark.parametrize("kind", ["linear", "exp"])
def test_computed_once_while_nothing_changes(kind: str, computed: list[str]) -> None:
    for training in (True, False):
        layer = made(kind).train(training)
        computed.clear()
        for _ in range(3):
            outputs(layer)
        assert len(computed) == 1
        layer(points(layer))  # a gradient is recorded: computed anew, with its graph
        assert len(computed) == 2
        outputs(layer)
        assert len(computed) == 2


@pytest.mark.parametrize("kind", ["linear", "exp"])
def test_a_frozen_map_keeps_and_passes_gradients_on(kind: str, computed: list[str]) -> None:
    layer = made(kind).double().requires_grad_(False)
    with torch.inference_mode():
        layer(points(layer))  # filled here, and must serve where gradients are recorded
    x = points(layer).requires_grad_()
    (got,) = torch.autograd.grad(layer.inverse(x)[0].pow(2).sum(), x)
    assert len(computed) == 1
    wanted = 2 * torch.linalg.solve(layer.matrix().mT, layer.inverse(x)[0].mT).mT
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_after_a_filled_cache(kind: str) -> None:
    used, fresh = made(kind), made(kind)
    outputs(used)
    for layer in (used, fresh):
        value, log_det = layer.inverse(points(layer))
        (value.pow(3).sum() + log_det.sum()).backward()
    for own, theirs in zip(used.parameters(), fresh.parameters(), strict=True):
        assert own.grad is not None and theirs.grad is not None and torch.equal(own.grad, theirs.grad)


@pytest.mark.parametrize("kind", MAKERS)
def test_copies_start_empty(kind: str) -> None:
    layer = made(kind)
    outputs(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    size = len(pickle.dumps(layer))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)):
        assert twin._cache is not layer._cache and twin._cache._entry is None
        assert agree(outputs(twin), outputs(layer))
        before = outputs(layer)
        _in_place(twin)
        assert agree(outputs(twin), uncached(twin)) and agree(outputs(layer), before)
    layer._cache.clear()
    assert len(pickle.dumps(layer)) == size


@pytest.mark.parametrize("kind", MAKERS)
def test_functional_call(kind: str) -> None:
    layer = made(kind)
    before = outputs(layer)
    other = {name: 1.5 * parameter.detach() for name, parameter in layer.named_parameters()}
    with torch.no_grad():
        got = functional_call(layer, other, (points(layer),))
    changed = copy.deepcopy(layer)
    changed.load_state_dict(other)
    assert agree(list(got), uncached(changed)[:2]) and not agree(list(got), before[:2])
    assert agree(outputs(layer), before)


@pytest.mark.parametrize("kind", MAKERS)
def test_vmap_over_parameters(kind: str) -> None:
    """An ensemble: nothing of a functorch level is kept, and each member has its own matrix."""
    layers = [made(kind, seed) for seed in range(3)]
    stacked = {name: torch.stack([dict(layer.named_parameters())[name].detach() for layer in layers]) for name, _ in layers[0].named_parameters()}
    outputs(layers[0])
    kept = layers[0]._cache._entry
    z = points(layers[0])
    with torch.no_grad():
        x, log_det = torch.vmap(lambda parameters: functional_call(layers[0], parameters, (z,)))(stacked)
    assert layers[0]._cache._entry is kept
    for i, layer in enumerate(layers):
        for got, wanted in zip((x[i], log_det[i]), outputs(layer)[:2], strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("kind", MAKERS)
def test_forward_mode(kind: str) -> None:
    """A tangent of a parameter reaches the output though the same numbers are kept, and is not kept itself."""
    layer = made(kind).double()
    outputs(layer)
    name, value = next(iter(layer.named_parameters()))
    x = points(layer)
    with torch.no_grad(), forward_ad.dual_level():
        out, _ = functional_call(layer, {name: forward_ad.make_dual(value.detach(), torch.ones_like(value))}, (x,))
        tangent = forward_ad.unpack_dual(out).tangent
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (functional_call(layer, {name: value.detach() + sign * step}, (x,))[0] for sign in (1, -1))
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), atol=1e-7, rtol=1e-6)
    assert agree(outputs(layer), uncached(layer))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("change", ["data_in_place", "load_state_dict"])
def test_compiled(kind: str, change: str) -> None:
    """A compiled call looks at no cache, so there is nothing in it that could go stale; eager calls beside it stay right."""
    torch._dynamo.reset()
    layer = made(kind)
    outputs(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(points(layer))
        CHANGES[change](layer)
        for got, wanted in zip(compiled(points(layer)), outputs(layer)[:2], strict=True):
            torch.testing.assert_close(got, wanted)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", MAKERS)
def test_parameters_made_in_inference_mode(kind: str) -> None:
    """Such tensors have no version counter at all."""
    with torch.inference_mode():
        layer = MAKERS[kind]()
        assert main(layer).is_inference()
        for _ in range(2):
            main(layer).add_(0.2 * torch.randn(main(layer).shape, generator=torch.Generator().manual_seed(3)))
            x = points(layer)
            torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x, atol=1e-5, rtol=1e-5)
            assert agree([*layer(x)], uncached(layer)[:2])


def test_fake_tensors_are_not_kept() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = made("linear")
    for _ in range(2):  # empty at first, then filled
        entry = layer._cache._entry
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            layer(torch.empty(5, SIZE))
        assert layer._cache._entry is entry
        assert agree(outputs(layer), uncached(layer))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_traced_graph_holds_no_kept_matrix(kind: str) -> None:
    """make_fx records the work done on the parameters, so the graph follows them; a kept matrix would be a constant of it."""
    layer = made(kind)
    before = outputs(layer)
    with torch.no_grad():
        graph = make_fx(lambda x: layer(x))(points(layer))
        _in_place(layer)
        got = graph(points(layer))
    assert agree(list(got), outputs(layer)[:2]) and not agree(list(got), before[:2])


def test_a_conditional_map_keeps_nothing() -> None:
    layer = Linear(SIZE, context_features=2)
    with torch.no_grad():
        layer(torch.randn(5, SIZE), torch.randn(5, 2))
    assert layer._cache._entry is None


@pytest.mark.parametrize("peer", ["LULinear", "NaiveLinear"])
def test_nflows_is_stale_after_load_state_dict(peer: str) -> None:
    """The defect this file guards against: the same call of the peer gives the old weights' numbers (nessai PR 167)."""
    transforms = pytest.importorskip("nflows.transforms")
    torch.manual_seed(0)
    used, other = (getattr(transforms, peer)(SIZE, using_cache=True).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        x = torch.randn(5, SIZE)
        before = used(x)[1]
        used.load_state_dict(other.state_dict())
        assert torch.equal(used(x)[1], before) and not torch.allclose(other(x)[1], before)
    layer, loaded = made("linear"), made("linear", seed=1)
    outputs(layer)
    layer.load_state_dict(loaded.state_dict())
    assert agree(outputs(layer), outputs(loaded))
