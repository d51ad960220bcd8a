"""Constructor arguments: integers of numpy count as ints, and what cannot be meant is refused in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import flowkit as fk
from flowkit import flows, univariates
from flowkit.bijectors import (
    Affine,
    AllInOneBlock,
    Autoregressive,
    Autoregressive2d,
    Coupling,
    Elementwise,
    EquivariantCoupling,
    GINCoupling,
    GlowStep,
    ImageCoupling,
    LULinear,
    Scan,
    Squeeze,
    Vmap,
)
from flowkit.core.build import build, describe
from flowkit.core.build.describe import constructor_parameters
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS, REGISTRIES
from flowkit.core.shapes import as_shape, positive, positive_number, positive_sizes
from flowkit.distributions import StandardNormal

KINDS = ("objectives", "bijectors", "surjections", "univariates", "nets", "fields", "domains", "distributions", "targets", "flows")
CLASSES = [pytest.param(REGISTRIES[kind][name], id=f"{kind}-{name}") for kind in KINDS for name in REGISTRIES[kind]]


def numpy_ints(value: Any) -> Any:
    """Plain ints in an argument as numpy's."""
    if type(value) is int:
        return np.int64(value)
    return tuple(numpy_ints(item) for item in value) if type(value) in (tuple, list) else value


def has_ints(value: Any) -> bool:
    return any(map(has_ints, value)) if type(value) in (tuple, list) else type(value) is int


def plain(value: Any) -> bool:
    """Whether a shape, or a dict of shapes, holds ints of Python only."""
    if isinstance(value, dict):
        return all(plain(item) for item in value.values())
    return all(plain(item) for item in value) if isinstance(value, tuple) else value is None or type(value) is int


@pytest.mark.parametrize("cls", CLASSES)
def test_numpy_ints(cls: Any) -> None:
    for _, instance, *_ in cls.examples():
        given = {key: getattr(instance, key) for key in constructor_parameters(cls)}
        if not any(has_ints(value) for value in given.values()):
            continue
        if cls in (Scan, Vmap):  # they keep the map with stacked parameters
            given["bijector"] = build(describe(given["bijector"]), BIJECTORS)
        torch.manual_seed(0)
        made = cls(**{key: numpy_ints(value) for key, value in given.items()})
        text: dict[str, torch.Tensor] = {}
        assert describe(made, text) == describe(instance, {})
        json.dumps(describe(made, text))
        for key, value in given.items():
            if type(value) is int and key != "shape":
                assert type(getattr(made, key)) is int, f"{key} is stored as {type(getattr(made, key)).__name__}"
        for name in ("in_shape", "out_shape", "event_shape", "context_shape"):
            assert plain(getattr(made, name, ())), f"{name} is {getattr(made, name)!r}"


def test_numpy_ints_elsewhere(tmp_path: Any) -> None:
    f = LULinear(2)
    assert len(f ** np.int64(2)) == 2  # type: ignore[operator]
    assert (f ** np.int64(-1)).who == (~f).who and (f ** np.int64(0)).in_shape == (2,)  # type: ignore[operator]
    flow = flows.NeuralSplineFlow(np.int64(2), layers=np.int64(1), hidden=(np.int32(8),), bins=np.int64(5))  # type: ignore[arg-type]
    assert flow.log_prob(torch.zeros(4, 2), batch_size=np.int64(3)).shape == (4,)  # type: ignore[arg-type]
    fk.save(flow, tmp_path / "flow")
    assert fk.load(tmp_path / "flow").describe() == flow.describe()
    assert "bins=5" in repr(flow)
    fit = fk.fit(flow, torch.randn(64, 2), max_steps=np.int64(2), batch_size=np.int64(16), seed=np.int64(0), progress=False)  # type: ignore[arg-type]
    assert fit.steps == 2


def test_size_helpers() -> None:
    assert as_shape(np.int64(3), "X") == (3,) and as_shape((np.int64(2), None), "X") == (2, None)  # type: ignore[arg-type]
    assert type(positive(np.int16(2), "X", "n")) is int and positive_sizes([np.int64(2), 3], "X", "n") == (2, 3)
    for wrong in (True, np.bool_(True), 2.0, "2", None, 0, -1, math.nan, torch.tensor(2.5)):
        with pytest.raises(ConfigError, match="X: expected n"):
            positive(wrong, "X", "n")
        with pytest.raises(ConfigError, match="X: expected a shape"):
            as_shape((2, wrong) if wrong is not None else None, "X")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="X: expected n"):
            positive_sizes((2, wrong), "X", "n")
    for bad in (0, -1.0, math.inf, math.nan, "1", None, True, (1.0,)):
        with pytest.raises(ConfigError, match="X: expected n"):
            positive_number(bad, "X", "n")
    assert positive_number(2, "X", "n") == 2 and positive_number(np.float32(0.5), "X", "n") == 0.5


RECIPES = [pytest.param(cls, id=cls.__name__) for cls in dict.fromkeys(REGISTRIES["flows"][name] for name in REGISTRIES["flows"]) if hasattr(cls, "_maps")]
SHARED: dict[str, tuple[Any, ...]] = {
    "features": (0, 1.5, "2", None, True),
    "layers": (0, 1.5, "2", None, True),
    "hidden": (64, None, (2.5,), (0,), "ab", (8, None)),
    "context_features": (-1, 1.5, "a", None),
    "classes": (-1, 1.5, "a", None),
    "support": ("box", 3, (0.0, 1.0)),
    "standardize": ("no", 1, None),
    "activation": ("nope", None, 3, ["relu"]),
}


