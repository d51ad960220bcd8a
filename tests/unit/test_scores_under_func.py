"""Scores inside the transforms of ``torch.func``: a closed form that needs no graph works, the rest says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import Autoregressive, Chain, Coupling, Householder, Tanh
from flowkit.core.errors import ConfigError
from flowkit.core.transform import Bijector
from flowkit.univariates import Affine, RationalQuadraticSpline

Z = torch.linspace(-1, 1, 12).reshape(4, 3)
MAPS = [Tanh(3), Coupling(3, RationalQuadraticSpline(bins=4), (8,)), Autoregressive(3, Affine(), (8,))]


@pytest.mark.parametrize("bijector", MAPS, ids=["closed", "net", "solve"])
@pytest.mark.parametrize("transformed", [torch.func.vmap, lambda call: torch.func.vmap(torch.func.vmap(call))], ids=["vmap", "nested"])
@pytest.mark.parametrize("call", ["push_score", "pull_score"])
def test_one_line_says_who_and_what_instead(call: str, transformed: Any, bijector: Bijector) -> None:
    value = 0.5 * (Z if transformed is torch.func.vmap else Z.reshape(2, 2, 3))
    with pytest.raises(ConfigError, match=rf"^{type(bijector).__name__}\.{call}: expected a call outside torch\.func; .* leading axes: .*\.$") as raised:
        transformed(lambda z: getattr(bijector, call)(z, torch.ones_like(z)))(value)
    assert "\n" not in str(raised.value) and raised.value.__cause__ is not None
    assert getattr(bijector, call)(value, torch.ones_like(value))[2].shape == value.shape  # as the message says


def test_a_chain_names_its_part() -> None:
    chain = Chain([Householder(3), Tanh(3)])
    with pytest.raises(ConfigError, match=r"^Tanh\.push_score: expected a call outside torch\.func"):
        torch.func.vmap(lambda z: chain.push_score(z, z))(Z)


@pytest.mark.parametrize("call", [fk.distributions.GaussianMixture(3, 2).score, fk.targets.Funnel(3).score], ids=["distribution", "target"])
def test_scores_of_densities(call: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"^\w+\.score: expected a call outside torch\.func"):
        torch.func.vmap(call)(Z)


def test_closed_forms_work() -> None:
    bijector = Householder(3)
    for mine, other in zip(torch.func.vmap(bijector.push_score)(Z, Z), bijector.push_score(Z, Z), strict=True):
        torch.testing.assert_close(mine, other)


def test_errors_of_the_map_stay_what_they_are() -> None:
    with pytest.raises(fk.core.errors.ShapeError, match=r"Tanh\.push_score"):
        torch.func.vmap(lambda z: Tanh(3).push_score(z, z[:2]))(Z)
