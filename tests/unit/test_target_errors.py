"""Bad arguments of targets: each one clear error of one line that names who, what was expected and what came (B-5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import Affine
from flowkit.core.domain import Box, HalfSpace
from flowkit.core.errors import ConfigError, FlowkitError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch
from flowkit.core.target import Target
from flowkit.distributions import StandardNormal
from flowkit.flows import RealNVP
from flowkit.objectives import AlphaDivergence, ForwardKL, ImportanceWeighted, MaximumLikelihood, ReverseKL
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
    (lambda: LogGaussianCox.simulated(2, seed=-1), r"LogGaussianCox.simulated: expected seed to be an int >= 0; got -1"),
    (lambda: Funnel(3, ["hard"]), r"variant 'hard' .* got \['hard'\]"),  # type: ignore[arg-type]
    (lambda: Energy2D(["rings"]), r"energy to be one of .* got \['rings'\]"),  # type: ignore[arg-type]
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
    (lambda: Phi4(3, 1.0, 1.0).log_density(torch.zeros(2, 3, 4)), r"Phi4.log_density: expected trailing shape \(3, 3\); got \(2, 3, 4\)"),
    (lambda: Phi4(3, 1.0, 1.0).score(torch.zeros(2, 4, 3)), r"Phi4.score: expected trailing shape"),
    (lambda: Phi4(3, 1.0, 1.0).two_point(torch.zeros(3)), r"Phi4.two_point: expected trailing shape"),
    (lambda: U1Lattice(3, 1.0).log_density(torch.zeros(2, 2, 4, 4)), r"U1Lattice.log_density: expected trailing shape \(2, 3, 3\)"),
    (lambda: GaussianMixture([[0.0, 1.0]]).log_density(torch.zeros(5, 1)), r"GaussianMixture.log_density: expected trailing shape \(2,\)"),
    (lambda: Funnel(3).log_density(torch.zeros(5, 2)), r"Funnel.log_density: expected trailing shape \(3,\)"),
    (lambda: LogGaussianCox(2).log_density(torch.zeros(4, dtype=torch.int64)), r"LogGaussianCox.log_density: expected a floating dtype"),
    (lambda: Energy2D("rings").log_density(torch.zeros(5, 3)), r"Energy2D.log_density: expected trailing shape \(2,\)"),
]


@pytest.mark.parametrize("case", range(len(SHAPES)))
def test_bad_shapes(case: int) -> None:
    call, message = SHAPES[case]
    with pytest.raises(ShapeError, match=message) as caught:
        call()
    assert isinstance(caught.value, FlowkitError) and "\n" not in str(caught.value)


# -- targets in objectives -------------------------------------------------------------------------------------------------


class Half(Target):
    """A normal of the plane whose energy is infinite where x_0 > 0."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > 0, -torch.inf, -0.5 * x.square().sum(-1))


class Writes(Half):
    """An energy that works in its argument's place."""

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.mul_(2.0).square().sum(-1)


class Shapeless(Half):
    """A target that does not say what its events are."""

    event_shape = 2  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [ReverseKL, AlphaDivergence, ImportanceWeighted])
def test_no_target(kind: Any) -> None:
    with pytest.raises(ConfigError, match="expected a target or a distribution; got NoneType"):
        kind(None)


def test_target_without_event_shape() -> None:
    with pytest.raises(ConfigError, match=r"expected Shapeless.event_shape to be a tuple of sizes; got 2"):
        ReverseKL(Shapeless()).loss(RealNVP(2, layers=1), Batch(size=4))


@pytest.mark.parametrize("gradient", ["path", "path_two_pass"])
def test_data_of_infinite_energy_are_not_passed_over(gradient: Any) -> None:
    """The value of a forward divergence has no energy in it; the loss is NaN all the same, unless the weight of the row is zero."""
    objective, flow, x = ForwardKL(Half(), gradient=gradient), RealNVP(2, layers=2, hidden=(4,)), torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert objective.loss(flow, Batch(x)).value.isnan()
    assert objective.loss(flow, Batch(x, extra={"weight": torch.tensor([2.0, 0.0])})).value.isfinite()


def test_energy_that_writes_into_its_argument() -> None:
    """The samples stay where they were, so the log-density of the flow is that of its own samples."""
    flow, draws = RealNVP(2, layers=2, hidden=(4,)), torch.Generator
    found = ReverseKL(Writes(), gradient="score").loss(flow, Batch(size=16), draws().manual_seed(0))
    x, log_q = flow.sample_and_log_prob((16,), generator=draws().manual_seed(0))
    torch.testing.assert_close(found.value, (log_q + 2 * x.square().sum(-1)).mean())
    grads = torch.autograd.grad(found.value, list(flow.parameters()), allow_unused=True)
    log_w = (-2 * x.square().sum(-1) - log_q).detach()
    surrogate = ((log_w.mean() - log_w) * flow.log_prob(x.detach())).sum() / 15
    for grad, wanted in zip(grads, torch.autograd.grad(surrogate, list(flow.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(grad, wanted)


def test_weights_of_another_shape() -> None:
    """A column of weights would broadcast to a table."""
    batch = Batch(torch.zeros(3, 2), extra={"weight": torch.ones(3, 1)})
    with pytest.raises(ShapeError, match=r"expected one for each row, shape \(3,\); got \(3, 1\)"):
        MaximumLikelihood().loss(RealNVP(2, layers=1), batch)


class Sloped(Half):
    """A density of the plane, to be kept on a support."""

    def log_density(self, x: Tensor) -> Tensor:
        return x[..., 0] - x.square().sum(-1)


@pytest.mark.parametrize("support", [Box(0.1, 0.7, 2), HalfSpace([1.0, 2.0], 0.5)], ids=["box", "half_space"])
def test_path_gradients_where_a_support_map_saturates(support: Any) -> None:
    """Path less total is minus the mean of d log q / d (shift, log_scale) = (z / scale, z^2 - 1), at samples on the boundary too."""
    flow, batch = Flow(StandardNormal((2,)), Affine((2,), scale=20.0), support), Batch(size=500)
    z = flow.base.sample((500,), generator=torch.Generator().manual_seed(0))
    found = []
    for gradient in ("path", "total"):
        loss = ReverseKL(Sloped(), gradient=gradient).loss(flow, batch, torch.Generator().manual_seed(0)).value  # type: ignore[arg-type]
        found.append(torch.stack(torch.autograd.grad(loss, [flow.get_parameter("bijector.shift"), flow.get_parameter("bijector.log_scale")])))
    wanted = -torch.stack([z / 20.0, z.square() - 1]).mean(1)
    torch.testing.assert_close(found[0] - found[1], wanted, rtol=1e-3, atol=1e-5 * float(found[1].abs().max()))