@pytest.mark.parametrize("cls", RECIPES)
def test_recipes_refuse(cls: Any) -> None:
    """Arguments that every recipe takes, and those that name a size, whether or not the recipe ends up using them."""
    sizes = ("passes", "bins", "degree", "components", "units", "depth", "nodes", "rank", "reflections", "terms", "probes")
    own = {key: (0, -1, 1.5, "a", math.nan) for key in constructor_parameters(cls) if key in sizes}
    for key, values in (SHARED | own).items():
        for value in values:
            with pytest.raises(ConfigError) as caught:
                cls(**{"features": 2, "layers": 1} | {key: value})
            assert cls.__name__ in str(caught.value) and key in str(caught.value) and "; got" in str(caught.value), str(caught.value)


@pytest.mark.parametrize("cls", [flows.UMNNFlow, flows.BernsteinFlow, flows.NeuralSplineFlow])
@pytest.mark.parametrize("bound", ["a", None, 0.0, -1.0, math.inf, math.nan, True])
def test_bound_of_recipes(cls: Any, bound: Any) -> None:
    with pytest.raises(ConfigError, match="bound"):
        cls(2, layers=1, bound=bound)


def test_flags_of_recipes() -> None:
    with pytest.raises(ConfigError, match="autoregressive to be True or False"):
        flows.NeuralSplineFlow(2, autoregressive="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="act_norm to be True or False"):
        flows.ResidualFlow(2, act_norm="no")  # type: ignore[arg-type]


def test_activations_of_recipes() -> None:
    assert flows.ResidualFlow(2, layers=1, hidden=(4,), activation="clip_swish").activation == "clip_swish"
    assert flows.BNAF(2, layers=1, activation="gelu").activation == "gelu"
    with pytest.raises(ConfigError, match="expected activation"):
        flows.ResidualFlow(2, layers=1, hidden=(4,), activation="relu")


def test_flow_support_and_standardize() -> None:
    parts = StandardNormal((2,)), Affine((2,))
    for support in ("box", 3, fk.core.domain.Box):
        with pytest.raises(ConfigError, match="Flow: expected support to be a domain or None"):
            fk.Flow(*parts, support)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Flow: expected standardize to be True or False"):
        fk.Flow(*parts, standardize="no")  # type: ignore[arg-type]


LAYERS: dict[str, Callable[[Any], Any]] = {
    "Coupling": lambda u: Coupling(2, u, (4,)),
    "Autoregressive": lambda u: Autoregressive(2, u, (4,)),
    "Elementwise": lambda u: Elementwise(2, u),
    "ImageCoupling": lambda u: ImageCoupling((2, 2, 2), u, (4,)),
    "Autoregressive2d": lambda u: Autoregressive2d((1, 2, 2), u, (4,)),
    "GlowStep": lambda u: GlowStep((2, 2, 2), (4,), u),
}


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("univariate", [univariates.Affine, "affine", nn.Tanh(), 3], ids=["class", "name", "module", "number"])
def test_univariate_of_layers(name: str, univariate: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: expected a univariate; got .*Pass an instance, e\.g\. Affine\(\)\.$"):
        LAYERS[name](univariate)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, "a", None, True])
@pytest.mark.parametrize("name", ["Affine", "LeakyReLU", "LeakyTanh", "SignedPower", "SneakyReLU", "SumOfSquares", "Bernstein", "MonotoneIntegral"])
def test_bound_of_univariates(name: str, value: Any) -> None:
    key = "scale" if name == "SumOfSquares" else "bound"
    with pytest.raises(ConfigError, match=f"^{name}: expected {key}"):
        getattr(univariates, name)(**{key: value})


@pytest.mark.parametrize("value", [math.inf, "a", 0.0])
def test_bound_of_gin(value: Any) -> None:
    with pytest.raises(ConfigError, match="GINCoupling: expected bound"):
        GINCoupling(2, bound=value)


def test_bins() -> None:
    assert univariates.RationalQuadraticSpline(np.int64(5)).bins == 5  # type: ignore[arg-type]
    for bins in (5.0, "5", True, 1):
        with pytest.raises(ConfigError, match="expected an int, 2 <= bins"):
            univariates.RationalQuadraticSpline(bins)  # type: ignore[arg-type]
    for bound in ("ab", None, (1.0,), (0.0, math.inf), ("a", "b")):
        with pytest.raises(ConfigError, match="expected a finite bound"):
            univariates.RationalQuadraticSpline(4, bound)  # type: ignore[arg-type]


def test_other_sizes() -> None:
    for make in (lambda: Squeeze(1, 0), lambda: Squeeze(1, (1, 2, 3)), lambda: Coupling(2, univariates.Affine(), 8), lambda: AllInOneBlock(2, seed="a")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            make()
    for mask in ("abc", 3, [2, 0, 1], [0.5, 0, 1]):
        with pytest.raises(ConfigError, match="mask of"):
            Coupling(3, univariates.Affine(), mask=mask)  # type: ignore[arg-type]
    for options in ({"order": "abc"}, {"order": 3}, {"order": [[0], [1, 2]]}, {"adjacency": "x"}, {"adjacency": [[0, 1], [1]]}):
        with pytest.raises(ConfigError, match=r"Autoregressive: expected (order|adjacency)"):
            Autoregressive(3, univariates.Affine(), **options)  # type: ignore[arg-type]
    for hidden, kinds in (((), None), ((4,), 3)):
        with pytest.raises(ConfigError, match=r"EquivariantCoupling: expected (hidden|kinds)"):
            EquivariantCoupling(3, hidden=hidden, kinds=kinds)  # type: ignore[arg-type]
    assert Squeeze(1, (np.int64(1), 2)).out_shape == (2, None, None)  # type: ignore[arg-type]
