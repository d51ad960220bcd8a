"""Free energies of harmonic oscillators, which are known: F(k) = log(k) / 2 per degree of freedom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.errors import NotInvertibleError
from flowkit.sampling import bar, fep, mbar, tfep, ti

SPRINGS, CENTRES = (1.0, 4.0), (0.0, 1.0)
EXACT = 0.5 * math.log(SPRINGS[1] / SPRINGS[0])


def energy(state: int, x: Tensor) -> Tensor:
    return 0.5 * SPRINGS[state] * (x - CENTRES[state]).square()


def draw(state: int, n: int, generator: torch.Generator) -> Tensor:
    return CENTRES[state] + torch.randn(n, generator=generator, dtype=torch.float64) / math.sqrt(SPRINGS[state])


def works(n_f: int, n_r: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = draw(0, n_f, generator), draw(1, n_r, generator)
    return energy(1, x) - energy(0, x), energy(0, y) - energy(1, y)


def pooled(counts: Sequence[int], generator: torch.Generator) -> Tensor:
    """u_kn (2, N) of samples of both states."""
    x = torch.cat([draw(state, n, generator) for state, n in enumerate(counts)])
    return torch.stack([energy(state, x) for state in (0, 1)])


@pytest.mark.parametrize(("n_f", "n_r"), [(500, 500), (2000, 200)])
def test_errors_cover(n_f: int, n_r: int) -> None:
    """physics-D9: the interval of 1.96 errors of BAR and of MBAR holds the exact value in 90 to 99 % of 200 repetitions, n_F != n_R included."""
    generator = torch.Generator().manual_seed(n_f)
    results = [bar(*works(n_f, n_r, generator)) for _ in range(200)]
    many = [mbar(pooled((n_f, n_r), generator), [n_f, n_r]) for _ in range(200)]
    for gaps, errors in (
        (torch.tensor([result.delta_f - EXACT for result in results]), torch.tensor([result.error for result in results])),
        (torch.tensor([float(result.delta_f[0, 1]) - EXACT for result in many]), torch.tensor([float(result.error[0, 1]) for result in many])),
    ):
        covered = float((gaps.abs() < 1.96 * errors).double().mean())
        assert 0.90 <= covered <= 0.99, covered
        assert abs(float(gaps.mean())) < 0.01


def test_accuracy() -> None:
    """physics-D9: BAR and MBAR to 0.01 of the exact difference, and BAR is MBAR of two states."""
    generator = torch.Generator().manual_seed(0)
    x, y = draw(0, 100_000, generator), draw(1, 40_000, generator)
    one = bar(energy(1, x) - energy(0, x), energy(0, y) - energy(1, y))
    both = torch.cat([x, y])
    two = mbar(torch.stack([energy(0, both), energy(1, both)]), [100_000, 40_000])
    assert abs(one.delta_f - EXACT) < 0.01 and abs(float(two.delta_f[0, 1]) - EXACT) < 0.01
    assert abs(one.delta_f - float(two.delta_f[0, 1])) < 1e-8 and one.error == pytest.approx(float(two.error[0, 1]), rel=0.02)
    assert one.overlap == pytest.approx(two.gap, rel=1e-6) and two.overlap.sum(1).tolist() == pytest.approx([1, 1])
    assert two.delta_f[1, 0] == -two.delta_f[0, 1] and float(two.error.diag().max()) < 1e-8


def test_many_states_one_of_them_without_samples() -> None:
    """physics-D9: MBAR of five oscillators, one only predicted: within 0.02 of the exact values, covered by the errors in 90 to 99 % of 100 draws of four."""
    springs = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    centres, counts = torch.tensor([0.0, 0.5, 1.0, 1.2, 1.5], dtype=torch.float64), [300, 1000, 0, 500, 800]
    generator, exact, covered, total = torch.Generator().manual_seed(1), 0.5 * springs.log(), torch.zeros(5, dtype=torch.float64), 0.0
    for _ in range(100):
        parts = [c + torch.randn(n, generator=generator, dtype=torch.float64) / k.sqrt() for k, c, n in zip(springs, centres, counts, strict=True)]
        result = mbar(0.5 * springs[:, None] * (torch.cat(parts) - centres[:, None]).square(), counts)
        covered += (result.delta_f[0] - exact).abs() <= 1.96 * result.error[0]
        total = total + (result.delta_f[0] - exact)
    assert float((total / 100).abs().max()) < 0.02 and 0.90 <= float(covered[1:].mean()) / 100 <= 0.99


def test_perturbation_and_its_error() -> None:
    """FEP from the wider state is unbiased to its error; the error covers; the tail's shape gives away the wrong direction."""
    generator = torch.Generator().manual_seed(2)
    results = [fep(works(1000, 2, generator)[0]) for _ in range(200)]
    covered = sum(abs(result.delta_f - EXACT) < 1.96 * result.error for result in results) / 200
    assert 0.90 <= covered <= 0.99
    good, bad = fep(works(50_000, 2, generator)[0]), fep(works(2, 50_000, generator)[1])
    assert abs(good.delta_f - EXACT) < 0.01 and good.k_hat is not None and bad.k_hat is not None and good.k_hat < 0.5 < 0.7 < bad.k_hat


