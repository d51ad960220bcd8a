"""The kit itself: small fakes of every kind pass, their faulty twins do not, reports and reproducers say what they should."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.bijectors import Affine, Permutation
from flowkit.core.algebra import Identity
from flowkit.core.distribution import Distribution
from flowkit.core.errors import UnknownNameError
from flowkit.core.flow import Flow
from flowkit.core.injection import Injection
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.shapes import sum_event, zeros_log_det
from flowkit.core.surjection import Surjection
from flowkit.core.target import Target
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.testing import (
    Case,
    ConformanceError,
    check_bijector,
    check_distribution,
    check_injection,
    check_objective,
    check_surjection,
    check_target,
)

Pair = tuple[Tensor, Tensor]


def failures(check: Any, *instance: Any) -> set[str]:
    with pytest.raises(ConformanceError) as caught:
        check(*instance)
    return set(caught.value.failures)


# -- injections and surjections -------------------------------------------------------------------------------------


class Embedding(Injection):
    """x = W z + b, W tall."""

    def __init__(self, latent: int = 2, features: int = 4) -> None:
        super().__init__()
        self.latent, self.features = latent, features
        self.in_shape, self.out_shape = (latent,), (features,)
        self.weight = nn.Parameter(torch.randn(features, latent))
        self.bias = nn.Parameter(torch.zeros(features))
        self.traits = Traits(log_det="volume", jacobian="constant")

    def _volume(self) -> Tensor:
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        return 0.5 * torch.linalg.slogdet(weight.mT @ weight).logabsdet

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return z @ self.weight.mT + self.bias, self._volume().expand(z.shape[:-1])

    def project(self, x: Tensor, context: Any = None) -> Tensor:
        return (x - self.bias) @ torch.linalg.pinv(self.weight).mT


class WholeVolume(Embedding):
    def _volume(self) -> Tensor:
        return 2 * super()._volume()


class CrookedProjection(Embedding):
    def project(self, x: Tensor, context: Any = None) -> Tensor:
        return 1.001 * super().project(x)


class Absolute(Surjection):
    """x = |z|; the inverse draws the sign."""

    def __init__(self, features: int = 3) -> None:
        super().__init__()
        from flowkit.core.domain import Box

        self.features = features
        self.in_shape = self.out_shape = (features,)
        self._codomain = Box(0.0, math.inf, features)
        self.traits = Traits(log_det="bound", stochastic=True)

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return z.abs(), zeros_log_det(z, self.in_shape) - self.features * math.log(2)

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        sign = 2.0 * torch.randint(2, x.shape, generator=generator, device=x.device).to(x.dtype) - 1
        return sign * x, zeros_log_det(x, self.in_shape) + self.features * math.log(2)


class ShiftedAbsolute(Absolute):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z + 1e-3, log_det


class OneSidedAbsolute(Absolute):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return z.abs(), zeros_log_det(z, self.in_shape)


class BoastfulAbsolute(Absolute):
    def __init__(self) -> None:
        super().__init__()
        self.traits = Traits(stochastic=True)


class CarelessAbsolute(Absolute):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return super()._inverse(x, context, None)


def test_injection() -> None:
    assert "log_volume" in check_injection(Embedding()).passed
    assert "log_volume" in failures(check_injection, WholeVolume())
    assert "project_after_forward" in failures(check_injection, CrookedProjection())


def test_surjection() -> None:
    assert "right_inverse" in check_surjection(Absolute()).passed
    assert "right_inverse" in failures(check_surjection, ShiftedAbsolute())
    assert "right_inverse" in failures(check_surjection, OneSidedAbsolute())
    assert "declared_draws" in failures(check_surjection, BoastfulAbsolute())
    assert "left_inverse" in check_surjection(~Absolute()).passed
    assert "generator_used" in failures(check_surjection, CarelessAbsolute())


# -- distributions and flows ----------------------------------------------------------------------------------------


class Scaled(Distribution):
    """N(0, scale^2)."""

    def __init__(self, features: int = 1) -> None:
        super().__init__()
        self.features, self.event_shape = features, (features,)
        self.log_scale = nn.Parameter(torch.zeros(features))

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return sum_event(-0.5 * (x * (-self.log_scale).exp()).square() - self.log_scale - 0.5 * math.log(2 * math.pi), 1)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: Any, temperature: float) -> Tensor:
        return temperature * self.log_scale.exp() * torch.randn((*shape, self.features), generator=generator, dtype=self.like.dtype)


class Unnormalized(Scaled):
    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return super()._log_prob(x, context) + 0.01


class WideSamples(Scaled):
    def _rsample(self, shape: tuple[int, ...], context: Any, generator: Any, temperature: float) -> Tensor:
        return 1.2 * super()._rsample(shape, context, generator, temperature)


class GlobalSamples(Scaled):
    def _rsample(self, shape: tuple[int, ...], context: Any, generator: Any, temperature: float) -> Tensor:
        return super()._rsample(shape, context, None, temperature)


class WrongLogDet(Affine):
    def _log_det(self, log_scale: Tensor, value: Tensor) -> Tensor:
        return 1.5 * super()._log_det(log_scale, value)


def test_distribution() -> None:
    assert {"integrates_to_one", "samples_follow_density"} <= set(check_distribution(Scaled()).passed)
    assert "integrates_to_one" in failures(check_distribution, Unnormalized())
    assert "integrates_to_one" in failures(check_distribution, Unnormalized(2))
    assert "samples_follow_density" in failures(check_distribution, WideSamples(3))
    assert "generator_used" in failures(check_distribution, GlobalSamples())


def test_flow() -> None:
    names = set(check_distribution(Flow(StandardNormal((2,)), Affine((2,)))).passed)
    assert {"flow_integrates_to_one", "latent_round_trip", "sample_and_log_prob_agree", "torch_view"} <= names
    assert "flow_integrates_to_one" in failures(check_distribution, Flow(StandardNormal((2,)), WrongLogDet((2,))))


# -- targets --------------------------------------------------------------------------------------------------------


class Bowl(Target):
    """exp(-|x|^2 / 2) on pairs of points."""

    invariances = frozenset({"rotation", "reflection", "permutation", "sign"})
    can_sample = True

    def __init__(self, shape: tuple[int, ...] = (2, 2), log_normalizer: float = 2 * math.log(2 * math.pi)) -> None:
        super().__init__()
        self.shape, self.event_shape, self.log_normalizer = shape, shape, log_normalizer

    def log_density(self, x: Tensor) -> Tensor:
        return sum_event(-0.5 * x.square(), len(self.event_shape))

    def sample(self, n: Any, generator: Any = None) -> Tensor:
        shape = (n,) if isinstance(n, int) else tuple(n)
        return torch.randn((*shape, *self.event_shape), generator=generator)


class Tilted(Bowl):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) + x[..., 0, 0]


def test_target() -> None:
    assert {"invariances_hold", "samples"} <= set(check_target(Bowl()).passed)
    assert {"invariances_hold", "samples"} <= failures(check_target, Tilted())
    vector = Bowl((2,), log_normalizer=math.log(2 * math.pi))
    assert {"normalizer", "invariances_hold", "special_values", "compiled", "vmapped"} <= set(check_target(vector).passed)
    vector.log_normalizer = 1.0
    assert "normalizer" in failures(check_target, vector)


# -- objectives -----------------------------------------------------------------------------------------------------


class Likelihood(Objective):
    """Mean negative log-density."""

    def loss(self, model: Any, batch: Batch, generator: Any = None, *, phase: str = "main") -> Loss:
        return Loss(-model.log_prob(batch.x).mean())


class Climbing(Likelihood):
    def loss(self, model: Any, batch: Batch, generator: Any = None, *, phase: str = "main") -> Loss:
        value = -model.log_prob(batch.x).mean()
        return Loss(2 * value.detach() - value)


class Restless(Likelihood):
    def loss(self, model: Any, batch: Batch, generator: Any = None, *, phase: str = "main") -> Loss:
        return Loss(-model.log_prob(batch.x + 0.1 * torch.randn(batch.x.shape)).mean())


class Partial(Likelihood):
    def loss(self, model: Any, batch: Batch, generator: Any = None, *, phase: str = "main") -> Loss:
        model.bijector.shift.requires_grad_(False)
        value = -model.log_prob(batch.x).mean()
        model.bijector.shift.requires_grad_(True)
        return Loss(value)


def test_objective() -> None:
    batch = Batch(x=torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 2 + 1)
    model = Flow(StandardNormal((2,)), Affine((2,)))
    assert "ten_steps_lower" in check_objective(Likelihood(), model, batch).passed
    assert "ten_steps_lower" in failures(check_objective, Climbing(), model, batch)
    assert "reproducible" in failures(check_objective, Restless(), model, batch)
    assert "gradients_reach" in failures(check_objective, Partial(), model, batch)


# -- reports --------------------------------------------------------------------------------------------------------


def test_instance_is_left_alone() -> None:
    instance = Affine((2,))
    before = {key: value.clone() for key, value in instance.state_dict().items()}
    state = torch.get_rng_state()
    check_bijector(instance)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) and value.dtype == torch.float32 for key, value in instance.state_dict().items())


def test_only_and_case() -> None:
    report = check_bijector(Identity((3,)), only="round_trip", case=Case(seed=4, batch=(2, 2)))
    assert report.passed == ["round_trip"] and report.expected_failures == {}
    with pytest.raises(UnknownNameError, match="round_trip"):
        check_bijector(Identity((3,)), only="round_trp")


class KnownSlow(Affine):
    traits = Affine.traits.but(known_failures={"far_round_trip": "for this test"})


class Broken(Affine):

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z, -log_det


class KnownBroken(Broken):
    traits = Affine.traits.but(known_failures={"inverse_log_det": "for this test", "log_det_jacobian": "for this test"})


def test_known_failures_are_strict() -> None:
    assert failures(check_bijector, KnownSlow((2,))) == {"far_round_trip"}
    report = check_bijector(KnownBroken((2,)), only=["inverse_log_det", "log_det_jacobian", "round_trip"])
    assert set(report.expected_failures) == {"inverse_log_det", "log_det_jacobian"} and report.passed == ["round_trip"]


def test_reproducer_is_one_line() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_bijector(Broken((2,)), only="inverse_log_det", case=Case(seed=2))
    line = caught.value.failures["inverse_log_det"]
    assert "only='inverse_log_det', case=Case(seed=2" in line and "\n" not in line


class Estimate(Bijector):
    """x = 2 z with a noisy log_det."""

    bias = 0.0
    traits = Traits(jacobian="diagonal", log_det="estimate", stochastic=True)

    def __init__(self, features: int = 2) -> None:
        super().__init__()
        self.features = features
        self.in_shape = self.out_shape = (features,)

    def _noise(self, value: Tensor, generator: Any) -> Tensor:
        noise = torch.randn(value.shape[:-1], generator=generator, dtype=value.dtype)
        return (0.1 * noise + self.features * math.log(2) + self.bias).to(torch.promote_types(value.dtype, torch.float32))

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return 2 * z, self._noise(z, generator)

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return x / 2, -self._noise(x, generator)


class Biased(Estimate):
    bias = 0.05


def test_estimated_log_det() -> None:
    assert "log_det_unbiased" in check_bijector(Estimate()).passed
    assert "log_det_unbiased" in failures(check_bijector, Biased())


def examples() -> Iterator[Bijector]:
    yield Permutation.reverse(3)
    yield Affine((2,), context_features=2)


@pytest.mark.parametrize("instance", list(examples()), ids=["permutation", "conditional"])
def test_every_applicable_check_runs(instance: Bijector) -> None:
    report = check_bijector(instance)
    assert len(report.passed) >= 30
