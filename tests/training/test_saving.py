"""Saved flows: whole or not at all, registered classes and tensors only."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flowkit as fk
from flowkit.bijectors import Affine, Chain, Coupling, LULinear
from flowkit.core.build import build
from flowkit.core.errors import CheckpointError, ConfigError, FlowkitError, UnknownNameError
from flowkit.core.registry import FLOWS
from flowkit.core.univariate import Univariate


def flows() -> list[tuple[str, fk.Flow]]:
    return [(f"{name}-{label}", flow) for name in FLOWS for label, flow in FLOWS[name].examples()]


@pytest.mark.parametrize(("label", "flow"), flows(), ids=[label for label, _ in flows()])
def test_round_trip(label: str, flow: fk.Flow, tmp_path: Path) -> None:
    for number, parameter in enumerate(flow.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    fk.save(flow, tmp_path / "flow")
    loaded = fk.load(tmp_path / "flow")
    assert type(loaded) is type(flow) and not loaded.training
    assert {k: v.tolist() for k, v in loaded.state_dict().items()} == {k: v.tolist() for k, v in flow.state_dict().items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow"]
    assert sorted(path.name for path in (tmp_path / "flow").iterdir()) == ["config.json", "model.safetensors"]


def test_shared_modules_stay_shared(tmp_path: Path) -> None:
    linear = LULinear(3)
    flow = fk.Flow(fk.distributions.StandardNormal((3,)), Chain([linear, Affine((3,)), linear]) >> linear**2)
    linear.log_diagonal.data += 0.3
    loaded = fk.load(fk.save(flow, tmp_path / "flow"))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in flow.parameters())
    assert loaded.bijector[0] is loaded.bijector[2]
    x = torch.randn(5, 3)
    assert torch.equal(loaded.log_prob(x), flow.log_prob(x))


def test_float64_and_large_arguments_survive(tmp_path: Path) -> None:
    loc = torch.arange(100.0)
    flow = fk.Flow(fk.distributions.StandardNormal((100,)), Affine((100,), loc=loc)).double()
    loaded = fk.load(fk.save(flow, tmp_path / "flow"))
    assert next(loaded.parameters()).dtype == torch.float64
    assert torch.equal(loaded.bijector.loc, loc)


def test_overwriting_keeps_the_old_until_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,))
    target = fk.save(flow, tmp_path / "flow")
    before = (target / "config.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            fk.save(flow, target)
    assert (target / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["flow"]
    fk.save(flow, target)
    fk.load(target)


def test_unregistered_part_trains_but_does_not_save(tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2)

        def forward(self, x: torch.Tensor, context: object = None) -> torch.Tensor:
            return self.layer(x)

    flow = fk.Flow(fk.distributions.StandardNormal((2,)), Coupling(2, fk.univariates.Affine(), conditioner=Mine()))
    fk.fit(flow, torch.randn(64, 2), max_steps=2, batch_size=32, seed=0, progress=False)
    with pytest.raises(ConfigError, match=r"Flow\.bijector\.conditioner: .*Mine is not registered"):
        fk.save(flow, tmp_path / "flow")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return fk.save(fk.flows.RealNVP(2, layers=1, hidden=(4,)), tmp_path / "flow")


def rewrite(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        fk.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="not a saved flow"):
        fk.load(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="not overwritten"):
        fk.save(fk.flows.RealNVP(2, layers=1, hidden=(4,)), tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_damaged_weights(saved: Path, damage: str) -> None:
    file = saved / "model.safetensors"
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes({"truncate": content[:-10], "flip": content[:-1] + bytes([content[-1] ^ 1]), "empty": b""}[damage])
    with pytest.raises(CheckpointError):
        fk.load(saved)


def test_damaged_or_foreign_config(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    for broken in (text[:40], "[]", "{}", text.replace('"format": 1', '"format": 99')):
        (saved / "config.json").write_text(broken)
        with pytest.raises(CheckpointError):
            fk.load(saved)


def test_nothing_is_imported_or_run(saved: Path) -> None:
    for name in ("os.system", "builtins.eval", "torch.nn.Linear", "flowkit.flows.RealNVP"):
        rewrite(saved, flow={"name": name, "features": 2})
        with pytest.raises(UnknownNameError, match="No distribution named"):
            fk.load(saved)
    rewrite(saved, flow={"name": "real_nvp", "features": 2, "embed": {"name": "os.system", "command": "true"}})
    with pytest.raises(FlowkitError):
        fk.load(saved)
    (saved / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError):
        fk.load(saved)


def test_weights_of_another_model(saved: Path, tmp_path: Path) -> None:
    other = fk.save(fk.flows.RealNVP(2, layers=2, hidden=(4,)), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    rewrite(saved, flow=config["flow"])
    with pytest.raises(CheckpointError, match="missing"):
        fk.load(saved)


def test_unwritable_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can be written"):
        fk.save(fk.flows.RealNVP(2, layers=1, hidden=(4,)), tmp_path / "file" / "flow")


@pytest.mark.parametrize("order", [torch.tensor([2, 0, 1]), np.array([2, 0, 1]), [np.int64(2), 0, 1], range(3), torch.arange(100)])
def test_orders_of_any_kind_come_back(order: object, tmp_path: Path) -> None:
    features = len(order)  # type: ignore[arg-type]
    flow = fk.Flow(fk.distributions.StandardNormal((features,)), LULinear(features, order=order))
    loaded = fk.load(fk.save(flow, tmp_path / "flow"))
    assert [int(i) for i in loaded.bijector.order] == [int(i) for i in order]  # type: ignore[attr-defined]
    x = torch.randn(5, features)
    assert torch.equal(loaded.log_prob(x), flow.log_prob(x))


def test_autoregressive_order_as_a_tensor_comes_back(tmp_path: Path) -> None:
    affine: Univariate = build({"name": "affine"}, Univariate)
    bijector = fk.bijectors.Autoregressive(3, affine, (4,), order=torch.tensor([2, 0, 1]))
    loaded = fk.load(fk.save(fk.Flow(fk.distributions.StandardNormal((3,)), bijector), tmp_path / "flow"))
    assert list(loaded.bijector.order) == [2, 0, 1]


def test_tensors_stay_tensors_where_lists_are_allowed_too(tmp_path: Path) -> None:
    low = torch.tensor([0.1, 0.2], dtype=torch.float64)
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,), support=fk.core.domain.Box(low, 3.0))
    loaded = fk.load(fk.save(flow, tmp_path / "flow"))
    assert isinstance(loaded.support.low, torch.Tensor) and torch.equal(loaded.support.low, low)


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    flow = fk.Flow(fk.distributions.StandardNormal((3,)), LULinear(3))
    flow.bijector.order = {"a": 1}
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"flow\.bijector\.order"):
        fk.save(flow, tmp_path / "flow")
    assert not (tmp_path / "flow").exists() and torch.equal(state, torch.get_rng_state())


def test_mixed_precision_survives(tmp_path: Path) -> None:
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,))
    flow.double()
    flow.standardizer.float()
    flow.standardizer.requires_grad_(False)
    loaded = fk.load(fk.save(flow, tmp_path / "flow"))
    kinds = {key: value.dtype for key, value in flow.state_dict().items()}
    assert {key: value.dtype for key, value in loaded.state_dict().items()} == kinds and len(set(kinds.values())) > 1
    assert all(torch.equal(value, flow.state_dict()[key]) for key, value in loaded.state_dict().items())