def test_targeted_perturbation() -> None:
    """With the map that carries one oscillator to the other all works are equal; with half of it they still give F, and both ways go into BAR."""
    generator = torch.Generator().manual_seed(3)
    x, y = draw(0, 2000, generator)[:, None], draw(1, 1000, generator)[:, None]

    def u(state: int) -> fk.sampling.perturbation.Energy:
        return lambda x: energy(state, x).sum(-1)

    whole = fk.bijectors.Affine(shape=(1,), loc=1.0, scale=0.5).double()
    result = tfep(whole, x, u(0), u(1))
    assert abs(result.delta_f - EXACT) < 1e-6 and result.error < 1e-6 and result.overlap == pytest.approx(1.0)
    half = fk.bijectors.Affine(shape=(1,), loc=0.5, scale=0.7).double()
    ahead, back = tfep(half, x, u(0), u(1)), tfep(~half, y, u(1), u(0))
    assert abs(ahead.delta_f - EXACT) < 4 * ahead.error and ahead.error < fep(works(2000, 2, generator)[0]).error
    assert ahead.work is not None and back.work is not None
    joined = bar(ahead.work, back.work)
    assert abs(joined.delta_f - EXACT) < 4 * joined.error and joined.error < ahead.error
    # a target stands for its energy; of a distribution's work the mean weight is 1
    normal = fk.distributions.StandardNormal((1,)).double()
    assert tfep(whole, x, lambda x: -normal.log_prob(x), fk.targets.ManyWell(2) if x.shape[1] == 2 else u(1)).delta_f == pytest.approx(
        EXACT - 0.5 * math.log(2 * math.pi), abs=1e-6
    )


def test_integration() -> None:
    """TI along springs from 1 to 4, to the error and the trapezoid's own."""
    generator, betas = torch.Generator().manual_seed(4), torch.linspace(0, 1, 33, dtype=torch.float64)
    derivatives = 1.5 * torch.randn(33, 5000, generator=generator, dtype=torch.float64).square() / (1 + 3 * betas[:, None])
    result = ti(betas, derivatives)
    assert abs(result.delta_f - EXACT) < 4 * result.error < 0.02
    ragged = ti(betas.tolist(), [part[: 1000 + 10 * j] for j, part in enumerate(derivatives)])
    assert abs(ragged.delta_f - EXACT) < 4 * ragged.error and ragged.error > 1.5 * result.error
    # betas of an annealed run: the derivative is log q - log p
    twice = ti([0.0, 2.0], torch.ones(2, 10))
    assert twice.delta_f == 2.0 and twice.error == 0.0


def test_no_overflow() -> None:
    """Works of 1e5 kT, steps never taken, and states that hardly meet give finite answers or say why not."""
    generator = torch.Generator().manual_seed(5)
    ahead, back = works(400, 300, generator)
    shifted = bar(ahead + 1e5, back - 1e5)
    assert shifted.delta_f == pytest.approx(bar(ahead, back).delta_f + 1e5, abs=1e-7)
    u = pooled((400, 300), generator)
    moved = u + torch.tensor([0.0, 1e5])[:, None]
    assert float(mbar(moved, [400, 300]).delta_f[0, 1]) == pytest.approx(float(mbar(u, [400, 300]).delta_f[0, 1]) + 1e5, abs=1e-6)
    blocked = bar(torch.cat([ahead, torch.full((100,), math.inf)]), back)
    assert math.isfinite(blocked.delta_f) and blocked.delta_f > bar(ahead, back).delta_f
    far = bar(torch.full((100,), 900.0), torch.full((50,), 900.0))
    assert far.delta_f == pytest.approx(0.5 * math.log(2)) and far.error == math.inf and far.overlap == 0.0  # the root of the equation, and no idea
    assert fep(ahead - 1e5).delta_f == pytest.approx(fep(ahead).delta_f - 1e5, abs=1e-7)


