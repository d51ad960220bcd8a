"""Scores carried along by every map against autograd through the other direction (physics-A1, A2 and A4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import ActNorm, Affine, Autoregressive, BlockAutoregressive, Chain, Coupling, Elementwise, Graph, LULinear, Permutation, ResidualOf, Tanh
from flowkit.core.registry import BIJECTORS, UNIVARIATES
from flowkit.core.transform import Bijector
from flowkit.nets import LipschitzMLP
from flowkit.testing._calls import call, sides
from flowkit.testing._case import Case, prepared
from flowkit.univariates import Affine as AffineScalar
from flowkit.univariates import LogisticMixtureCDF, RationalQuadraticSpline

D = torch.float64
MASKS = [(True, False, True, False, True, False), (False, True, False, True, False, True)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=D)


def far(value: Tensor, wanted: Tensor) -> float:
    """Largest difference over the larger of 1 and the largest entry."""
    return float((value - wanted).detach().abs().max() / wanted.detach().abs().max().clamp(min=1))


def by_autograd(f: Bijector, start: Tensor, score: Tensor, context: Any = None, *, inverse: bool = False) -> Tensor:
    """The score behind a call, by differentiating the density pass back from its result."""
    with torch.no_grad():
        there = call(f, start, context, inverse=inverse)[0]
    point = there.clone().requires_grad_()
    back, log_det = call(f, point, context, inverse=not inverse)
    (found,) = torch.autograd.grad((back * score).sum() + log_det.sum(), point)
    return found


# -- A1: parameter gradients ------------------------------------------------------------------------------------------------


def stacks() -> Iterator[tuple[str, Callable[[], list[Bijector]]]]:
    spline, circle = RationalQuadraticSpline(bins=5), RationalQuadraticSpline(bins=5, bound=math.pi, ends="circular")

    def couplings(scalar: Any) -> list[Bijector]:
        return [Coupling(6, scalar, (16,), MASKS[i % 2], activation="tanh") for i in range(6)]

    yield "affine", lambda: couplings(AffineScalar())
    yield "spline", lambda: couplings(spline)
    yield "circular", lambda: couplings(circle)
    yield "mixture", lambda: couplings(LogisticMixtureCDF(3))
    yield "lu", lambda: [part for i in range(3) for part in (LULinear(6, order=torch.randperm(6, generator=generator(i)).tolist()), Elementwise(6, spline))]
    yield "act_norm", lambda: [part for i in range(3) for part in (ActNorm((6,)), Coupling(6, spline, (16,), MASKS[i % 2], activation="tanh"))]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in stacks()])
def test_path_gradients_of_six_layers(make: Callable[[], list[Bijector]]) -> None:
    """physics-A1: the path estimator's parameter gradient with the score carried along is that of two passes, to 1e-10 of the largest entry."""
    f = prepared(Chain(make()))
    circular = not f.domain.trivial
    z = normal(64, 6).clamp(-3, 3)
    start = torch.zeros_like(z) if circular else -z

    def gradient(carry: Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        value, score = z, start
        for layer in f:
            value, _, score = carry(layer, value, score)
        force = (score + torch.cos(value.detach()) + 0.3 * value.detach()) / len(z)
        return torch.cat([part.flatten() for part in torch.autograd.grad((value * force).sum(), list(f.parameters()))])

    fast = gradient(lambda layer, value, score: layer.push_score(value, score))
    slow = gradient(lambda layer, value, score: Bijector._carry(layer, value, score, None, None, False))
    assert f.traits.score == "closed"
    assert float((fast - slow).abs().max() / slow.abs().max()) < 1e-10


# -- A2: every map ----------------------------------------------------------------------------------------------------------


def exact_examples(name: str) -> list[Any]:
    made = [prepared(f) for _, f in BIJECTORS[name].examples()]
    return [f for f in made if f.traits.log_det == "exact" and f.traits.inverse != "none"]


@pytest.mark.parametrize("name", sorted({BIJECTORS[name].__name__: name for name in BIJECTORS}.values()))
def test_scores_of_every_map(name: str) -> None:
    """physics-A2: both directions against autograd of log q, 1e-9 for explicit and 1e-6 for iterative inverses; nothing recorded under no_grad."""
    for f in exact_examples(name):
        limit = 1e-6 if f.traits.inverse == "iterative" else 1e-9
        for side in sides(f, Case(seed=3)):
            score = torch.sin(3 * side.value)
            carry = f.pull_score if side.inverse else f.push_score
            value, _, carried = carry(side.value, score, side.context)
            wanted = by_autograd(f, side.value, score, side.context, inverse=side.inverse)
            assert far(carried, wanted) < limit, (side.name, far(carried, wanted))
            assert not carried.requires_grad
            if f.traits.inverse != "iterative":
                with torch.no_grad():
                    silent = carry(side.value, score, side.context)
                assert not any(part.requires_grad for part in silent)
                assert far(silent[0], value) < limit


@pytest.mark.parametrize("name", sorted({UNIVARIATES[name].__name__: name for name in UNIVARIATES}.values()))
def test_scores_through_every_univariate(name: str) -> None:
    """physics-A2, the scalar maps: under a conditioner the score is exact in both directions, also where one of them searches for a root."""
    for label, scalar in UNIVARIATES[name].examples():
        f = prepared(Coupling(6, scalar, (8,), (True, True, True, False, False, False), activation="tanh"))
        low, high = f.domain.safe_point(normal(5, 6)), normal(5, 6, seed=1)
        z = torch.where(f.domain.contains(high).unsqueeze(-1), high, low + 0.01 * high)
        with torch.no_grad():
            x = f(z)[0]
        for start, inverse in ((z, False), (x, True)):
            score = torch.cos(start)
            carried = (f.pull_score if inverse else f.push_score)(start, score)[2]
            assert far(carried, by_autograd(f, start, score, inverse=inverse)) < 1e-9, (label, inverse)


ALONE = sorted({type(f).__name__: name for name in BIJECTORS for _, f in BIJECTORS[name].examples() if f.traits.score in ("closed", "solve")}.values())


@pytest.mark.parametrize("name", ALONE)
def test_closed_scores_call_no_inverse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What traits.score calls "closed" or "solve" carries a score forward without its inverse formula."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the inverse was called")

    for f in exact_examples(name):
        if f.traits.score == "two_pass" or any(isinstance(part, Bijector) for part in f.modules() if part is not f):
            continue
        side = sides(f, Case())[0]
        monkeypatch.setattr(f, "_inverse", refused)
        f.push_score(side.value, -side.value, side.context)


