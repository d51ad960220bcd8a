"""Mixtures, the funnel, log-Gaussian Cox processes and densities of the plane against other code, closed forms and quadrature; float64."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, multivariate_normal
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowkit.core.build import build
from flowkit.numerics.annealing import annealed
from flowkit.numerics.transitions import HamiltonianSteps
from flowkit.targets import DoubleWell4, Energy2D, Funnel, GaussianMixture, LogGaussianCox
from flowkit.targets._finnish_pines import finnish_pines


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- mixtures --------------------------------------------------------------------------------------------------------------


def _torch_mixture(target: GaussianMixture, std: Any, weights: Any) -> MixtureSameFamily:
    means = torch.tensor(target.means, dtype=torch.float64)
    spread = torch.as_tensor(std, dtype=torch.float64).expand(len(means)).unsqueeze(-1).expand_as(means)
    return MixtureSameFamily(Categorical(torch.as_tensor(weights, dtype=torch.float64)), Independent(Normal(means, spread), 1))


def test_gmm40_is_fabs() -> None:
    """physics D.1: means 80 (u - 1/2) of torch's seed 0, standard deviation softplus(1); making it leaves torch's generator alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = (torch.rand((40, 2)) - 0.5) * 80
        before = torch.get_rng_state()
        target = GaussianMixture.gmm40().double()
        assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(target.modes().float(), wanted, rtol=0, atol=0)
    assert target.std == pytest.approx(1.31326, abs=5e-6) and target.std == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(1.0))), rel=1e-6)
    x = 50 * torch.randn((200, 2), generator=_seeded(), dtype=torch.float64)
    torch.testing.assert_close(target.log_density(x), _torch_mixture(target, target.std, [1.0] * 40).log_prob(x), rtol=1e-12, atol=1e-10)
    assert target.log_normalizer == 0.0
    assert build(target.describe(), GaussianMixture).describe() == target.describe()


