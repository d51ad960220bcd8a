"""Objectives that train against an energy: bad energies, what a flow cannot give, and what is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import ResidualOf
from flowkit.core.build import build
from flowkit.core.errors import ConfigError, DataError, FlowkitError, NonFiniteError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch
from flowkit.core.registry import OBJECTIVES
from flowkit.core.target import Target
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.distributions import DiagonalNormal, GaussianMixture, StandardNormal
from flowkit.flows import RealNVP
from flowkit.nets import LipschitzMLP
from flowkit.objectives import AlphaDivergence, ForwardKL, ImportanceWeighted, MaximumLikelihood, ReverseKL
from flowkit.objectives._draws import effective_share
from flowkit.surjections import Langevin
from flowkit.targets import ManyWell


class Energy(Target):
    """A standard normal of two dimensions with something wrong with it."""

    event_shape = (2,)

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong

    def log_density(self, x: Tensor) -> Any:
        value = -0.5 * x.square().sum(-1)
        away = x[..., 0] > 0.5
        match self.wrong:
            case "nan" | "inf" | "-inf":
                return torch.where(away, torch.full_like(value, float(self.wrong)), value)
            case "nan score":
                return value + torch.where(away, (x[..., 0] * 0.0).sqrt() * 0.0, torch.zeros_like(value))
            case "per feature":
                return -0.5 * x.square()
            case "mean":
                return value.mean()
            case "numpy":
                return value.detach().numpy()
            case "detached":
                return value.detach()
        return value


class OwnScore(Energy):
    """Energies from elsewhere, with forces of their own in double precision."""

    def score(self, x: Tensor) -> Tensor:
        return -x.detach().double()


def flow(**options: Any) -> RealNVP:
    torch.manual_seed(0)
    return RealNVP(2, layers=2, hidden=(8,), **options)


class Shift(Bijector):
    """x = z + b, with traits to order."""

    in_shape = out_shape = (2,)

    def __init__(self, traits: Traits) -> None:
        super().__init__()
        self.traits, self.loc = traits, torch.nn.Parameter(torch.zeros(2))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z + self.loc, z.new_zeros(z.shape[:-1])


OBJECTIVE_KINDS = [ReverseKL, AlphaDivergence, ImportanceWeighted, lambda target: ForwardKL(target, gradient="dreg")]


# -- energies that are wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"), [("nan", "log_density is NaN"), ("inf", r"log_density is \+inf"), ("-inf", "log_density is -inf"), ("nan score", "score is NaN")]
)
def test_energy_not_finite(wrong: str, said: str) -> None:
    """issue B-5: one error that names the target, how many samples and the first; ``non_finite="skip"`` goes on."""
    with pytest.raises(NonFiniteError, match=rf"ReverseKL: Energy.*{said}.* at \d+ of 64 samples, the first of them sample \d+\. .*non_finite='skip'") as error:
        fk.fit(flow(), None, ReverseKL(Energy(wrong)), max_steps=3, batch_size=64, seed=0, progress=False)
    assert "\n" not in str(error.value)
    result = fk.fit(flow(), None, ReverseKL(Energy(wrong)), max_steps=3, batch_size=64, seed=0, non_finite="skip", progress=False)
    assert result.steps == 3 and result.history["skipped"][-1] > 0


@pytest.mark.parametrize("make", OBJECTIVE_KINDS)
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ("per feature", ShapeError, r"Energy.log_density: expected one value for every sample, shape \(.*64,?\); got \(.*64, 2\)"),
        ("mean", ShapeError, r"expected one value for every sample.*; got \(\)"),
        ("numpy", ConfigError, "expected a floating tensor; got a ndarray"),
        ("detached", ConfigError, r"carries no gradient.*score\(x\).*gradient='score'"),
    ],
)
def test_energy_of_the_wrong_kind(make: Any, wrong: str, kind: type, said: str) -> None:
    """issue B-5: a wrong shape, another type, a gradient that is cut off."""
    with pytest.raises(kind, match=said):
        make(Energy(wrong)).loss(flow(), Batch(size=64))


def test_energy_of_the_wrong_kind_at_data() -> None:
    with pytest.raises(ConfigError, match=r"ForwardKL: Energy.log_density carries no gradient"):
        ForwardKL(Energy("detached"), gradient="path").loss(flow(), Batch(torch.randn(8, 2)))
    with pytest.raises(ShapeError, match=r"ManyWell has event shape \(4,\), the flow \(2,\)"):
        ForwardKL(ManyWell(4), gradient="path").loss(flow(), Batch(torch.randn(8, 2)))


def test_energy_without_gradient() -> None:
    """ "score" and "vargrad" need no gradient of the energy; a ``score`` of the target's own serves the others."""
    for kind in ("score", "vargrad"):
        ReverseKL(Energy("detached"), gradient=kind).loss(flow(), Batch(size=64)).value.backward()
    AlphaDivergence(Energy("detached"), gradient="score").loss(flow(), Batch(size=64)).value.backward()
    found = []
    for target in (OwnScore("detached"), Energy()):
        model = flow()
        loss = ReverseKL(target).loss(model, Batch(size=64), torch.Generator().manual_seed(0)).value
        assert loss.dtype == torch.float32
        found.append(torch.autograd.grad(loss, next(model.parameters()))[0])
    assert torch.allclose(*found)


