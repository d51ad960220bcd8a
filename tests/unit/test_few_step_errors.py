"""Bad arguments of few-step and stochastic-interpolant training: one clear line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import flowkit as fk
from flowkit.core.errors import ConfigError, DataError, ShapeError
from flowkit.core.objective import Batch
from flowkit.objectives import ConsistencyTraining, MeanFlow, Reflow, StochasticInterpolant

X = torch.zeros(4, 2)


def average(**options: Any) -> Any:
    return fk.flows.AverageVelocityFlow(2, hidden=(8, 8), **options)


def plain(**options: Any) -> Any:
    return fk.flows.ContinuousFlow(2, hidden=(8, 8), **options)


def interpolant(**options: Any) -> Any:
    return fk.flows.InterpolantFlow(2, hidden=(8, 8), **options)


def coupling(**options: Any) -> Any:
    return fk.flows.RealNVP(2, layers=1, hidden=(8,), **options)


def mixture() -> Any:
    return fk.distributions.GaussianMixture(2, 3)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "equal": (lambda: MeanFlow(equal=1.0), r"MeanFlow: expected equal in \[0, 1\); got 1.0"),
    "power": (lambda: MeanFlow(power=-1.0), "MeanFlow: expected power to be a finite number >= 0; got -1.0"),
    "guidance": (lambda: MeanFlow(guidance=float("nan")), "MeanFlow: expected guidance to be a finite number; got nan"),
    "time_scale": (lambda: MeanFlow(time_scale=0.0), "MeanFlow: expected time_scale to be a finite number > 0; got 0.0"),
    "mean_flow_coupling": (lambda: MeanFlow().loss(coupling(), Batch(X)), "expected a continuous flow, with field, base and endpoint.*got RealNVP.*Average"),
    "mean_flow_plain": (lambda: MeanFlow().loss(plain(), Batch(X)), r"expected a field with average_velocity\(\); got MLPField. Use flows.AverageVelocityFlow"),
    "guidance_alone": (lambda: MeanFlow(guidance=2.0).loss(average(), Batch(X)), "guidance needs a context; got none. Build the flow with classes="),
    "mean_flow_no_data": (lambda: MeanFlow().loss(average(), Batch(size=4)), "MeanFlow: expected a batch of data; got none"),
    "one_interval": (lambda: ConsistencyTraining(intervals=(10,)), "expected intervals to be two ints, the first not larger; got"),
    "shrinking": (lambda: ConsistencyTraining(intervals=(20, 10)), "expected intervals to be two ints, the first not larger"),
    "velocity_weight": (lambda: ConsistencyTraining(velocity_weight=-1.0), "expected a finite velocity_weight >= 0; got -1.0"),
    "consistency_plain": (lambda: ConsistencyTraining().loss(plain(), Batch(X)), r"expected a field with average_velocity\(\)"),
    "gamma": (lambda: StochasticInterpolant(gamma="cosine"), "expected gamma to be one of brownian, sine, one_sided; got 'cosine'"),  # type: ignore[arg-type]
    "scale": (lambda: StochasticInterpolant(scale=0.0), "StochasticInterpolant: expected scale to be a finite number > 0; got 0.0"),
    "other_gamma": (
        lambda: StochasticInterpolant(gamma="sine").loss(interpolant(), Batch(X)),
        "the flow is of gamma='brownian', scale=1.0; got 'sine', 1.0. Give both the same",
    ),
    "one_sided_base": (
        lambda: StochasticInterpolant(gamma="one_sided").loss(plain(base=mixture()), Batch(X)),
        "one_sided needs a standard normal base; got GaussianMixture",
    ),
    "one_sided_base_of_flow": (lambda: interpolant(gamma="one_sided", base=mixture()), "one_sided needs a standard normal base; got GaussianMixture"),
    "predicts": (lambda: interpolant(predicts="noise"), "expected predicts to be 'denoiser' or 'score'; got 'noise'"),
    "two_fields": (lambda: interpolant(gamma="one_sided", noise_field=fk.continuous.MLPField(2)), "leave noise_field out"),
    "field_alone": (lambda: fk.flows.InterpolantFlow(field=fk.continuous.MLPField(2)), r"expected features=, or noise_field= beside field=; got neither"),
    "noise_field_shape": (lambda: interpolant(noise_field=fk.continuous.MLPField(3)), r"noise_field is on events of shape \(3,\), the base on \(2,\)"),
    "negative_noise": (lambda: interpolant().sample_sde(2, noise=-1.0), "sample_sde: expected noise to be a finite number >= 0 or a function"),
    "negative_noise_function": (lambda: interpolant().sample_sde(2, noise=lambda t: -t, steps=4), r"expected noise\(t\) >= 0, a number; got -0.25 at t = 0.25"),
    "no_steps": (lambda: interpolant().to_latent_sde(X, steps=0), "to_latent_sde: expected steps to be an int >= 1; got 0"),
    "average_field": (lambda: average(field=fk.continuous.MLPField(2)), r"expected a field with average_velocity\(\); got MLPField"),
    "jumps": (lambda: average().sample(2, steps=0), "sample: expected steps to be an int >= 1; got 0"),
    "renoise": (lambda: average().sample(2, renoise=True), "sample: renoise=True needs steps="),
    "guided_jumps": (
        lambda: average(context_features=1).guided(2.0).sample(2, torch.zeros(1), steps=1),
        "GuidedField has no average velocity. Leave steps out",
    ),
    "teacher": (lambda: Reflow(torch.nn.Linear(2, 2)), "Reflow: expected a trained flow as teacher; got Linear"),  # type: ignore[arg-type]
    "distill": (lambda: Reflow(plain(), distill=0), "Reflow: expected distill to be an int >= 1; got 0"),
    "student": (lambda: Reflow(plain()).loss(coupling(), Batch(size=4)), "Reflow: expected a continuous flow, with field, base"),
    "other_base": (lambda: Reflow(plain(base=mixture())).loss(plain(), Batch(size=4)), "the teacher's base is GaussianMixture.*they must be one law"),
    "no_context": (
        lambda: Reflow(plain(context_features=1)).loss(plain(context_features=1), Batch(size=4)),
        "the teacher is conditional and the batch has no context. Pass a source of",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_no_source_for_what_needs_data() -> None:
    with pytest.raises(DataError, match="MeanFlow needs data; got source=None"):
        fk.fit(average(), None, MeanFlow(), max_steps=1, progress=False)


def test_missing_context_names_the_remedy() -> None:
    with pytest.raises(ShapeError, match="expected a context"):
        MeanFlow().loss(average(context_features=1), Batch(X))
