"""Configs: YAML, overrides, checks, and what the data fill in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowkit.core.errors import ConfigError, FlowkitError, UnknownNameError
from flowkit.experiment.config import check_config, read_config
from flowkit.experiment.overrides import override
from flowkit.experiment.pieces import make_pieces
from flowkit.experiment.yaml_file import parse_yaml, to_yaml

TREE = {"name": "moons", "data": "two_moons", "flow": {"name": "neural_spline_flow", "hidden": [8, 8]}}


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3e-4", 3e-4), ("1e6", 1e6), ("1.5E+2", 150.0), ("-2e3", -2000.0), (".5", 0.5), ("7", 7), ("1_000", 1000), ("-.inf", float("-inf"))),
        *(("true", True), ("null", None), ("e3", "e3"), ("1.2.3", "1.2.3"), ("2020-01-01", "2020-01-01"), ("'3e-4'", "3e-4"), ("[1, 2e1]", [1, 20.0])),
    ],
)
def test_yaml_values(text: str, value: object) -> None:
    read = parse_yaml(text, "x")
    assert read == value and type(read) is type(value)
    assert parse_yaml(to_yaml({"a": value}), "x") == {"a": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ("line 3", "'a' stands twice")),
        ("flow: {bins: 1, bins: 2}\n", ("'bins' stands twice",)),
        ("a: [1, 2\nb: 3\n", ("line",)),
        ("a: !!python/object/apply:os.system ['true']\n", ("run.yaml",)),
        ("? [1, 2]\n: 3\n", ("key must be a name",)),
        ("&a [*a]\n", ("run.yaml",)),
        ("[1, 2]", ("expected a mapping", "list")),
        ("", ("an empty file",)),
        ("a: \x00", ("run.yaml",)),
    ],
)
def test_bad_yaml_is_told_in_one_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text))
    assert "run.yaml" in str(caught.value) and all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="not a text file"):
        read_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"flwo": {}}, UnknownNameError, "Nearest: 'flow'"),
        ({"training": {"lrr": 1}}, UnknownNameError, "training.lrr: no such key. Nearest: 'lr'"),
        ({"training": {"seed": 1}}, UnknownNameError, "config's own key"),
        ({"training": {"validation": 0.1}}, UnknownNameError, "comes from the data set"),
        ({"training": {"model": 1}}, UnknownNameError, "training.model"),
        ({"training": {"callbacks": []}}, UnknownNameError, "training.callbacks"),
        ({"training": {"lr": "fast"}}, ConfigError, "training.lr: expected a number; got 'fast'"),
        ({"training": {"max_steps": 1.5}}, ConfigError, "training.max_steps"),
        ({"training": {"precision": "fp16"}}, ConfigError, "training.precision"),
        ({"training": 3}, ConfigError, "expected a mapping"),
        ({"evaluation": {"samples": 0}}, ConfigError, "evaluation.samples"),
        ({"evaluation": {"sample": 10}}, UnknownNameError, "Nearest: 'samples'"),
        ({"name": "../up"}, ConfigError, "name:"),
        ({"name": 3}, ConfigError, "name:"),
        ({"seed": -1}, ConfigError, "seed:"),
        ({"seed": True}, ConfigError, "seed:"),
        ({"data": None}, ConfigError, "neither"),
        ({"target": "standard_normal"}, ConfigError, "both"),
        ({"flow": None}, ConfigError, "'flow' is missing"),
    ],
)
def test_wrong_keys_and_values(change: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=r"file\.yaml") as caught:
        check_config({**TREE, **change}, "file.yaml")
    assert words in str(caught.value)


def test_overrides_change_a_copy() -> None:
    keys = ("name", "flow", "objective", "training", "data")
    changes = [("flow.bins", "16"), ("flow.hidden.0", "32"), ("training.lr", "3e-4"), ("data.noise", "0.2"), ("objective.pairing", "ot")]
    changed = override(TREE, changes, keys)
    assert changed["flow"] == {"name": "neural_spline_flow", "hidden": [32, 8], "bins": 16}
    assert changed["training"] == {"lr": 3e-4}
    assert changed["data"] == {"name": "two_moons", "noise": 0.2}
    assert changed["objective"] == {"pairing": "ot"}
    assert TREE["flow"]["hidden"] == [8, 8]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("flw.bins", "Nearest: 'flow'"),
        ("flow.hidden.5", "0 to 1"),
        ("flow.hidden.first", "number of an item"),
        ("flow.bins.0", "whole list"),
        ("flow..bins", "single dots"),
        ("flow.hidden.0.x", "cannot be set inside"),
    ],
)
def test_overrides_that_lead_nowhere(path: str, words: str) -> None:
    with pytest.raises(FlowkitError) as caught:
        override(TREE, [(path, "1")], ("name", "data", "flow"))
    assert words in str(caught.value) and path in str(caught.value)


def test_features_come_from_the_data() -> None:
    pieces = make_pieces(check_config(TREE, "x"))
    assert pieces.config.flow["features"] == 2 and pieces.flow.event_shape == (2,)
    assert pieces.config.objective == {"name": "maximum_likelihood"}
    assert make_pieces(pieces.config).config == pieces.config


def test_context_comes_from_the_data(tmp_path: Path) -> None:
    labelled = {**TREE, "data": {"name": "two_moons", "classes": True, "train_size": 64}}
    pieces = make_pieces(check_config(labelled, "x"))
    assert pieces.config.flow["classes"] == 2 and pieces.flow.context_shape == ()
    table = tmp_path / "table.csv"
    table.write_text("a,b,c,d\n" + "".join(f"{i},{i * i % 7},{i % 5},{(i * 3) % 11}\n" for i in range(30)))
    pieces = make_pieces(check_config({**TREE, "data": {"name": "file", "path": str(table), "context": ["c", "d"]}}, "x"))
    assert pieces.config.flow["context_features"] == 2 and pieces.flow.context_shape == (2,)


def test_images_are_flattened_for_a_flow_over_vectors() -> None:
    pieces = make_pieces(check_config({**TREE, "data": "digits", "flow": {"name": "real_nvp", "layers": 1, "hidden": [8]}}, "x"))
    assert pieces.data is not None and pieces.data.event_shape == (1, 8, 8)
    assert pieces.rows("test").x.shape[1:] == (64,)


def test_the_seed_decides_the_model_and_nothing_global() -> None:
    state = torch.get_rng_state()
    first, second, other = (make_pieces(check_config({**TREE, "seed": seed}, "x")).flow.state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flow": {"name": "neural_spline_flow", "bin": 3}}, "flow.bin: unknown argument of NeuralSplineFlow. Nearest: 'bins'"),
        ({"flow": "neural_spline"}, "Nearest: 'neural_spline_flow'"),
        ({"flow": {"bins": 3}}, "'name'"),
        ({"flow": [1]}, "expected a name"),
        ({"flow": {"name": "real_nvp", "hidden": [-3]}}, "flow"),
        ({"data": {"name": "two_moons", "nois": 1}}, "data.nois: unknown argument of TwoMoons. Nearest: 'noise'"),
        ({"data": {"name": "file", "path": "nowhere.csv"}}, "nowhere.csv"),
        ({"objective": {"pairing": "ot"}}, "'name'"),
        ({"objective": "maximum_likelyhood"}, "Nearest: 'maximum_likelihood'"),
        ({"data": None, "target": "standard_norml"}, "target"),
        ({"data": None, "target": {"name": "standard_normal", "shape": [2]}}, "needs data"),
    ],
)
def test_what_the_builder_refuses_names_file_and_key(change: dict[str, object], words: str) -> None:
    with pytest.raises(FlowkitError) as caught:
        make_pieces(check_config({**TREE, **change}, "file.yaml"), "file.yaml")
    assert str(caught.value).startswith("file.yaml: ") and words in str(caught.value)