def test_what_traits_say() -> None:
    """Whole flows: closed where every layer is; a layer of two passes shows."""
    assert {getattr(fk.flows, name)(features=6).bijector.traits.score for name in ("NeuralSplineFlow", "RealNVP", "NICE")} == {"closed"}
    stage = fk.bijectors.Squeeze(1) >> fk.bijectors.GlowStep((4, None, None), (4,))
    assert fk.bijectors.Multiscale((1, 4, 4), [stage, fk.bijectors.GlowStep(2, (4,))]).traits.score == "closed"
    assert fk.flows.ContinuousFlow(features=2).bijector.traits.score == fk.flows.MAF(features=6).bijector.traits.score == "solve"
    assert (Affine((2,)) & Tanh(1)).traits.score == "closed"
    assert (fk.bijectors.Vmap(Affine((2,)), 3)).traits.score == "two_pass"
    assert BlockAutoregressive(40, (2,)).traits.score == "two_pass"


def test_a_new_formula_leaves_the_rule_behind() -> None:
    """A subclass with a formula of its own does not inherit the score rule of another formula."""

    class Doubled(Permutation):
        def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
            x, log_det = super()._forward(2 * z, context, generator)
            return x, log_det + z.shape[-1] * math.log(2)

        def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
            z, log_det = super()._inverse(x, context, generator)
            return z / 2, log_det - z.shape[-1] * math.log(2)

    z = normal(4, 3)
    assert far(Doubled.reverse(3).push_score(z, -z)[2], (-z / 2).flip(-1)) < 1e-12


