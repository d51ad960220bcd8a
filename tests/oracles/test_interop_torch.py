"""torch.distributions: its transforms as bijectors, bijectors as its transforms."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributions as D
from torch.distributions import constraints, transforms

import flowkit as fk
from flowkit.core.algebra.inverse import Inverse
from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError, DomainError, NotInvertibleError, ShapeError
from flowkit.interop.torch_distributions import to_bijector, to_transform
from flowkit.testing import check_bijector
from flowkit.testing._suites import BIJECTOR

T = transforms
ELEMENTWISE = {
    "exp": T.ExpTransform(),
    "affine": T.AffineTransform(torch.tensor([0.1, -0.2, 0.3]).double(), torch.tensor([2.0, -0.5, 1.5]).double()),
    "sigmoid": T.SigmoidTransform(),
    "tanh": T.TanhTransform(),
    "softplus": T.SoftplusTransform(),
    "compose": T.ComposeTransform([T.AffineTransform(1.0, 2.0), T.TanhTransform(), T.AffineTransform(0.0, 3.0)]),
    "compose_tanh": T.ComposeTransform([T.AffineTransform(1.0, 2.0), T.TanhTransform()]),
    "inverse": T.SigmoidTransform().inv,
    "independent": T.IndependentTransform(T.ExpTransform(), 1),
    "cached": T.ExpTransform(cache_size=1),
    "stack": T.StackTransform([T.ExpTransform(), T.SigmoidTransform(), T.AffineTransform(0.0, 2.0)], dim=-1),
}
SHAPED = {
    "stick_breaking": (T.StickBreakingTransform(), (3,), (4,)),
    "stick_breaking_stacked": (T.StickBreakingTransform(), (2, 3), (2, 4)),
    "correlation": (T.CorrCholeskyTransform(), (3,), (3, 3)),
    "reshape": (T.ReshapeTransform((6,), (2, 3)), None, (2, 3)),
}


def points(made: Any, batch: tuple[int, ...] = (7,)) -> torch.Tensor:
    """Inside the domain of a map whose domain is R^n or the unit cube."""
    z = torch.randn(*batch, *made.in_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z if made.domain.trivial else z.sigmoid()


@pytest.mark.parametrize("name", list(ELEMENTWISE))
def test_elementwise(name: str) -> None:
    t = ELEMENTWISE[name]
    made = to_bijector(t, 3)
    z = points(made)
    x, log_det = made(z)
    torch.testing.assert_close(x, t(z))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda value: _plain(t)(value)))(z)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-8)
    back, log_det_back = made.inverse(x)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-6)
    assert made.codomain.contains(x).all() and made(z[0])[1].shape == () and made(z[:0])[1].shape == (0,)


def _plain(t: Any) -> Any:
    return t.with_cache(0) if t._cache_size else t


@pytest.mark.parametrize("name", list(SHAPED))
def test_shaped(name: str) -> None:
    t, shape, out = SHAPED[name]
    made = to_bijector(t, shape)
    assert made.out_shape == out
    z = points(made, (2, 3))
    x, log_det = made(z)
    assert x.shape == (2, 3, *out) and log_det.shape == (2, 3)
    ladj = t.log_abs_det_jacobian(z, x)
    torch.testing.assert_close(log_det, ladj.reshape(2, 3, -1).sum(-1))
    torch.testing.assert_close(made.inverse(x)[0], z, rtol=0, atol=1e-8)
    assert made.codomain.contains(x).all()


CHECKS = (
    "shapes round_trip log_det_jacobian inverse_log_det rows_independent law_inverse_cancels law_double_inverse law_concat law_simplify law_masked "
    "masked domain_error domain_to_codomain context_refused wrong_input gradient_inputs dtype_kept constants_are_buffers deepcopy pickled pure scores"
)


@pytest.mark.parametrize(("name", "shape"), [("sigmoid", (2,)), ("affine", (3,)), ("compose_tanh", (2,)), ("exp", ()), ("inverse", (2,))])
def test_the_kit(name: str, shape: Any) -> None:
    made = to_bijector(ELEMENTWISE[name], shape)
    check_bijector(made, only=[check for check in CHECKS.split() if check in BIJECTOR.names(made)])


def test_domains() -> None:
    exp = to_bijector(T.ExpTransform(), 2)
    assert isinstance(exp.codomain, Box)
    with pytest.raises(DomainError):
        exp.inverse(torch.tensor([1.0, -1.0]))
    simplex = to_bijector(T.StickBreakingTransform(), 3)
    with pytest.raises(DomainError):
        simplex.inverse(torch.full((4,), 0.9))
    flow = fk.Flow(fk.distributions.StandardNormal((3,)), simplex)
    inside = flow.sample(5)
    assert torch.isfinite(flow.log_prob(inside)).all() and flow.log_prob(torch.full((4,), 0.9)) == -torch.inf
    expected = D.TransformedDistribution(D.Normal(torch.zeros(3), 1.0), [T.StickBreakingTransform()]).log_prob(inside)
    torch.testing.assert_close(flow.log_prob(inside), expected, rtol=1e-4, atol=1e-4)


def test_gradients_pass_a_cache() -> None:
    made = to_bijector(T.ExpTransform(cache_size=1))
    z = torch.tensor(0.3, requires_grad=True)
    x, _ = made(z)
    leaf = x.detach().requires_grad_()
    back, _ = made.inverse(leaf)
    (gradient,) = torch.autograd.grad(back, leaf)
    torch.testing.assert_close(gradient, 1 / leaf.detach())


def test_pyro_transforms() -> None:
    pyro_transforms = pytest.importorskip("pyro.distributions.transforms")
    z = torch.randn(5, 3)
    for t in (pyro_transforms.affine_autoregressive(3, [8]), pyro_transforms.spline_coupling(3, hidden_dims=[8])):
        made = to_bijector(t, 3)
        x, log_det = made(z)
        expected = torch.stack([torch.linalg.slogdet(torch.autograd.functional.jacobian(t, row)).logabsdet for row in z])
        torch.testing.assert_close(log_det, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made.inverse(x)[0], z, rtol=1e-3, atol=1e-3)
        assert len(list(made.parameters())) == len(list(t.parameters())) > 0
    one_way = to_bijector(pyro_transforms.Planar(3), 3)
    x, _ = one_way(z)
    with pytest.raises(NotInvertibleError, match="has no inverse"):
        one_way.inverse(x)


@pytest.mark.parametrize(
    ("module", "package", "install", "call"),
    [
        ("nflows", "nflows", "nflows", "load_parameters"),
        ("nflows", "nflows", "nflows", "to_flowkit"),
        ("zuko", "zuko", "zuko", "load_parameters"),
        ("pyro", "pyro", "pyro-ppl", "to_pyro"),
    ],
)
def test_missing_package(module: str, package: str, install: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"needs {package}. Install it with: pip install {install}$"):
        getattr(getattr(fk.interop, module), call)(None)


@pytest.mark.parametrize("module", ["nflows", "pyro", "torch_distributions", "zuko"])
def test_peers_are_imported_inside_functions(module: str) -> None:
    assert module in dir(fk.interop)
    tree = ast.parse(Path(getattr(fk.interop, module).__file__).read_text())
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {(node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_import}
    assert not {name.split(".")[0] for name in names} & {"nflows", "pyro", "zuko"} and not any("._from_" in n or "._as_" in n for n in names)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fk.interop.nothing


def test_refused() -> None:
    with pytest.raises(ConfigError, match="bijective"):
        to_bijector(T.AbsTransform())
    with pytest.raises(ConfigError, match="Pass shape="):
        to_bijector(T.StickBreakingTransform())
    with pytest.raises(ShapeError, match="at least 1 axes"):
        to_bijector(T.StickBreakingTransform(), ())
    with pytest.raises(ShapeError, match=r"Pass shape=\(3,\)"):
        to_bijector(ELEMENTWISE["affine"])
    with pytest.raises(ConfigError, match="got int"):
        to_bijector(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got int"):
        to_transform(3)  # type: ignore[arg-type]


# -- bijectors as transforms ------------------------------------------------------------------------------------------


def coupling(context: int = 0) -> Any:
    torch.manual_seed(0)
    made = fk.bijectors.Coupling(3, fk.univariates.RationalQuadraticSpline(4), (8,), context_features=context).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("cache_size", [0, 1])
@pytest.mark.parametrize("context", [None, torch.tensor([0.2, -0.4], dtype=torch.float64)])
def test_transformed_distribution(cache_size: int, context: Any) -> None:
    f = coupling(0 if context is None else 2)
    t = to_transform(f, context, cache_size=cache_size)
    assert t.bijective and t.domain.event_dim == t.codomain.event_dim == 1
    law = D.TransformedDistribution(D.Normal(torch.zeros(3, dtype=torch.float64), 1.0), [t])
    flow = fk.Flow(fk.distributions.StandardNormal((3,)), f)
    x = law.rsample((6,))
    assert x.shape == (6, 3) and law.event_shape == (3,) and law.batch_shape == ()
    torch.testing.assert_close(law.log_prob(x), flow.log_prob(x, context))
    law.log_prob(x.detach()).sum().backward()
    assert all(p.grad is not None for p in f.parameters())
    batched = D.TransformedDistribution(D.Normal(torch.zeros(5, 3, dtype=torch.float64), 1.0), [t, t.inv])
    assert batched.batch_shape == (5,) and batched.log_prob(batched.sample()).shape == (5,)


def test_log_det_is_that_of_the_parameters_of_the_moment() -> None:
    f = fk.bijectors.Affine((2,))
    t = to_transform(f, cache_size=1)
    x = torch.ones(2)
    y = t(x)
    with torch.no_grad():
        f.log_scale.add_(1.0)
    torch.testing.assert_close(t.log_abs_det_jacobian(x, y), torch.tensor(2.0))


def test_shapes_and_constraints() -> None:
    reshape = to_transform(fk.bijectors.Reshape((6,), (2, 3)))
    assert reshape.forward_shape(torch.Size([5, 6])) == (5, 2, 3) and reshape.inverse_shape((2, 3)) == (6,)
    assert (reshape.domain.event_dim, reshape.codomain.event_dim) == (1, 2)
    box = to_transform(fk.bijectors.ToBox(0.0, 2.0, (2,)))
    assert box.codomain.check(torch.tensor([[0.5, 1.0], [0.5, 3.0]])).tolist() == [True, False]
    assert D.biject_to(box.codomain)(torch.zeros(2)).tolist() == [1.0, 1.0]
    assert isinstance(to_transform(fk.bijectors.Exp(())).domain, type(constraints.real))
    scalar = D.TransformedDistribution(D.Normal(0.0, 1.0), [to_transform(fk.bijectors.Exp(()))])
    torch.testing.assert_close(scalar.log_prob(torch.tensor(2.0)), D.LogNormal(0.0, 1.0).log_prob(torch.tensor(2.0)))
    with pytest.raises(ShapeError, match="needs a context"):
        to_transform(coupling(2))
    with pytest.raises(ShapeError, match="takes no context"):
        to_transform(coupling(), torch.zeros(2))
    assert copy.deepcopy(box)(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_density_flows_are_not_inverted_the_slow_way() -> None:
    made = fk.bijectors.Autoregressive(3, fk.univariates.Affine(), (8,))
    for f in (~made, (~made) >> fk.bijectors.Permutation.reverse(3), fk.bijectors.Chain([Inverse(made)])):
        t = to_transform(f)
        y = torch.randn(4, 3)
        x = t.inv(y)
        calls: list[int] = []
        handle = made.net.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        log_det = t.log_abs_det_jacobian(x, y)
        handle.remove()
        assert len(calls) == 1
        torch.testing.assert_close(log_det, f(x)[1], rtol=0, atol=1e-5)


def test_there_and_back() -> None:
    f = coupling()
    assert to_bijector(to_transform(f)) is f
    t = T.ExpTransform()
    assert to_transform(to_bijector(t)) is t