def test_mixture_with_weights() -> None:
    means, std, weights = [[-1.0, 0.5, 0.0], [1.5, 0.0, 2.0]], [0.5, 2.0], [1, 3]
    target = GaussianMixture(means, std, weights).double()
    x = 2 * torch.randn((100, 3), generator=_seeded(1), dtype=torch.float64)
    torch.testing.assert_close(target.log_density(x), _torch_mixture(target, std, weights).log_prob(x), rtol=1e-12, atol=1e-12)
    drawn = target.sample(20_000, _seeded(2))
    parts = target.mode_counts(drawn)
    sure = target.mode_of(torch.tensor(means, dtype=torch.float64))
    assert sure.tolist() == [0, 1] and int(parts.sum()) == 20_000
    for axis in range(3):
        law = [(w / 4, m[axis], s) for w, m, s in zip(weights, means, std, strict=True)]
        cdf: Any = lambda at, law=law: sum(w * 0.5 * (1 + torch.erf(torch.as_tensor((at - m) / (s * 2**0.5)))).numpy() for w, m, s in law)  # noqa: E731
        assert kstest(drawn[:, axis].numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("target", [GaussianMixture.gmm40(), Energy2D("eight_gaussians"), Energy2D("rings")], ids=["gmm40", "eight", "rings"])
def test_scores_far_out_in_single_precision(target: Any) -> None:
    """Components that tie to rounding share the score: torch's own log-sum-exp gives each of them all of it."""
    x = torch.tensor([[1e3, 1e3], [-2e4, 3e3], [1e7, 0.0], [0.0, 1e10]])
    torch.testing.assert_close(target.score(x), target.score(x.double()).float(), rtol=2e-2, atol=100.0)


def test_hypercube_and_grid() -> None:
    """physics A.6: 2^d modes at {-1, 1}^d whose variance is 0.5, so that coordinates are independent; C.5: nine of variance 0.3."""
    cube = GaussianMixture.hypercube(6).double()
    assert cube.modes().shape == (64, 6) and set(cube.modes().flatten().tolist()) == {-1.0, 1.0}
    x = torch.randn((50, 6), generator=_seeded(3), dtype=torch.float64)
    each = torch.logaddexp(-((x - 1) ** 2), -((x + 1) ** 2)) - math.log(2) - 0.5 * math.log(2 * math.pi * 0.5)
    torch.testing.assert_close(cube.log_density(x), each.sum(-1), rtol=1e-12, atol=1e-12)
    assert {"sign", "permutation"} <= cube.invariances
    nine = GaussianMixture.grid9().double()
    assert sorted(map(tuple, nine.modes().tolist())) == sorted(itertools.product((-5.0, 0.0, 5.0), repeat=2))
    peak = -math.log(9) - math.log(2 * math.pi * 0.3)
    assert float(nine.log_density(torch.zeros(2, dtype=torch.float64))) == pytest.approx(peak, abs=1e-12)
    assert GaussianMixture([[0.0, 1.0], [1.0, 0.5]]).invariances == frozenset()


# -- funnel ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "variance"), [("hard", 9.0), ("easy", 1.0)])
def test_funnel(variant: Any, variance: float) -> None:
    """physics C.5: x_0 ~ N(0, 9) (hard) or N(0, 1) (easy), the others N(0, exp(x_0)) given it."""
    target = Funnel(10, variant).double()
    x = target.sample(4000, _seeded(4))
    zero = torch.zeros((), dtype=torch.float64)
    wanted = Normal(zero, zero + variance**0.5).log_prob(x[:, 0]) + Normal(zero, (0.5 * x[:, :1]).exp()).log_prob(x[:, 1:]).sum(-1)
    torch.testing.assert_close(target.log_density(x), wanted, rtol=1e-11, atol=1e-10)
    assert kstest(x[:, 0].numpy(), "norm", (0, variance**0.5)).pvalue > 1e-3
    assert kstest((x[:, 1:] * (-0.5 * x[:, :1]).exp()).flatten().numpy(), "norm").pvalue > 1e-3
    assert target.log_normalizer == 0.0


# -- log-Gaussian Cox process ----------------------------------------------------------------------------------------------


def _prior(grid: int) -> np.ndarray:
    cells = np.array([(i, j) for i in range(grid) for j in range(grid)], dtype=float)
    return 1.91 * np.exp(-np.linalg.norm(cells[:, None] - cells, axis=-1) / (grid / 33))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cox_at_the_mean(dtype: torch.dtype) -> None:
    """physics-D11: log density of f = mu0 on the 32 x 32 grid against float64 numpy, 1e-6 relative."""
    target = LogGaussianCox(32).to(dtype)
    mean, cells = math.log(126) - 1.91 / 2, 1024
    places = finnish_pines()
    counts = np.histogram2d(places[:, 0], places[:, 1], bins=32, range=[[0, 1], [0, 1]])[0].flatten()
    wanted = -0.5 * np.linalg.slogdet(2 * np.pi * _prior(32))[1] + (counts * mean - math.exp(mean) / cells).sum()
    assert counts.sum() == 126
    assert float(target.log_density(torch.full((cells,), mean, dtype=dtype))) == pytest.approx(wanted, rel=1e-6)
    again = LogGaussianCox(32, whitened=True).to(dtype)
    whitened = wanted + 0.5 * np.linalg.slogdet(_prior(32))[1]
    assert float(again.log_density(torch.zeros(cells, dtype=dtype))) == pytest.approx(whitened, rel=1e-6)


def test_cox_elsewhere_and_whitened() -> None:
    """Off the mean against scipy's normal; the whitened density is that of f = mean + L w."""
    counts = [0, 2, 1, 0, 0, 3, 1, 1, 0]
    plain, white = LogGaussianCox(3, counts, mean=0.7).double(), LogGaussianCox(3, counts, mean=0.7, whitened=True).double()
    w = torch.randn((5, 9), generator=_seeded(5), dtype=torch.float64)
    f = white.field(w)
    normal = multivariate_normal(np.full(9, 0.7), _prior(3)).logpdf(f.numpy())
    wanted = torch.as_tensor(normal) + (torch.tensor(counts) * f - f.exp() / 9).sum(-1)
    torch.testing.assert_close(plain.log_density(f), wanted, rtol=1e-10, atol=1e-10)
    shift = 0.5 * float(np.linalg.slogdet(_prior(3))[1])
    torch.testing.assert_close(white.log_density(w), wanted + shift, rtol=1e-10, atol=1e-10)


def test_cox_prior_draws() -> None:
    """Without data both forms are normal and drawn exactly."""
    target = LogGaussianCox(3, likelihood=False, mean=-0.5).double()
    x = target.sample((4, 10_000), _seeded(6))
    assert x is not None and x.shape == (4, 10_000, 9) and target.log_normalizer == 0.0
    rows = x.reshape(-1, 9) + 0.5
    covariance = torch.as_tensor(_prior(3))
    assert (rows.mT @ rows / len(rows) - covariance).abs().max() < 6 * 1.91 * (2 / len(rows)) ** 0.5
    assert LogGaussianCox(3).sample(2) is None and LogGaussianCox(3).log_normalizer is None


@pytest.mark.parametrize(
    ("grid", "whitened", "chains", "densities", "step_size", "leapfrog_steps"),
    [(32, True, 64, 40, 0.3, 5), (16, False, 64, 20, 0.4, 10), pytest.param(32, False, 128, 160, 0.35, 13, marks=pytest.mark.slow)],
    ids=["32x32-whitened", "16x16", "32x32"],
)
def test_cox_prior_normalizer_through_annealing(grid: int, whitened: bool, chains: int, densities: int, step_size: float, leapfrog_steps: int) -> None:
    """physics-D11: log Z = 0 without data, by annealed importance sampling from a normal of 0.9 times the covariance; 0.1."""
    target, cells = LogGaussianCox(grid, likelihood=False, whitened=whitened), grid**2
    mean, root = (0.0, 0.9**0.5) if whitened else (math.log(126) - 1.91 / 2, 1.0)
    factor = np.eye(1) if whitened else np.linalg.cholesky(0.9 * _prior(grid))
    narrow, white = (torch.as_tensor(matrix, dtype=torch.float32).mT for matrix in (factor, np.linalg.inv(factor)))
    constant = float(np.log(np.diag(factor)).sum()) + cells * (math.log(root) + 0.5 * math.log(2 * math.pi))

    def start(at: Tensor) -> Tensor:
        standard = (at - mean) / root if whitened else (at - mean) @ white
        return -0.5 * standard.square().sum(-1) - constant

    noise = torch.randn((chains, cells), generator=_seeded(8))
    run = annealed(
        start,
        target.log_density,
        mean + (root * noise if whitened else noise @ narrow),
        betas=densities,
        kernel=HamiltonianSteps(step_size=step_size, leapfrog_steps=leapfrog_steps),
        generator=_seeded(9),
    )
    assert float(run.acceptance.mean()) > 0.6 and float(run.log_weights.std()) > 0.05
    assert abs(float(run.log_weights.logsumexp(0)) - math.log(chains)) < 0.1


def test_cox_data() -> None:
    """The pines: 126 places in the window; other points are binned by cell, the far edge included; simulated counts follow the seed."""
    places = finnish_pines()
    assert places.shape == (126, 2) and places.min() > 0 and places.max() < 1
    np.testing.assert_allclose(places[0], [0.3006125, 0.89297642], atol=1e-9)  # as in annealed flow transport's file
    target = LogGaussianCox.from_points([[0.0, 0.0], [0.1, 0.9], [1.0, 1.0], [0.6, 1.0]], grid=2, whitened=True)
    assert target.counts == [1, 1, 0, 2] and target.mean == pytest.approx(math.log(4) - 1.91 / 2) and target.whitened
    assert LogGaussianCox.from_points(places, 5).mean == pytest.approx(LogGaussianCox(5).centre)
    first, second, other = (LogGaussianCox.simulated(8, seed=seed) for seed in (1, 1, 2))
    assert first.counts == second.counts != other.counts
    mean = np.mean([np.sum(LogGaussianCox.simulated(6, seed=seed).counts) for seed in range(60)])  # type: ignore[arg-type]
    assert 100 < mean < 160  # 126 on average, 4 standard errors
    assert build(first.describe(), LogGaussianCox).describe() == first.describe()


# -- the plane -------------------------------------------------------------------------------------------------------------

BOXES = {"rezende_mohamed_2": (5.0, 5.0), "rezende_mohamed_3": (5.0, 8.0), "rezende_mohamed_4": (5.0, 8.0), "banana": (30.0, 5.0), "mueller_brown": (6.0, 5.0)}


def _quadrature(energy: Energy2D, panels: int = 60, nodes: int = 12) -> float:
    """log of the integral by composite Gauss-Legendre, another rule than the target's; for the banana in x_0 and x_1 - x_0^2."""
    at, weight = np.polynomial.legendre.leggauss(nodes)
    lines, weights = [], []
    for reach in BOXES.get(energy.energy, (8.0, 8.0)):
        edges = np.linspace(-reach, reach, panels + 1)
        half = (edges[1] - edges[0]) / 2
        lines.append(torch.as_tensor(((edges[:-1, None] + half) + half * at).flatten()))
        weights.append(torch.as_tensor(np.tile(half * weight, panels)).log())
    x, y = torch.meshgrid(*lines, indexing="ij")
    y = y + x.square() if energy.energy == "banana" else y
    value = energy.log_density(torch.stack([x, y], -1)) + weights[0].unsqueeze(-1) + weights[1]
    return float(value.flatten().logsumexp(0))


@pytest.mark.parametrize("name", [label for label, _ in Energy2D.examples()])
def test_planar_normalizers(name: str) -> None:
    energy = Energy2D(name).double()
    assert energy.log_normalizer == pytest.approx(_quadrature(energy), abs=2e-8)


def test_planar_densities_copy_pickle_and_pass_nan_on() -> None:
    for _, target in Energy2D.examples():
        again, x = pickle.loads(pickle.dumps(target)), torch.randn((5, 2), generator=_seeded())
        torch.testing.assert_close(again.log_density(x), copy.deepcopy(target).log_density(x), rtol=0, atol=0)
        assert target.log_density(torch.full((2,), torch.nan)).isnan()


def test_planar_formulas_at_known_points() -> None:
    """The three minima of the potential of Mueller and Brown, the bottom of Rosenbrock's valley, U_1 and U_2 by hand."""
    places = torch.tensor([[-0.558224, 1.441726], [0.623499, 0.028038], [-0.050011, 0.466694]], dtype=torch.float64)
    energy = Energy2D("mueller_brown").double()
    torch.testing.assert_close(-20 * energy.log_density(places), torch.tensor([-146.69952, -108.16672, -80.76782], dtype=torch.float64), rtol=0, atol=1e-4)
    assert energy.score(places).abs().max() < 1e-3
    assert float(Energy2D("banana").log_density(torch.ones(2))) == 0.0
    x, y = 0.7, -1.2
    at: Tensor = torch.tensor([x, y], dtype=torch.float64)
    first = 0.5 * ((math.hypot(x, y) - 2) / 0.4) ** 2 - math.log(math.exp(-0.5 * ((x - 2) / 0.6) ** 2) + math.exp(-0.5 * ((x + 2) / 0.6) ** 2))
    assert -float(Energy2D("rezende_mohamed_1").log_density(at)) == pytest.approx(first, rel=1e-12)
    assert -float(Energy2D("rezende_mohamed_2").log_density(at)) == pytest.approx(0.5 * ((y - math.sin(2 * math.pi * x / 4)) / 0.4) ** 2, rel=1e-12)


# -- particles -------------------------------------------------------------------------------------------------------------


def test_double_well4_forces() -> None:
    """physics-D3: force on i is -sum over j of (3.6 (d - 4)^3 - 8 (d - 4)) (x_i - x_j) / d, 1e-10."""
    x = 3 * torch.randn((8, 4, 2), generator=_seeded(7), dtype=torch.float64)
    apart = x.unsqueeze(-2) - x.unsqueeze(-3)
    d = apart.square().sum(-1, keepdim=True).sqrt() + torch.eye(4).unsqueeze(-1)
    wanted = -((3.6 * (d - 4) ** 3 - 8 * (d - 4)) * apart / d).sum(-2)
    torch.testing.assert_close(DoubleWell4().double().score(x), wanted, rtol=1e-10, atol=1e-10)
