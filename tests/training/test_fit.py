"""The training loop: what it promises beyond lowering a loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import flowkit as fk
from flowkit.core.errors import ConfigError, DataError, NonFiniteError, ShapeError, UnknownNameError
from flowkit.core.objective import Batch, Loss, Objective, Phase
from flowkit.training.source import make_source


def moons(n: int = 600, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, generator=generator)
    side = torch.randint(0, 2, (n,), generator=generator).float()
    x = torch.stack([torch.cos(angle) * (1 - 2 * side) + side, torch.sin(angle) * (1 - 2 * side) + 0.5 * side], dim=1)
    return x + 0.08 * torch.randn(n, 2, generator=generator)


def small(**options: object) -> fk.Flow:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return fk.flows.NeuralSplineFlow(2, layers=2, hidden=(16,), bins=4, **options)


def quick(flow: nn.Module, source: object, **options: object) -> fk.FitResult:
    settings = {"max_epochs": 3, "batch_size": 64, "seed": 0, "progress": False, "lr": 5e-3} | options
    return fk.fit(flow, source, **settings)


def weights(flow: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in flow.parameters()])


def test_loss_falls_and_best_weights_come_back() -> None:
    flow = small()
    result = quick(flow, moons(), validation=moons(300, 1), max_epochs=12)
    losses = result.history["validation_loss"]
    assert losses[-1] < losses[0] - 0.1
    assert result.best is not None and result.best["value"] == min(losses)
    held_out = -flow.log_prob(moons(300, 1)).mean().item()
    assert held_out == pytest.approx(result.best["value"], abs=1e-5)
    assert not flow.training and result.steps == 12 * (600 // 64) and result.model is flow


def test_same_seed_same_weights_and_global_generator_untouched() -> None:
    first, second = small(), small()
    before = torch.get_rng_state()
    quick(first, moons())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    quick(second, moons())
    assert torch.equal(weights(first), weights(second))
    third = small()
    quick(third, moons(), seed=1)
    assert not torch.equal(weights(first), weights(third))


def test_without_seed_manual_seed_governs() -> None:
    runs = []
    for _ in range(2):
        flow = small()
        torch.manual_seed(5)
        quick(flow, moons(), seed=None)
        runs.append(weights(flow))
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    "source",
    [
        moons().numpy(),
        moons().numpy().astype(np.float64),
        moons().tolist(),
        TensorDataset(moons()),
        DataLoader(TensorDataset(moons()), batch_size=64, shuffle=True),
    ],
    ids=["array32", "array64", "list", "dataset", "loader"],
)
def test_sources(source: object) -> None:
    flow = small()
    before = -flow.log_prob(moons()).mean()
    quick(flow, source)
    assert -flow.log_prob(moons()).mean() < before
    assert bool(flow.standardizer.fitted)


def test_data_frame_and_context() -> None:
    pandas = pytest.importorskip("pandas")
    x = moons()
    quick(small(), pandas.DataFrame(x.numpy(), columns=["a", "b"]))
    with pytest.raises(DataError, match="'b'"):
        quick(small(), pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}))
    flow = fk.flows.RealNVP(2, 1, layers=2, hidden=(8,))
    quick(flow, (x, x[:, :1] ** 2))
    assert flow.sample((3,), torch.tensor([[0.1]])).shape == (3, 1, 2)
    labelled = fk.flows.RealNVP(2, layers=2, hidden=(8,), classes=2)
    quick(labelled, (x, (x[:, 0] > 0).long()))


def test_holdout_share_and_patience() -> None:
    result = quick(small(), moons(), validation=0.2, max_epochs=60, patience=2, lr=0.05)
    assert len(result.history["step"]) < 60 and result.best is not None


def test_sample_weight_shifts_the_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(300, 1, generator=generator) - 4, torch.randn(300, 1, generator=generator) + 4])
    flow = fk.Flow(fk.distributions.StandardNormal((1,)), fk.bijectors.Affine((1,)))
    weight = torch.cat([torch.zeros(300), torch.ones(300)])
    quick(flow, x, sample_weight=weight, max_epochs=60, lr=0.1, schedule="constant", clip=None)
    assert flow.bijector.shift.item() == pytest.approx(4.0, abs=0.3)


def test_ema_is_what_is_kept() -> None:
    plain, averaged = small(), small()
    quick(plain, moons())
    quick(averaged, moons(), ema=0.9)
    assert not torch.equal(weights(plain), weights(averaged))


def test_gradient_accumulation_is_a_larger_batch() -> None:
    one, two = small().double(), small().double()
    x = moons(512).double()
    quick(one, x, batch_size=128, max_steps=2, max_epochs=None, optimizer="sgd", clip=None)
    quick(two, x, batch_size=64, gradient_accumulation=2, max_steps=2, max_epochs=None, optimizer="sgd", clip=None)
    assert torch.allclose(weights(one), weights(two), atol=1e-10)


def test_precisions_do_not_leak() -> None:
    x, results = moons(), []
    for precision in ("fp32", "bf16", "fp32"):
        flow = small()
        results.append((quick(flow, x, precision=precision), flow))
        assert {p.dtype for p in flow.parameters()} == {torch.float32}
        assert flow.log_prob(x).dtype == torch.float32
    assert torch.equal(weights(results[0][1]), weights(results[2][1]))
    assert not torch.equal(weights(results[0][1]), weights(results[1][1]))
    losses = [result.history["loss"][-1] for result, _ in results]
    assert losses[1] == pytest.approx(losses[0], abs=0.15)
    assert not torch.is_autocast_enabled("cpu")


def test_log_det_stays_float32_under_autocast() -> None:
    flow, x = small(), moons(50)
    for p in flow.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = flow.bijector.inverse(x)
        back, _ = flow.bijector(z)
    assert z.dtype == log_det.dtype == torch.float32
    assert (back - x).abs().max() < 1e-4  # the maps invert each other exactly, whatever precision the nets run in


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "linear", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_schedules_and_optimizers_run(schedule: str, optimizer: str) -> None:
    result = quick(small(), moons(128), schedule=schedule, optimizer=optimizer, max_epochs=1, lr=1e-3)
    assert math.isfinite(result.history["loss"][-1])


def test_compiled_loss_equals_eager() -> None:
    x = moons(256)
    eager, compiled = (fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,))) for _ in range(2))
    quick(eager, x)
    torch._dynamo.reset()
    quick(compiled, x, compile=True)
    assert torch.allclose(weights(eager), weights(compiled), atol=1e-4)


class Explosive(nn.Module):
    """A flow that answers NaN on some calls."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.flow, self.bad, self.calls = small(), bad, 0

    def log_prob(self, x: torch.Tensor, context: object = None, *, generator: object = None) -> torch.Tensor:
        self.calls += 1
        return self.flow.log_prob(x) * (math.nan if self.calls in self.bad else 1.0)