@pytest.mark.parametrize("make", OBJECTIVE_KINDS[1:])
def test_zero_weights(make: Any) -> None:
    """Samples off the target's support weigh nothing where weights are self-normalised: loss and gradient are finite."""
    model, objective = flow(), make(Energy("-inf"))
    with fk.checks(values=True, finite=True):
        loss = objective.loss(model, Batch(size=64), torch.Generator().manual_seed(0))
    loss.value.backward()
    assert bool(loss.value.isfinite()) and all(bool(p.grad.isfinite().all()) for p in model.parameters())


# -- the target is left alone ---------------------------------------------------------------------------------------


def test_target_is_never_trained() -> None:
    """Parameters of a target belong to no phase, and training the flow changes neither the target nor its copy."""
    target, model = GaussianMixture(2, 3), flow()
    before = copy.deepcopy(target.state_dict())
    objective = ReverseKL(target)
    assert all(p.requires_grad for p in target.parameters()) and not any(p.requires_grad for p in objective.parameters())
    (phase,) = objective.phases(model)
    assert {id(p) for p in phase.parameters} == {id(p) for p in model.parameters()}
    fk.fit(model, None, objective, max_steps=2, batch_size=16, seed=0, progress=False)
    for state in (target.state_dict(), objective.target.state_dict()):
        assert all(torch.equal(state[key], value) for key, value in before.items())
    assert not objective.train().target.training


def test_flow_as_its_own_target() -> None:
    """The target is a copy: the flow stays trainable, and there is nothing left to learn."""
    model = flow()
    loss = ReverseKL(model).loss(model, Batch(size=16))
    assert loss.value.requires_grad and abs(loss.value.item()) < 1e-5 and all(p.requires_grad for p in model.parameters())


def test_target_without_parameters_is_kept() -> None:
    """One that may hold a pool of workers is not copied."""
    target = ManyWell(2)
    assert ReverseKL(target).target is target


# -- what a flow cannot give ----------------------------------------------------------------------------------------


def test_lower_bounds() -> None:
    """Layers that draw: "total" and IWAE alone."""
    model = Flow(StandardNormal((2,)), flow().bijector >> Langevin(ManyWell(2), 1))
    assert model.density == "lower_bound"
    for make in (ReverseKL(ManyWell(2)), ReverseKL(ManyWell(2), gradient="score"), AlphaDivergence(ManyWell(2)), ImportanceWeighted(ManyWell(2))):
        with pytest.raises(ConfigError, match=r"lower bound.*Use gradient='(total|iwae)'"):
            make.loss(model, Batch(size=8))
    with pytest.raises(ConfigError, match=r"lower bound.*Use gradient='ml'"):
        ForwardKL(ManyWell(2), gradient="path").loss(model, Batch(torch.randn(8, 2)))
    for good in (ReverseKL(ManyWell(2), gradient="total"), ImportanceWeighted(ManyWell(2), gradient="iwae")):
        good.loss(model, Batch(size=8)).value.backward()