# -- A graph whose conditions are used up in another order ------------------------------------------------------------------------


def test_graph_looks_at_a_value_before_it_is_used_up() -> None:
    """Steps given in an order that uses a value up before it conditions another: the score is right, and still closed."""
    shift = Elementwise(2, RationalQuadraticSpline(bins=4), context_features=2, hidden=(8,), activation="tanh")
    wire = Graph.wire({"x": 4})
    a, b = wire.split("x", a=2, b=2)
    moved = wire.apply("own", Elementwise(2, RationalQuadraticSpline(bins=4)), to=a)
    conditioned = wire.apply("given", shift, to=b, given=a)
    f = prepared(wire.build(wire.join("y", moved, conditioned)))
    z, score = normal(5, 4), normal(5, 4, seed=1)
    assert f.traits.score == "closed"
    for inverse in (False, True):
        assert far((f.pull_score if inverse else f.push_score)(z, score)[2], by_autograd(f, z, score, inverse=inverse)) < 1e-9


def test_graph_without_such_an_order() -> None:
    """A value used up to make what conditions a step beside it: no order keeps both, two passes are said and right."""
    wire = Graph.wire({"x": 4})
    c, a = wire.split("x", c=2, a=2)
    d = wire.apply("own", Elementwise(2, AffineScalar()), to=c)
    y = wire.apply("first", Elementwise(2, AffineScalar(), context_features=2, hidden=(8,), activation="tanh"), to=a, given=d)
    last = wire.apply("second", Elementwise(2, AffineScalar(), context_features=2, hidden=(8,), activation="tanh"), to=y, given=c)
    f = prepared(wire.build(wire.join("y", d, last)))
    z, score = normal(5, 4), normal(5, 4, seed=1)
    assert f.traits.score == "two_pass"
    assert far(f.push_score(z, score)[2], by_autograd(f, z, score)) < 1e-9


# -- A4 and other solutions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [3, 8])
@pytest.mark.parametrize("scalar", [AffineScalar(), RationalQuadraticSpline(bins=4)], ids=["affine", "spline"])
def test_score_of_a_triangular_map(features: int, scalar: Any) -> None:
    """physics-A4: the triangular solution from D products, and the pull-back, against autograd, to 1e-10."""
    f = prepared(Autoregressive(features, scalar, (24,), activation="tanh"))
    z, score = normal(6, features), normal(6, features, seed=1)
    for inverse in (False, True):
        assert far((f.pull_score if inverse else f.push_score)(z, score)[2], by_autograd(f, z, score, inverse=inverse)) < 1e-10


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_score_of_a_residual_map_by_roulette(gradient: Literal["neumann", "series"]) -> None:
    """Scores of a drawn series average to the exact one within five standard errors, in both directions; the point is exact in each draw."""
    net = prepared(LipschitzMLP(3, 3, (8,), coefficient=0.8))
    exact = ResidualOf(net)
    drawn = ResidualOf(net, log_det="roulette", terms=2, probes=1, gradient=gradient)
    z, score, draws, source = normal(2, 3), normal(2, 3, seed=1), 25, generator(2)
    for inverse in (False, True):
        wanted = (exact.pull_score if inverse else exact.push_score)(z, score)
        carry = drawn.pull_score if inverse else drawn.push_score
        many = [carry(z.expand(50, 2, 3), score, generator=source) for _ in range(draws)]  # one cut of the series each, many probes
        means = torch.stack([each[2].mean(0) for each in many])
        assert far(many[0][0][0], wanted[0]) < 1e-9
        assert bool(((means.mean(0) - wanted[2]).abs() < 5 * means.std(0) / draws**0.5 + 1e-6).all())