def test_states_that_hardly_meet() -> None:
    """MBAR goes on to BAR's root and error where the overlap is 1e-11, and says so where groups of states share nothing; never 0 with error 0."""

    def far(distance: float) -> tuple[Tensor, list[int]]:
        generator = torch.Generator().manual_seed(5)
        x = torch.cat([torch.randn(500, generator=generator, dtype=torch.float64) + place for place in (0.0, distance)])
        return torch.stack([0.5 * x.square(), 0.5 * (x - distance).square() + 3]), [500, 500]

    u, counts = far(9.0)
    one, two = bar(u[1, :500] - u[0, :500], u[0, 500:] - u[1, 500:]), mbar(u, counts)
    assert two.gap < 1e-8 and float(two.delta_f[0, 1]) == pytest.approx(one.delta_f, abs=1e-3) and float(two.error[0, 1]) == pytest.approx(one.error, rel=1e-3)
    walls = torch.zeros(2, 1000, dtype=torch.float64)
    walls[0, 500:] = walls[1, :500] = math.inf
    between = torch.cat([u := far(40.0)[0], 0.5 * (0.5 + (2 * u[:1]).sqrt()).square()])  # two of three states are neighbours
    for energies, sizes in ((u, counts), (walls, counts), (between[:, :999], [300, 499, 200])):
        with pytest.raises(NotInvertibleError, match="share no samples"):
            mbar(energies, sizes)


def test_lists_are_read_in_double_precision() -> None:
    """0.1 is not the nearest float32; and distributions are energies too."""
    assert bar([0.1] * 5, [-0.1] * 5).delta_f == pytest.approx(0.1, abs=1e-11)  # type: ignore[arg-type]
    assert ti([0.0, 0.1, 1.0], [[0.1, 0.1]] * 3).delta_f == pytest.approx(0.1, abs=1e-15)  # type: ignore[list-item]
    normal, x = fk.distributions.StandardNormal((1,)), torch.zeros(4, 1)
    flow = fk.flows.RealNVP(2, layers=2, hidden=(8,), support=fk.core.domain.Box(0.0, 1.0, 2))  # all its maps count: Standardize and the one to the box
    back = tfep(flow, flow.base.sample(500), flow.base, flow)
    assert back.error < 1e-5 and back.delta_f == pytest.approx(0.0, abs=1e-5)
    assert tfep(fk.bijectors.Affine(shape=(1,)), x, normal, fk.targets.GaussianMixture([[0.0]], 1.0)).delta_f == pytest.approx(0.0, abs=1e-6)


def test_bad_input() -> None:
    """B-5: each mistake is one line that says what was expected."""
    nan = torch.tensor([0.0, math.nan])
    for call, message in (
        (lambda: fep(nan), "fep: 1 of 2 values of work are NaN"),
        (lambda: bar(torch.zeros(3, 2), torch.zeros(3)), r"bar: expected forward work to be at least 2 values"),
        (lambda: bar(torch.full((3,), math.inf), torch.zeros(3)), "share no configuration"),
        (lambda: mbar(torch.zeros(2, 5), [2, 2]), "sum N = 5"),
        (lambda: mbar(torch.zeros(2, 5), [5]), r"expected u_kn \(K, N\) and n_k \(K\)"),
        (lambda: mbar(torch.full((2, 4), math.nan), [2, 2]), "8 of 8 energies are NaN"),
        (lambda: mbar(torch.tensor([[0.0] * 4, [math.inf] * 4]), [4, 0]), "no sample is possible in state 1"),
        (lambda: mbar(torch.zeros(2, 0), [0, 0]), r"expected u_kn \(K, N\)"),
        (lambda: fep("work"), "fep: expected work to be a tensor of numbers; got str"),  # type: ignore[arg-type]
        (lambda: ti([0.0, 1.0], [[0.0, 1.0], [0.0, math.inf]]), "ti: 1 derivatives are infinite"),  # type: ignore[list-item]
        (lambda: ti([0.0, 0.0], torch.zeros(2, 5)), "betas that rise"),
        (lambda: ti([0.0, 1.0], torch.zeros(3, 5)), "each of the 2 betas; got 3"),
        (lambda: tfep(fk.bijectors.Affine(shape=(1,)), torch.zeros(4, 1), lambda x: x, lambda x: x[:, 0]), "one energy a sample"),
        (lambda: tfep(fk.nets.MLP(1, 1), torch.zeros(4, 1), lambda x: x, lambda x: x), "expected a bijector"),  # type: ignore[arg-type]
    ):
        with pytest.raises(fk.core.errors.FlowkitError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
