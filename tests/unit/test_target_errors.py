"""Bad arguments of targets: each one clear error of one line that names who, what was expected and what came (B-5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flowkit.core.errors import ConfigError, FlowkitError, ShapeError
from flowkit.targets import Energy2D, Funnel, GaussianMixture, LogGaussianCox, Phi4, U1Lattice

NAN, INF = float("nan"), float("inf")

BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: Phi4(0, 1.0, 1.0), r"Phi4: expected size to be an int >= 1; got 0"),
    (lambda: Phi4(4.0, 1.0, 1.0), r"Phi4: expected size .* got 4.0"),  # type: ignore[arg-type]
    (lambda: Phi4((4, 4, 4), 1.0, 1.0), r"expected 2 sizes.*got \(4, 4, 4\). Pass dims=3"),
    (lambda: Phi4(4, 1.0, 1.0, dims=0), r"dims"),
    (lambda: Phi4(4, NAN, 1.0), r"m2 to be a finite number; got nan"),
    (lambda: Phi4(4, 1.0, -0.1), r"lam to be a finite number >= 0; got -0.1"),
    (lambda: Phi4(4, -1.0, 0.0), r"expected m2 > 0 where lam = 0; got m2=-1.0.*Set lam > 0"),
    (lambda: Phi4(4, 0.0, 0.0), r"expected m2 > 0 where lam = 0"),
    (lambda: Phi4.hopping(4, 0.0, 0.1), r"Phi4.hopping: expected kappa to be a finite number > 0; got 0.0"),
    (lambda: Phi4.hopping((4, 4, 4), 0.1, 0.1), r"Phi4.hopping: expected 2 sizes"),
    (lambda: Phi4.normflow(4, -1.0, 1.0, 0.1), r"Phi4.normflow: expected kappa"),
    (lambda: Phi4(4, -1.0, 1.0).free_propagator(), r"free_propagator: expected m2 > 0"),
    (lambda: U1Lattice(0, 1.0), r"U1Lattice: expected size"),
    (lambda: U1Lattice((4, 4), 1.0), r"U1Lattice: expected size to be an int >= 1; got \(4, 4\)"),  # type: ignore[arg-type]
    (lambda: U1Lattice(4, -1.0), r"beta to be a finite number >= 0; got -1.0"),
    (lambda: U1Lattice(4, INF), r"beta to be a finite number >= 0; got inf"),
    (lambda: U1Lattice(4, "1"), r"beta .* got '1'"),  # type: ignore[arg-type]
    (lambda: Funnel(1), r"Funnel: expected dim to be an int >= 2; got 1"),
    (lambda: Funnel(10, "medium"), r"variant 'hard' \(variance 9\) or 'easy' \(variance 1\); got 'medium'"),  # type: ignore[arg-type]
    (lambda: GaussianMixture([1.0, 2.0]), r"means to be K rows of D finite numbers; got shape \(2,\)"),  # type: ignore[list-item]
    (lambda: GaussianMixture([[1.0], [1.0, 2.0]]), r"means to be K rows"),
    (lambda: GaussianMixture([[NAN, 0.0]]), r"numbers that are not finite"),
    (lambda: GaussianMixture([]), r"means to be K rows"),
    (lambda: GaussianMixture("gmm40"), r"means to be K rows .* got 'gmm40'"),  # type: ignore[arg-type]
    (lambda: GaussianMixture([[0.0], [1.0]], 0.0), r"std to be a finite number > 0 or 2 of them.*got 0.0"),
    (lambda: GaussianMixture([[0.0], [1.0]], [1.0]), r"std .* 2 of them"),
    (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [1.0, -1.0]), r"weights to be"),
    (lambda: GaussianMixture.hypercube(17), r"hypercube: expected dim to be an int >= 1 and < 17"),
    (lambda: GaussianMixture.hypercube(2, 0.0), r"hypercube: expected variance"),
    (lambda: GaussianMixture.grid9(-1.0), r"grid9: expected variance"),
    (lambda: LogGaussianCox(0), r"LogGaussianCox: expected grid"),
    (lambda: LogGaussianCox(2, [1, 2, 3]), r"counts to be 4 whole numbers >= 0, one for each of 2 x 2 cells; got shape \(3,\)"),
    (lambda: LogGaussianCox(2, [1, 2, 3, -1]), r"4 whole numbers >= 0"),
    (lambda: LogGaussianCox(2, [1, 2, 3, 0.5]), r"4 whole numbers >= 0"),
    (lambda: LogGaussianCox(2, "pines"), r"4 whole numbers.*got str"),  # type: ignore[arg-type]
    (lambda: LogGaussianCox(2, whitened=1), r"whitened to be True or False; got 1"),  # type: ignore[arg-type]
    (lambda: LogGaussianCox(2, variance=0.0), r"variance to be a finite number > 0"),
    (lambda: LogGaussianCox(2, mean=NAN), r"mean to be a finite number; got nan"),
    (lambda: LogGaussianCox.from_points([[0.5, 1.5]], 4), r"from_points: expected points \(N, 2\) in the unit square; got points outside"),
    (lambda: LogGaussianCox.from_points([0.5, 0.5], 4), r"got shape \(2,\)"),
    (lambda: LogGaussianCox.from_points(None, 4), r"expected points"),
    (lambda: Energy2D("two_moon"), r"Energy2D: expected energy to be one of two_moons.*got 'two_moon'. Nearest: 'two_moons'"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_arguments(case: int) -> None:
    call, message = BAD[case]
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


SHAPES: list[tuple[Callable[[], Any], str]] = [
    (lambda: U1Lattice(4, 1.0).plaquettes(torch.zeros(3, 4, 4)), r"U1Lattice.plaquettes: expected trailing shape \(2, 4, 4\); got \(3, 4, 4\)"),
    (lambda: U1Lattice(4, 1.0).gauge_transform(torch.zeros(5, 2, 4, 4), torch.zeros(4)), r"gauge_transform, alpha: expected trailing shape \(4, 4\)"),
    (lambda: GaussianMixture.gmm40().mode_of(torch.zeros(5, 3)), r"mode_of: expected trailing shape \(2,\); got \(5, 3\)"),
    (lambda: GaussianMixture.gmm40().sample(-1), r"GaussianMixture.sample: expected a sample shape"),
    (lambda: Funnel(3).sample((2, -1)), r"Funnel.sample: expected a sample shape"),
    (lambda: Phi4(3, 1.0, 0.0).sample(2.5), r"Phi4.sample"),  # type: ignore[arg-type]
    (lambda: U1Lattice(3, 1.0).sample(-2), r"U1Lattice.sample"),
]


@pytest.mark.parametrize("case", range(len(SHAPES)))
def test_bad_shapes(case: int) -> None:
    call, message = SHAPES[case]
    with pytest.raises(ShapeError, match=message) as caught:
        call()
    assert isinstance(caught.value, FlowkitError) and "\n" not in str(caught.value)
