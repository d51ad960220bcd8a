"""FlowDensity: scikit-learn's own suite, and what it does not ask."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import BaseEstimator, clone
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import flowkit as fk
from flowkit.core.errors import ConfigError, FlowkitError, UnknownNameError
from flowkit.estimators import FlowDensity

SMALL: dict[str, Any] = {"layers": 2, "hidden": (8,), "bins": 4, "random_state": 0}


@pytest.fixture(scope="module")
def moons() -> np.ndarray:
    from sklearn.datasets import make_moons

    return make_moons(400, noise=0.1, random_state=0)[0]


@parametrize_with_checks([FlowDensity(max_epochs=2, layers=2, hidden=(8,), bins=4), FlowDensity("real_nvp", max_epochs=2, layers=2, hidden=(8,))])
def test_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


def test_density_is_right_and_normalised(moons: np.ndarray) -> None:
    model = FlowDensity(layers=4, hidden=(32, 32), max_epochs=60, batch_size=64, lr=5e-3, random_state=0).fit(moons)
    low, high = moons.min(0) - 1, moons.max(0) + 1
    axes = [np.linspace(*ends, 200) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(model.score_samples(grid)).sum() * cell == pytest.approx(1.0, abs=0.01)
    assert model.score(moons) == pytest.approx(model.score_samples(moons).mean())
    assert model.score(moons) > GaussianMixture(2, random_state=0).fit(moons).score(moons) + 0.2


def test_dtype_and_shapes(moons: np.ndarray) -> None:
    model = FlowDensity(**SMALL, max_epochs=1).fit(moons)
    assert model.score_samples(moons.astype(np.float32)).dtype == np.float64
    assert model.sample(7, random_state=0).shape == (7, 2)
    assert model.sample().shape == (1, 2)
    assert model.n_features_in_ == 2 and len(model.history_["loss"]) == 1
    assert isinstance(model.flow_, fk.Flow)


def test_same_state_same_model_and_global_generators_untouched(moons: np.ndarray) -> None:
    import torch

    before = torch.get_rng_state()
    first, second = (FlowDensity(**SMALL, max_epochs=2).fit(moons) for _ in range(2))
    assert np.array_equal(first.score_samples(moons), second.score_samples(moons))
    assert np.array_equal(first.sample(5, random_state=1), second.sample(5, random_state=1))
    assert not np.array_equal(first.sample(5, random_state=1), first.sample(5, random_state=2))
    other = clone(first).set_params(random_state=1).fit(moons)
    assert not np.array_equal(first.score_samples(moons), other.score_samples(moons))
    assert torch.equal(before, torch.get_rng_state())


def test_pickle_and_save(moons: np.ndarray, tmp_path: Any) -> None:
    import torch

    model = FlowDensity(**SMALL, max_epochs=1).fit(moons)
    expected = model.score_samples(moons)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).score_samples(moons), expected)
    fk.save(model.flow_, tmp_path / "flow")
    with torch.no_grad():
        loaded = fk.load(tmp_path / "flow").log_prob(torch.tensor(moons)).numpy()
    np.testing.assert_allclose(loaded, expected, rtol=1e-12)


def test_pipeline_and_searches(moons: np.ndarray) -> None:
    pipeline = make_pipeline(StandardScaler(), FlowDensity(**SMALL, max_epochs=2)).fit(moons)
    assert np.isfinite(pipeline.score(moons))
    search = GridSearchCV(FlowDensity(max_epochs=3, hidden=(8,), bins=4, random_state=0), {"layers": [2, 4]}, cv=2).fit(moons)
    assert search.best_params_["layers"] in (2, 4) and np.isfinite(search.score(moons))
    drawn = {"bins": np.arange(3, 6), "lr": np.array([1e-3, 1e-2]), "max_epochs": np.array([1, 2])}
    assert np.isfinite(RandomizedSearchCV(FlowDensity(**SMALL), drawn, n_iter=2, cv=2, random_state=0).fit(moons).best_score_)
    options = {"flow_options": [None, {"autoregressive": True}]}
    assert np.isfinite(GridSearchCV(FlowDensity(**SMALL, max_epochs=1), options, cv=2).fit(moons).best_score_)
    assert np.isfinite(cross_val_score(FlowDensity("maf", layers=2, max_epochs=1), moons, cv=2)).all()


def test_pandas_names(moons: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(moons, columns=["a", "b"])
    model = FlowDensity(**SMALL, max_epochs=1).fit(frame)
    assert list(model.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.score_samples(frame[["b", "a"]])


def test_constant_column_keeps_scale_one(moons: np.ndarray) -> None:
    rows = np.column_stack([moons, np.full(len(moons), 7.0), np.zeros(len(moons))])
    model = FlowDensity(**SMALL, max_epochs=5).fit(rows)
    standardizer = model.flow_.standardizer
    np.testing.assert_allclose(standardizer.scale.cpu().numpy(), [*moons.std(0), 1.0, 1.0], rtol=1e-9)
    np.testing.assert_allclose(standardizer.loc.cpu().numpy(), [*moons.mean(0), 7.0, 0.0], atol=1e-9)
    assert np.isfinite(model.score(rows))


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_units_do_not_matter(moons: np.ndarray, scale: float, shift: float) -> None:
    reference = FlowDensity(**SMALL, max_epochs=3).fit(moons).score_samples(moons)
    rows = (moons + shift) * scale
    scaled = FlowDensity(**SMALL, max_epochs=3).fit(rows).score_samples(rows) + 2 * np.log(scale)
    np.testing.assert_allclose(scaled, reference, atol=1e-6)


def test_weights_choose_the_rows() -> None:
    """Zero weight on one of two clusters leaves the other."""
    generator = np.random.default_rng(0)
    rows = np.concatenate([generator.normal(-5, 1, (200, 1)), generator.normal(5, 1, (200, 1))])
    weight = np.repeat([1.0, 0.0], 200)
    model = FlowDensity(layers=2, bins=8, max_epochs=60, lr=1e-2, batch_size=64, random_state=0).fit(rows, sample_weight=weight)
    at = np.array([[-5.0]])
    assert model.score_samples(at)[0] == pytest.approx(multivariate_normal(-5, 1).logpdf(-5), abs=0.3)
    assert model.score_samples(-at)[0] < -4


def test_support_is_kept() -> None:
    """Rows in the unit square, with samples that never leave it."""
    rows = np.random.default_rng(0).beta(0.5, 0.5, (300, 2))
    options = {"support": {"name": "box", "low": 0.0, "high": 1.0, "dim": 2}}
    model = FlowDensity(**SMALL, max_epochs=2, flow_options=options).fit(rows)
    drawn = model.sample(2000, random_state=0)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert model.score_samples([[1.5, 0.5]])[0] == -np.inf


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"flow": "neural_spline"}, UnknownNameError, "Nearest"),
        ({"flow": "maf", "bins": 4}, UnknownNameError, "bins"),
        ({"layers": 0}, ConfigError, "layers"),
        ({"validation_fraction": 1.5}, ConfigError, "share"),
        ({"max_epochs": 0}, ConfigError, "max_epochs"),
        ({"lr": -1.0}, ConfigError, "lr"),
        ({"device": "abacus"}, ConfigError, "device"),
    ],
)
def test_wrong_arguments(moons: np.ndarray, arguments: dict[str, Any], error: type[FlowkitError], message: str) -> None:
    with pytest.raises(error, match=message):
        FlowDensity(**{"max_epochs": 1, **arguments}).fit(moons)


def test_no_validation_keeps_the_last_weights(moons: np.ndarray) -> None:
    model = FlowDensity(**SMALL, max_epochs=2, validation_fraction=None, patience=None).fit(moons)
    assert "validation_loss" not in model.history_


def test_flowkit_alone_does_not_import_scikit_learn() -> None:
    code = "import sys, flowkit; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