def test_non_finite_stops_with_the_layer_named() -> None:
    flow = small()
    with torch.no_grad():
        flow.bijector.bijector.transforms[2]._net.last.bias[0] = math.nan
    with pytest.raises(NonFiniteError, match=r"step 0.*transforms\.2\._net\.last\.bias"):
        quick(flow, moons())

    class Overflowing(fk.bijectors.Affine):
        def _inverse(self, x, context, generator):  # type: ignore[no-untyped-def]
            z, log_det = super()._inverse(x, context, generator)
            return z * 1e38 * 1e38, log_det

    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,)) >> Overflowing((2,)))
    with pytest.raises(NonFiniteError, match="Overflowing"):
        quick(flow, moons())


def test_non_finite_skip_counts() -> None:
    model = Explosive({2, 5})
    result = fk.fit(model, moons(), max_epochs=2, batch_size=64, seed=0, progress=False, non_finite="skip")
    assert result.history["skipped"][-1] == 2
    assert torch.isfinite(weights(model)).all()
    with pytest.raises(NonFiniteError):
        fk.fit(Explosive({2}), moons(), max_epochs=2, batch_size=64, seed=0, progress=False)


class TwoPhases(Objective):
    """Alternates between the two halves of a model."""

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        value = -model.log_prob(batch.x).mean()
        return Loss(value, {"nll": value.detach()})

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        parameters = list(model.parameters())
        return (Phase("shape", parameters[:-2], every=1), Phase("rest", parameters[-2:], lr_scale=0.5, every=2))

    def on_step_end(self, model: nn.Module, step: int) -> None:
        self.last = step


