"""The base distributions against closed forms, and their samplers against their densities."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from torch import distributions as td

from flowkit import distributions as fd
from flowkit.core.build import build, describe
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, DomainError, FlowkitError, NotInvertibleError, ShapeError, UnknownNameError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.distributions._kmeans import kmeans
from flowkit.distributions._von_mises import draw

MINE = (
    "class_conditional",
    "diagonal_normal",
    "empirical",
    "full_normal",
    "gaussian_mixture",
    "standard_normal",
    "student_t",
    "torch_distribution",
    "uniform_box",
    "von_mises",
)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    CASES = [(f"{name}-{label}", made) for name in MINE for label, made in DISTRIBUTIONS[name].examples()]
EXAMPLES = pytest.mark.parametrize("made", [pytest.param(made, id=label) for label, made in CASES])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(made: Distribution) -> Distribution:
    """A float64 copy with every parameter moved."""
    made = copy.deepcopy(made).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=seeded(1), dtype=parameter.dtype))
    return made


def context_for(made: Distribution, batch: tuple[int, ...] = ()) -> torch.Tensor | None:
    """A context in the dtype of the distribution, or None where it takes none."""
    if made.context_shape is None:
        return None
    if made.context_shape == ():
        return torch.ones(batch, dtype=torch.int64)
    return torch.randn(*batch, *made.context_shape, generator=seeded(2), dtype=made.like.dtype)


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-10) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b), rtol=tol, atol=tol)


# -- every example ------------------------------------------------------------------------------------------------------


@EXAMPLES
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_shapes_and_support(made: Distribution, shape: tuple[int, ...]) -> None:
    x = made.sample(shape, context_for(made))
    assert x.shape == (*shape, *made.event_shape)
    assert x.dtype == torch.float32 and not x.requires_grad
    assert bool(made.domain.contains(x).all())
    context = context_for(made, (2, 3))
    if context is not None:
        assert made.sample(shape, context).shape == (*shape, 2, 3, *made.event_shape)
        assert made.log_prob(made.sample(shape, context), context).shape == (*shape, 2, 3)
        with pytest.raises(ShapeError):
            made.log_prob(x)
    else:
        assert made.log_prob(x).shape == shape
        assert bool(torch.isfinite(made.log_prob(x)).all())
        with pytest.raises(ShapeError):
            made.log_prob(x, torch.zeros(*shape, 1))


@EXAMPLES
def test_generator_repeats_and_leaves_global_state(made: Distribution) -> None:
    context = context_for(made)
    before = torch.get_rng_state()
    first, second = (made.sample(64, context, generator=seeded(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, made.sample(64, context, generator=seeded(8)))


@EXAMPLES
def test_describes_and_builds_again(made: Distribution) -> None:
    description = describe(made)
    again = build(description, Distribution)
    assert type(again) is type(made) and describe(again) == description
    again.load_state_dict(made.state_dict())
    context = context_for(made)
    x = made.sample(5, context, generator=seeded())
    assert torch.equal(made.log_prob(x, context), again.log_prob(x, context))


@pytest.mark.parametrize("made", [pytest.param(made, id=label) for label, made in CASES if any(True for _ in made.parameters())])
def test_gradient_reaches_every_parameter(made: Distribution) -> None:
    made = perturbed(made)
    context = torch.arange(-1, made.classes) if made.context_shape == () else context_for(made, (4,))
    x = made.sample((6,) if context is not None else (6, 4), context, generator=seeded())
    (made.log_prob(x, context) ** 2).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) and float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("made", [pytest.param(made, id=label) for label, made in CASES if not isinstance(made, fd.UniformBox)])
def test_score_is_the_gradient(made: Distribution) -> None:
    made = perturbed(made)
    context = context_for(made, (4,))
    x = made.sample(() if context is not None else 4, context, generator=seeded())
    close(made.score(x, context).detach(), Distribution.score(made, x, context), 1e-9)


@EXAMPLES
def test_compiles_and_maps(made: Distribution) -> None:
    made = perturbed(made)
    context = context_for(made, (4,))
    x = made.sample(() if context is not None else 4, context, generator=seeded())
    expected = made.log_prob(x, context)
    torch._dynamo.reset()
    compiled = torch.compile(made.log_prob, fullgraph=True, backend="aot_eager")
    close(compiled(x, context), expected)
    mapped = torch.func.vmap(made.log_prob)(x) if context is None else torch.func.vmap(made.log_prob)(x, context)
    close(mapped, expected)


@EXAMPLES
def test_integrates_to_one(made: Distribution) -> None:
    made = perturbed(made)
    dim = math.prod(made.event_shape)
    n = 4001 if dim == 1 else 801
    bounded = isinstance(made, fd.VonMises | fd.UniformBox)
    nodes = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    if bounded:
        low, high = made.domain.low_buffer, made.domain.high_buffer
        axes = [low[i] + (high[i] - low[i]) * nodes for i in range(dim)]
        weights = [(high[i] - low[i]) / n * torch.ones_like(nodes) for i in range(dim)]
    else:  # the whole line as x = 3 u / (1 - u^2), so that heavy tails stay in reach
        u = 2 * nodes - 1
        axes = [3 * u / (1 - u**2)] * dim
        weights = [2 / n * 3 * (1 + u**2) / (1 - u**2) ** 2] * dim
    grid = torch.cartesian_prod(*axes).reshape(-1, dim)
    mass = torch.cartesian_prod(*weights).reshape(-1, dim).prod(-1)
    total = (made.log_prob(grid, context_for(made)).exp() * mass).sum()
    assert abs(float(total.detach()) - 1) < 1e-4


@pytest.mark.parametrize("made", [pytest.param(made, id=label) for label, made in CASES if made.domain.trivial])
def test_samples_follow_the_density(made: Distribution) -> None:
    """On R^n the score has mean zero and E[x_i score_i] = -1."""
    made = perturbed(made)
    n = 20_000
    x = made.sample(n, context_for(made), generator=seeded(3))
    score = made.score(x, context_for(made)).detach()
    for values, expected in ((score, 0.0), (x * score, -1.0)):
        assert bool(((values.mean(0) - expected).abs() < 5 * values.std(0) / n**0.5).all())


SCALARS = [fd.DiagonalNormal(()), fd.DiagonalNormal((), context_features=2), fd.StudentT(()), fd.VonMises(()), fd.ClassConditional(3, ()), fd.UniformBox()]


@pytest.mark.parametrize("made", SCALARS)
def test_scalar_events(made: Distribution) -> None:
    context = context_for(made)
    x = made.rsample((4,), context, seeded())
    assert x.shape == (4,) and made.log_prob(x, context).shape == (4,)


@EXAMPLES
def test_low_precision_gives_float32(made: Distribution) -> None:
    context = context_for(made)
    x = made.sample(4, context, generator=seeded())
    value = made.log_prob(x.bfloat16(), context)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, made.log_prob(x.bfloat16().float(), context), rtol=0.02, atol=0.02)


@EXAMPLES
def test_copies_agree(made: Distribution) -> None:
    context = context_for(made)
    x = made.sample(4, context, generator=seeded())
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(copied.log_prob(x, context), made.log_prob(x, context))


# -- normals ------------------------------------------------------------------------------------------------------------


def test_diagonal_normal_matches_torch() -> None:
    made = perturbed(fd.DiagonalNormal((3,), loc=1.0, scale=2.0))
    x = made.sample(7, generator=seeded())
    oracle = td.Normal(made.mean, made.log_scale.exp())
    close(made.log_prob(x), oracle.log_prob(x).sum(-1))
    close(made.cdf(x), oracle.cdf(x))
    close(made.icdf(made.cdf(x)), x)


def test_conditional_normal_uses_the_context() -> None:
    made = perturbed(fd.DiagonalNormal((2,), context_features=3))
    context = torch.randn(5, 3, dtype=torch.float64, generator=seeded())
    x = torch.zeros(5, 2, dtype=torch.float64)
    mean, log_scale = (made.net(context).reshape(5, 2, 2)).unbind(1)
    close(made.log_prob(x, context), td.Normal(made.mean + mean, (made.log_scale + log_scale).exp()).log_prob(x).sum(-1))
    close(made.log_prob(x[0], context), made.log_prob(x, context))


def test_temperature_scales_the_spread() -> None:
    for made in (fd.DiagonalNormal((2,), loc=3.0), fd.FullNormal(2, loc=3.0), fd.StudentT((2,), loc=3.0)):
        one, half = (made.sample(9, generator=seeded(), temperature=t) for t in (1.0, 0.5))
        torch.testing.assert_close(half - 3, 0.5 * (one - 3))
    mixture = fd.GaussianMixture(2, 3)
    at_zero = mixture.sample(9, generator=seeded(), temperature=0.0)
    assert bool((at_zero[:, None] == mixture.means).all(-1).any(-1).all())


@pytest.mark.parametrize("made", [fd.UniformBox(0.0, 1.0, 2), fd.Empirical(torch.zeros(3, 2)), fd.TorchDistribution(td.Normal(0.0, 1.0))])
def test_temperature_is_refused_where_undefined(made: Distribution) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        made.sample(3, temperature=0.5)


def test_full_normal_matches_torch() -> None:
    covariance = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 0.5]])
    made = fd.FullNormal(3, loc=torch.tensor([1.0, -1.0, 0.0]), covariance=covariance)
    torch.testing.assert_close(made.cholesky() @ made.cholesky().mT, covariance)
    made = perturbed(made)
    x = made.sample((4, 5), generator=seeded())
    close(made.log_prob(x), td.MultivariateNormal(made.mean, scale_tril=made.cholesky()).log_prob(x))
    x = made.sample(40_000, generator=seeded()).detach()
    close(x.T.cov(), (made.cholesky() @ made.cholesky().mT).detach(), 0.05)


def test_full_normal_gradient_through_samples() -> None:
    made = fd.FullNormal(2)
    made.rsample(5, generator=seeded()).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in made.parameters())


def test_flow_over_class_conditional_base() -> None:
    base = fd.ClassConditional(3, (2,))
    flow = build({"name": "flow", "base": describe(base), "bijector": {"name": "affine", "shape": (2,), "scale": 2.0}}, Distribution)
    labels = torch.tensor([0, 1, -1])
    x, log_prob = flow.sample_and_log_prob((4,), labels, seeded())
    assert x.shape == (4, 3, 2)
    torch.testing.assert_close(log_prob, flow.log_prob(x, labels))


# -- uniform ------------------------------------------------------------------------------------------------------------


def test_uniform_box() -> None:
    made = fd.UniformBox([0.0, -1.0], [0.5, 3.0])
    assert made.log_prob(torch.tensor([[0.25, 0.0], [0.75, 0.0]])).exp().tolist() == [0.5, 0.0]
    x = made.sample(5000, generator=seeded())
    assert scipy.stats.kstest(made.cdf(x)[:, 0].detach().numpy(), "uniform").pvalue > 1e-3
    torch.testing.assert_close(made.icdf(made.cdf(x)), x)
    assert not bool(made.score(x).any())


# -- Student-t ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [0.3, 1.0, 4.5, 39.9, 40.1, 1e3, 1e8])
def test_student_t_matches_scipy(df: float) -> None:
    made = fd.StudentT((1,), df=df, loc=0.5, scale=2.0).double()
    x = torch.linspace(-30, 30, 41, dtype=torch.float64)[:, None]
    oracle = scipy.stats.t.logpdf(x[:, 0].numpy(), made.log_df.exp().item(), 0.5, made.log_scale.exp().item())
    close(made.log_prob(x).detach(), oracle, 1e-10 if df < 1e6 else 1e-8)  # scipy itself loses digits at huge df


def test_student_t_large_df_is_normal_in_float32() -> None:
    x = torch.linspace(-3, 3, 7)[:, None]
    torch.testing.assert_close(fd.StudentT((1,), df=1e7).log_prob(x), fd.StandardNormal((1,)).log_prob(x), rtol=1e-5, atol=1e-5)


def test_student_t_sampler() -> None:
    made = fd.StudentT((1,), df=2.5, scale=3.0)
    x = made.sample(20_000, generator=seeded())[:, 0]
    assert scipy.stats.kstest(x.numpy(), scipy.stats.t(2.5, scale=3.0).cdf).pvalue > 1e-3


def test_student_t_sample_gradient_in_df() -> None:
    made = fd.StudentT((1,), df=8.0, learn_df=True).double()
    n = 100_000
    (gradient,) = torch.autograd.grad(made.rsample(n, generator=seeded()).square().mean(), made.log_df)
    assert abs(float(gradient) - 8 * -2 / 36) < 0.05  # E t^2 = df / (df - 2)


# -- von Mises ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1e-6, 0.1, 2.0, 50.0, 1e4])
def test_von_mises_matches_scipy(k: float) -> None:
    made = fd.VonMises((1,), loc=0.5, concentration=k).double()
    exact = made.log_concentration.exp().item()
    x = torch.linspace(-3.14, 3.14, 41, dtype=torch.float64)[:, None]
    oracle = scipy.stats.vonmises(exact, loc=0.5)
    close(made.log_prob(x).detach()[:, None], oracle.logpdf(x.numpy()))
    # scipy's own distribution function is a normal approximation from k = 50 on
    tol = 1e-10 if k < 50 else 1e-3
    close(made.cdf(x), oracle.cdf(x.numpy()) - oracle.cdf(-math.pi), tol)


@pytest.mark.parametrize("k", [1e-3, 0.7, 5.0, 300.0, 1e7])
def test_von_mises_sampler(k: float) -> None:
    made = fd.VonMises((1,), loc=2.5, concentration=k).double()
    x = made.sample(10_000, generator=seeded(5))
    assert bool((x.abs() <= math.pi).all())
    assert scipy.stats.kstest(made.cdf(x)[:, 0].detach().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("k", [0.0, 1e-30, 1e20, 1e37])
def test_von_mises_extreme_concentrations(k: float) -> None:
    angle = draw(torch.full((1000,), k), seeded())
    assert bool(torch.isfinite(angle).all()) and float(angle.std()) > 0
    if k:
        made = fd.VonMises((1,), concentration=k)
        log_prob = made.log_prob(torch.zeros(1))
        log_prob.backward()
        assert bool(torch.isfinite(log_prob)) and bool(torch.isfinite(made.log_concentration.grad))


@pytest.mark.parametrize("k", [0.2, 3.0, 60.0])
def test_von_mises_sample_gradient(k: float) -> None:
    """The implicit gradient holds the distribution function fixed: checked against a difference of quantiles."""
    made = fd.VonMises((1,), concentration=k).double()
    x = made.rsample(6, generator=seeded())
    for angle in x[:, 0]:
        (gradient,) = torch.autograd.grad(angle, made.log_concentration, retain_graph=True)
        log_k, start, h = made.log_concentration.item(), angle.item(), 1e-4

        def level(log_concentration: float, at: float) -> float:
            other = fd.VonMises((1,)).double()
            other.log_concentration.data.fill_(log_concentration)
            return float(other.cdf(torch.tensor([at], dtype=torch.float64)))

        slope = (level(log_k + h, start) - level(log_k - h, start)) / (2 * h)
        density = made.log_prob(torch.tensor([start], dtype=torch.float64)).exp().item()
        assert abs(gradient.item() + slope / density) < 1e-5 * max(1.0, abs(float(gradient)))


def test_von_mises_temperature_tempers_the_density() -> None:
    made = fd.VonMises((1,), concentration=2.0).double()
    x = made.sample(5000, generator=seeded(), temperature=0.5)
    assert scipy.stats.kstest(x[:, 0].numpy(), scipy.stats.vonmises(8.0).cdf).pvalue > 1e-3


# -- mixtures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["full", "tied", "diagonal", "spherical"])
def test_mixture_matches_torch(form: str) -> None:
    made = perturbed(fd.GaussianMixture(3, 4, covariance=form))
    oracle = td.MixtureSameFamily(td.Categorical(made.weights()), td.MultivariateNormal(made.means, made.covariances()))
    x = made.sample((5, 2), generator=seeded())
    close(made.log_prob(x), oracle.log_prob(x))
    close(made.responsibilities(x).sum(-1), torch.ones(5, 2, dtype=torch.float64))
    x = made.sample(50_000, generator=seeded())
    close(x.mean(0), oracle.mean.detach(), 0.05)
    close(x.var(0), oracle.variance.detach(), 0.08)


@pytest.mark.parametrize("form", ["full", "tied", "diagonal", "spherical"])
def test_mixture_starts_at_clusters(form: str) -> None:
    centres = 20 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    x = (centres[:, None] + 0.5 * torch.randn(5, 200, 2, generator=seeded())).reshape(-1, 2)
    for seed in range(5):
        made = fd.GaussianMixture(2, 5, covariance=form).start_at_clusters(x, generator=seeded(seed))
        assert bool((torch.cdist(centres, made.means).min(1).values < 0.2).all())
        torch.testing.assert_close(made.weights(), torch.full((5,), 0.2))
        torch.testing.assert_close(made.covariances(), 0.25 * torch.eye(2).expand(5, 2, 2), rtol=0.3, atol=0.06)


def test_kmeans_survives_repeated_rows() -> None:
    centres, labels = kmeans(torch.zeros(6, 2), 3, generator=seeded())
    assert bool(torch.isfinite(centres).all()) and labels.shape == (6,)
    made = fd.GaussianMixture(2, 3).start_at_clusters(torch.zeros(6, 2), generator=seeded())
    assert bool(torch.isfinite(made.log_prob(torch.zeros(2))))


def test_kmeans_agrees_with_sklearn() -> None:
    from sklearn.cluster import KMeans

    x = torch.randn(300, 2, generator=seeded(), dtype=torch.float64)
    centres, labels = kmeans(x, 4, generator=seeded())
    inertia = float((x - centres[labels]).square().sum())
    assert inertia < 1.1 * KMeans(4, n_init=5, random_state=0).fit(x.numpy()).inertia_


def test_mixture_refuses_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="covariance"):
        fd.GaussianMixture(2, 3, covariance="round")
    with pytest.raises(ShapeError, match="N >= 3"):
        fd.GaussianMixture(2, 3).start_at_clusters(torch.zeros(2, 2))


# -- classes ------------------------------------------------------------------------------------------------------------


def test_class_conditional() -> None:
    made = perturbed(fd.ClassConditional(3, (2,), weights=(1.0, 2.0, 1.0)))
    x = torch.randn(4, 2, dtype=torch.float64, generator=seeded())
    each = torch.stack([td.Normal(made.means[k], made.log_scale[k].exp()).log_prob(x).sum(-1) for k in range(3)])
    labels = torch.tensor([0, 2, 1, -1])
    mixed = (each + torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()[:, None]).logsumexp(0)
    expected = torch.where(labels < 0, mixed, each.gather(0, labels.clamp(min=0)[None])[0])
    close(made.log_prob(x, labels), expected)
    close(made.log_prob(x, labels.clamp(min=0))[:3], expected[:3])
    drawn = made.sample(40_000, torch.tensor(-1), generator=seeded())
    close(drawn.mean(0), (made.means * torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)[:, None]).sum(0).detach(), 0.05)


def test_class_conditional_refuses_wrong_labels() -> None:
    made = fd.ClassConditional(3, (2,))
    with pytest.raises(ShapeError, match="int64"):
        made.log_prob(torch.zeros(2), torch.tensor(1.0))
    with pytest.raises(ShapeError, match="int64"):
        made.sample((), torch.tensor(1.0))
    for label in (-2, 3):
        with pytest.raises(DomainError, match="labels"):
            made.log_prob(torch.zeros(2), torch.tensor(label))
    with pytest.raises(ConfigError, match="weights"):
        fd.ClassConditional(3, (2,), weights=(1.0, 1.0))


# -- data ---------------------------------------------------------------------------------------------------------------


def test_empirical_is_a_kernel_density() -> None:
    data = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    made = fd.Empirical(data, bandwidth=0.5)
    from sklearn.neighbors import KernelDensity

    x = torch.randn(7, 2, generator=seeded(1), dtype=torch.float64)
    close(made.log_prob(x), KernelDensity(bandwidth=0.5).fit(data.numpy()).score_samples(x.numpy()))


def test_empirical_splits_large_data() -> None:
    data = torch.randn(5000, 1, generator=seeded(), dtype=torch.float64)
    made = fd.Empirical(data, bandwidth=0.1)
    x = torch.zeros(1, 1, dtype=torch.float64)
    close(made.log_prob(x), td.Normal(data[:, 0], 0.1).log_prob(x).logsumexp(-1) - math.log(5000))
    stored: dict[str, torch.Tensor] = {}
    again = build(describe(made, stored), Distribution, weights=stored)
    close(again.log_prob(x), made.log_prob(x))


def test_empirical_resamples_rows() -> None:
    data = torch.arange(12.0).reshape(6, 2)
    made = fd.Empirical(data)
    x = made.sample(600, generator=seeded())
    counts = (x[:, None] == data).all(-1).sum(0)
    assert int(counts.sum()) == 600 and int(counts.min()) > 60
    with pytest.raises(NotInvertibleError, match="bandwidth"):
        made.log_prob(x)
    for bad in (torch.zeros(0, 2), torch.zeros(3, 2, dtype=torch.uint8)):
        with pytest.raises(ConfigError):
            fd.Empirical(bad)


# -- torch.distributions ------------------------------------------------------------------------------------------------

LAWS = [
    td.Gamma(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5])),
    td.Beta(torch.tensor([2.0]), torch.tensor([3.0])),
    td.Uniform(torch.tensor([-1.0]), torch.tensor([2.0])),
    td.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    td.Independent(td.Cauchy(torch.zeros(3), torch.ones(3)), 1),
    td.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    td.HalfNormal(torch.tensor([1.0])),
    td.Pareto(torch.tensor([1.0]), torch.tensor([2.0])),
    td.LogNormal(torch.zeros(2), torch.ones(2)),
    td.Chi2(torch.tensor([4.0])),
    td.StudentT(torch.tensor([4.0])),
    td.Kumaraswamy(torch.tensor([2.0]), torch.tensor([2.0])),
    td.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_torch_distribution(law: td.Distribution) -> None:
    rank = len(law.batch_shape) + len(law.event_shape)
    made = fd.TorchDistribution(law, event_rank=rank)
    assert isinstance(made.distribution, str)
    x = made.sample(6, generator=seeded())
    expected = law.log_prob(x)
    torch.testing.assert_close(made.log_prob(x), expected.reshape(6, -1).sum(-1))
    again = build(describe(made), Distribution)
    assert torch.equal(again.log_prob(x), made.log_prob(x))
    before = torch.get_rng_state()
    assert torch.equal(again.sample(6, generator=seeded()), x) and torch.equal(before, torch.get_rng_state())
    assert torch.equal(pickle.loads(pickle.dumps(made)).log_prob(x), made.log_prob(x))
    made.double()
    assert made.sample(2).dtype == torch.float64
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = made.sample(4)
        torch.manual_seed(3)
        assert torch.equal(first, made.sample(4))


def test_torch_distribution_outside_its_support() -> None:
    for law, x in ((LAWS[0], [-1.0, 1.0]), (LAWS[5], [0.5, 0.5, 0.5]), (LAWS[7], [0.5]), (LAWS[8], [0.0, 1.0])):
        made = fd.TorchDistribution(law, event_rank=1)
        at = torch.tensor(x, requires_grad=True)
        value = made.log_prob(at)
        (gradient,) = torch.autograd.grad(value, at)
        assert float(value) == -math.inf and bool(torch.isfinite(gradient).all())


def test_torch_distribution_keeps_other_objects() -> None:
    mixed = td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Normal(torch.zeros(2), torch.ones(2)))
    made = fd.TorchDistribution(mixed)
    x = made.sample(3, generator=seeded())
    torch.testing.assert_close(made.log_prob(x), mixed.log_prob(x))
    assert not made.reparametrized
    with pytest.raises(ConfigError, match="cannot describe"):
        describe(made)


def test_torch_distribution_refuses() -> None:
    with pytest.raises(UnknownNameError, match="Nearest: 'Gamma'"):
        fd.TorchDistribution("Gama")
    with pytest.raises(UnknownNameError):
        fd.TorchDistribution("kl_divergence")
    with pytest.raises(ConfigError, match="batch shape"):
        fd.TorchDistribution(LAWS[0])
    with pytest.raises(ConfigError, match="discrete"):
        fd.TorchDistribution(td.Poisson(torch.tensor(2.0)))
    with pytest.raises(ConfigError, match="refuses"):
        fd.TorchDistribution("Gamma", arguments={"concentration": -1.0, "rate": 1.0})
    with pytest.raises(ConfigError, match="refuses"):
        fd.TorchDistribution("Gamma", arguments={"shape": 1.0})


# -- arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("diagonal_normal", {"shape": (0,)}),
        ("diagonal_normal", {"shape": (2,), "scale": 0.0}),
        ("diagonal_normal", {"shape": (2,), "loc": [0.0, 0.0, 0.0]}),
        ("full_normal", {"features": 0}),
        ("full_normal", {"features": 2, "covariance": [[1.0, 2.0], [2.0, 1.0]]}),
        ("uniform_box", {"low": 1.0, "high": 0.0}),
        ("uniform_box", {"low": 0.0, "high": math.inf, "dim": 1}),
        ("student_t", {"shape": (2,), "df": -1.0}),
        ("von_mises", {"shape": (2,), "concentration": 0.0}),
        ("von_mises", {"shape": (None,)}),
        ("empirical", {"data": [[1.0]], "bandwidth": -1.0}),
    ],
)
def test_bad_arguments_are_named(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(FlowkitError, match=name):
        build({"name": name, **arguments}, Distribution)


def test_float32_stays_close_to_float64() -> None:
    for label, made in CASES:
        context = context_for(made)
        x = made.sample(50, context, generator=seeded())
        low = made.log_prob(x, context)
        high = copy.deepcopy(made).double().log_prob(x.double(), context.double() if made.context_shape else context)
        assert low.dtype == torch.float32 and high.dtype == torch.float64, label
        np.testing.assert_allclose(low.detach().numpy(), high.detach().numpy(), rtol=1e-4, atol=1e-4, err_msg=label)