def test_estimated_densities() -> None:
    """An estimate of log q enters linearly or not at all."""
    model = Flow(StandardNormal((2,)), ResidualOf(LipschitzMLP(2, 2, (8,)), log_det="roulette"))
    for bad in (AlphaDivergence(ManyWell(2)), ImportanceWeighted(ManyWell(2)), ReverseKL(ManyWell(2), gradient="vargrad")):
        with pytest.raises(ConfigError, match=r"exact density.*exact log_det"):
            bad.loss(model, Batch(size=8))
    for kind in ("path", "path_two_pass", "total", "score"):
        ReverseKL(ManyWell(2), gradient=kind).loss(model, Batch(size=8)).value.backward()


def test_bases_and_inverses() -> None:
    """A learned mixture as base draws components; some maps carry no score or have no inverse."""
    mixed = Flow(GaussianMixture(2, 3), flow().bijector)
    with pytest.raises(ConfigError, match=r"GaussianMixture are not.*score"):
        ReverseKL(ManyWell(2)).loss(mixed, Batch(size=8))
    ReverseKL(ManyWell(2), gradient="score").loss(mixed, Batch(size=8)).value.backward()
    mixed.base.requires_grad_(False)
    ReverseKL(ManyWell(2)).loss(mixed, Batch(size=8)).value.backward()
    for traits, kind, said in ((Traits(score="none"), "path", "carry a score"), (Traits(inverse="none"), "path_two_pass", "needs the inverse")):
        with pytest.raises(ConfigError, match=rf"{said}.*Use gradient='total'"):
            ReverseKL(ManyWell(2), gradient=kind).loss(Flow(StandardNormal((2,)), Shift(traits)), Batch(size=8))  # type: ignore[arg-type]


def test_batches() -> None:
    """A conditional flow needs contexts; own samples have no weights; comparing samples takes two of them."""
    with pytest.raises(ConfigError, match=r"the batch has no context. Pass a source of \(x, context\)"):
        ReverseKL(ManyWell(2)).loss(flow(context_features=1), Batch(size=8))
    with pytest.raises(ConfigError, match="sample_weight"):
        fk.fit(flow(), torch.randn(8, 2), ReverseKL(ManyWell(2)), sample_weight=torch.ones(8), max_steps=1, batch_size=4, progress=False)
    with pytest.raises(ConfigError, match="needs 2 or more; got 1"):
        ReverseKL(ManyWell(2), gradient="score").loss(flow(), Batch(size=1))
    with pytest.raises(ConfigError, match="the batch's size"):
        ReverseKL(ManyWell(2)).loss(flow(), Batch())
    for objective in (AlphaDivergence(ManyWell(2)), ForwardKL(ManyWell(2), gradient="dreg")):
        with pytest.raises(ConfigError, match=r"flow.condition\(context\)"):
            objective.loss(flow(context_features=1), Batch(context=torch.zeros(8, 1)))
        fixed = flow(context_features=1).condition(torch.zeros(1))
        assert objective.loss(fixed, Batch(size=8)).value.isfinite()
    with pytest.raises(ConfigError, match="expected a flow; got Linear"):
        ReverseKL(ManyWell(2)).loss(torch.nn.Linear(2, 2), Batch(size=8))


def test_conditional_target() -> None:
    """A conditional distribution is a target for each context: the loss is the mean over contexts."""
    target = DiagonalNormal((2,), context_features=1)
    with torch.no_grad():
        for p in target.parameters():
            p.add_(0.3 * torch.randn_like(p))
    model, context = flow(context_features=1), torch.randn(64, 1)
    loss = ReverseKL(target).loss(model, Batch(context=context), torch.Generator().manual_seed(0))
    x, log_q = model.sample_and_log_prob((), context, torch.Generator().manual_seed(0))
    wanted = (log_q - target.log_prob(x, context)).mean()
    assert loss.value.item() == pytest.approx(wanted.item(), rel=1e-5) and "ess" not in loss.terms