def test_phases_are_due_in_order() -> None:
    objective = TwoPhases()
    result = fk.fit(small(), moons(), objective, max_steps=4, batch_size=64, seed=0, progress=False)
    assert objective.last == 4 and {"loss", "rest_loss"} <= set(result.history)


class Draws(Objective):
    """An objective that draws its own samples: reverse KL to a normal."""

    requires = frozenset({"target"})

    def loss(self, model: fk.Flow, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        x, log_prob = model.sample_and_log_prob((batch.size,), generator=generator)
        value = (log_prob + 0.5 * (x - 3.0).square().sum(-1)).mean()
        return Loss(value, {})


def test_source_none() -> None:
    flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,)))
    fk.fit(flow, None, Draws(), max_steps=300, batch_size=128, lr=0.05, seed=0, progress=False)
    assert flow.bijector.shift.detach().numpy() == pytest.approx([3.0, 3.0], abs=0.1)
    with pytest.raises(DataError, match="needs data"):
        fk.fit(flow, None, progress=False)


def test_callbacks_see_rows_and_stop() -> None:
    seen = []

    def watch(state: fk.training.Progress) -> bool:
        seen.append(state.row["loss"])
        return len(seen) == 2

    quick(small(), moons(), max_epochs=10, callbacks=[watch])
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_epochs": 0}, ConfigError, "max_epochs"),
        ({"batch_size": -3}, ConfigError, "batch_size"),
        ({"lr": 0.0}, ConfigError, "lr"),
        ({"ema": 1.5}, ConfigError, "ema"),
        ({"optimizer": "adm"}, UnknownNameError, "Nearest: 'adam'"),
        ({"schedule": "cosin"}, UnknownNameError, "Nearest: 'cosine'"),
        ({"precision": "fp16"}, ConfigError, "precision"),
        ({"non_finite": "ignore"}, ConfigError, "non_finite"),
        ({"monitor": "validation_los", "validation": 0.2}, UnknownNameError, "Nearest: 'validation_loss'"),
        ({"device": "cuda:99"}, ConfigError, "device"),
        ({"resume": True}, ConfigError, "run_dir"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"validation": 1.5}, ConfigError, "validation"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        quick(small(), moons(200), **options)


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (torch.zeros(0, 2), DataError, "at least one row"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), DataError, "row 0"),
        (torch.zeros(10, 3), ShapeError, r"\(2,\)"),
        (torch.stack([torch.randn(10), torch.ones(10)], 1), DataError, "column 1"),
        (torch.zeros(1, 2), DataError, "column 0"),
        (np.array([["a", "b"]]), DataError, "numbers"),
        ((torch.randn(5, 2), torch.randn(5, 1)), ShapeError, "context"),
    ],
)
def test_bad_sources(source: object, error: type[Exception], match: str) -> None:
    flow = small()
    before = {k: v.clone() for k, v in flow.state_dict().items()}
    with pytest.raises(error, match=match):
        quick(flow, source)
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())


def test_support_rejects_rows_outside() -> None:
    flow = fk.flows.RealNVP(2, layers=1, hidden=(4,), support=fk.core.domain.Box(0.0, 1.0, 2))
    with pytest.raises(DataError, match="outside the flow's support"):
        quick(flow, moons())


class Wrong(Objective):
    """An objective that breaks its contract in a chosen way."""

    requires = frozenset()

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def loss(self, model: fk.Flow, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        _, log_prob = model.sample_and_log_prob((8,))
        return {"tensor": log_prob.mean(), "vector": Loss(log_prob), "detached": Loss(log_prob.mean().detach())}[self.how]


@pytest.mark.parametrize(("how", "match"), [("tensor", "expected a Loss"), ("vector", "scalar"), ("detached", "does not depend")])
def test_wrong_objectives_are_told(how: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        quick(small(), None, objective=Wrong(how))


def test_other_misunderstandings() -> None:
    with pytest.raises(ConfigError, match="the class MaximumLikelihood"):
        quick(small(), moons(), objective=fk.objectives.MaximumLikelihood)
    with pytest.raises(DataError, match="source=None"):
        quick(small(), fk.distributions.StandardNormal((2,)))
    with pytest.raises(ConfigError, match="no rows to hold out"):
        quick(small(), None, objective=Draws(), validation=0.1)


def test_sample_weight_is_unbiased_and_may_be_zero_in_a_batch() -> None:
    x = moons(64)
    first, second = small().double(), small().double()
    options = {"batch_size": 64, "max_epochs": 2, "standardize": False, "optimizer": "sgd"}
    quick(first, x, sample_weight=torch.full((64,), 7), **options)
    quick(second, x, **options)
    assert torch.allclose(weights(first), weights(second), atol=1e-12)  # only ratios matter
    weight = torch.zeros(64)
    weight[0] = 1.0
    result = quick(small(), x, sample_weight=weight, batch_size=8, validation=None)
    assert all(math.isfinite(value) for value in result.history["loss"])
    source = make_source(x, small(), who="fit", batch_size=8, seed=0, weight=torch.rand(64))
    assert sum(float(b.extra["weight"].sum()) for b in source.batches(0)) == pytest.approx(64.0, rel=1e-5)
    with pytest.raises(DataError, match="sample_weight 0"):
        quick(small(), x, sample_weight=weight, validation=0.5)


@pytest.mark.parametrize("source", [TensorDataset(moons(64)), DataLoader(TensorDataset(moons(64))), None])
def test_sample_weight_needs_rows_in_memory(source: object) -> None:
    with pytest.raises(ConfigError, match="in memory"):
        quick(small(), source, sample_weight=torch.ones(64))


def test_loader_rows_are_cast_and_checked() -> None:
    x = moons(64)
    flow = small()
    quick(flow, TensorDataset(x.double()), max_epochs=1)
    assert {p.dtype for p in flow.parameters()} == {torch.float32}
    conditional = fk.flows.RealNVP(2, 1, layers=2, hidden=(8,))
    quick(conditional, TensorDataset(x, x[:, :1].double()), max_epochs=1)
    with pytest.raises(DataError, match="NaN"):
        quick(small(), TensorDataset(torch.full((64, 2), math.nan)))
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        quick(small(), TensorDataset(torch.randn(64, 3)))


def test_processes_share_a_dataset() -> None:
    x, flow = torch.arange(32.0).reshape(16, 2), small()
    shares = [make_source(TensorDataset(x), flow, who="fit", batch_size=4, seed=0, rank=rank, world=2) for rank in (0, 1)]
    epochs = [[torch.cat([b.x for b in share.batches(epoch)])[:, 0].tolist() for share in shares] for epoch in (0, 1)]
    for epoch in epochs:
        assert sorted(epoch[0] + epoch[1]) == x[:, 0].tolist()
    assert epochs[0] != epochs[1] and shares[0].steps_per_epoch == 2
    assert torch.equal(torch.cat([b.x for b in shares[1].chunks()]), x)
    with pytest.raises(ConfigError, match="DistributedSampler"):
        make_source(DataLoader(TensorDataset(x)), flow, who="fit", batch_size=4, seed=0, world=2)
    sampler = DistributedSampler(TensorDataset(x), num_replicas=2, rank=0)
    make_source(DataLoader(TensorDataset(x), sampler=sampler), flow, who="fit", batch_size=4, seed=0, world=2)


class Short(IterableDataset):
    """Promises 8 rows and yields 4."""

    def __len__(self) -> int:
        return 8

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(moons(4))


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_short_loader_is_told() -> None:
    with pytest.raises(DataError, match="yielded fewer"):
        quick(small(), Short(), batch_size=2)


def test_epoch_of_skipped_steps_keeps_the_patience() -> None:
    model = Explosive(set(range(1, 10)))
    result = fk.fit(model, moons(), max_epochs=3, batch_size=64, seed=0, progress=False, non_finite="skip", patience=2)
    assert result.best is not None and result.best["epoch"] > 1
    assert math.isnan(result.history["loss"][0])


def test_validation_share_of_any_real_type() -> None:
    result = quick(small(), moons(), validation=np.float32(0.1), max_epochs=1)
    assert "validation_loss" in result.history and result.steps == 540 // 64


class OneBadPhase(TwoPhases):
    """Its second phase is never finite."""

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        loss = super().loss(model, batch, generator, phase=phase)
        return Loss(loss.value * math.nan) if phase == "rest" else loss


def test_a_phase_that_is_never_finite_stops() -> None:
    with pytest.raises(NonFiniteError):
        quick(small(), moons(), objective=OneBadPhase(), max_epochs=None, max_steps=120, non_finite="skip")