# -- arguments, sources, configs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ReverseKL(ManyWell), "got the class ManyWell"),
        (lambda: ReverseKL(lambda x: -x.square().sum(-1)), "expected a target or a distribution; got function"),
        (lambda: ReverseKL(ManyWell(2), gradient="paths"), "gradient to be one of path, .*Nearest: 'path'"),
        (lambda: ForwardKL(gradient="path"), "got no target"),
        (lambda: AlphaDivergence(ManyWell(2), 1.0), r"other than 0 and 1; got 1.0.*ForwardKL\(target, gradient='dreg'\)"),
        (lambda: AlphaDivergence(ManyWell(2), float("nan")), "got nan"),
        (lambda: ImportanceWeighted(ManyWell(2), samples=0), "samples to be an int >= 1; got 0"),
    ],
)
def test_bad_arguments(make: Any, said: str) -> None:
    with pytest.raises(FlowkitError, match=said):
        make()


def test_forward_sources() -> None:
    """ "ml" takes data; a target that draws exactly replaces it; one that does not says so."""
    assert ForwardKL().requires == {"data"} == MaximumLikelihood.requires
    assert ForwardKL(Energy(), gradient="path").requires == {"data", "target"}
    assert ForwardKL(ManyWell(2), gradient="path").requires == ReverseKL(ManyWell(2)).requires == {"target"}
    with pytest.raises(DataError, match="ForwardKL needs data"):
        fk.fit(flow(), None, ForwardKL(Energy(), gradient="path"), max_steps=1, progress=False)
    with pytest.raises(DataError, match="target that draws exactly"):
        ForwardKL(Energy(), gradient="path").loss(flow(), Batch(size=8))
    for kind in ("ml", "path"):
        result = fk.fit(flow(), None, ForwardKL(ManyWell(2), gradient=kind), max_steps=3, batch_size=64, seed=0, progress=False)
        assert result.steps == 3 and torch.isfinite(torch.tensor(result.history["nll"])).all()


def test_maximum_likelihood_is_forward_kl() -> None:
    model, batch = flow(), Batch(torch.randn(16, 2), extra={"weight": torch.rand(16)})
    assert ForwardKL().loss(model, batch).value.item() == MaximumLikelihood().loss(model, batch).value.item()


def test_terms() -> None:
    """What the history shows, and how the terms hang together."""
    model, target = flow(), ManyWell(2)
    loss = ReverseKL(target).loss(model, Batch(size=256))
    assert set(loss.terms) == {"elbo", "log_w_std", "ess", "kl"}
    assert loss.terms["kl"].item() == pytest.approx(target.log_normalizer + loss.value.item(), abs=1e-4)
    assert 0 < loss.terms["ess"].item() <= 1 and loss.terms["elbo"].item() == -loss.value.item()
    assert "kl" not in ReverseKL(Energy()).loss(model, Batch(size=8)).terms
    forward = ForwardKL(target, gradient="path").loss(model, Batch(target.sample(256)))
    assert set(forward.terms) == {"nll", "eubo", "ess", "kl"} and forward.terms["eubo"] > loss.terms["elbo"]
    assert forward.terms["kl"].item() == pytest.approx(forward.terms["eubo"].item() - target.log_normalizer, abs=1e-5)
    perfect = ForwardKL(model, gradient="path").loss(model, Batch(torch.randn(32, 2)))
    assert perfect.terms["ess"].item() == pytest.approx(1.0, abs=1e-4)
    assert effective_share(torch.full((1000,), 3e6)).item() == pytest.approx(1.0, abs=1e-5)  # not 1.1, for a large normaliser


def test_by_description() -> None:
    """Configs name them; the target is a description or the config's own."""
    made: Any = build({"name": "alpha_divergence", "alpha": 1.5, "target": {"name": "many_well", "dim": 2}}, OBJECTIVES)
    assert isinstance(made, AlphaDivergence) and made.alpha == 1.5 and isinstance(made.target, ManyWell)
    made = build({"name": "iwae", "samples": 3, "target": {"name": "standard_normal", "shape": (2,)}}, OBJECTIVES)
    assert isinstance(made, ImportanceWeighted) and isinstance(made.target, StandardNormal)


def test_compiled_training() -> None:
    """``compile=True`` trains through the same score rule."""
    found = []
    for compiled in (False, True):
        model = flow()
        fk.fit(model, None, ReverseKL(ManyWell(2)), max_steps=2, batch_size=16, seed=0, compile=compiled, progress=False)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*found, atol=1e-6)
