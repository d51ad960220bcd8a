"""Linear maps against explicit matrices built from their parameters, and against peers with copied parameters; float64."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import (
    CholeskyLinear,
    DiagonalPlusLowRank,
    Householder,
    KroneckerLinear,
    Linear,
    LowRankLinear,
    LULinear,
    Orthogonal,
    Permutation,
    PermuteAxes,
    QRLinear,
    RankOneLinear,
    Rotation,
    SVDLinear,
    TriangularLinear,
)
from flowkit.bijectors._matrices import reflect
from flowkit.bijectors._matrices import reflections as compact_reflections
from flowkit.core.errors import ConfigError

D, ROWS = 5, 32
EYE = torch.eye(D, dtype=torch.float64)
MAKERS: dict[str, Callable[..., Any]] = {
    "cholesky": lambda **more: CholeskyLinear(D, **more),
    "diagonal_plus_low_rank": lambda **more: DiagonalPlusLowRank(D, 2, **more),
    "low_rank": lambda **more: LowRankLinear(D, 2, **more),
    "low_rank_full": lambda **more: LowRankLinear(D, D, **more),
    "linear": lambda **more: Linear(D, start="rotation", **more),
    "lu": lambda **more: LULinear(D, order=(2, 0, 3, 1, 4), **more),
    "qr": lambda **more: QRLinear(D, **more),
    "rank_one": lambda **more: RankOneLinear(D, 3, **more),
    "svd": lambda **more: SVDLinear(D, **more),
    "triangular": lambda **more: TriangularLinear(D, **more),
    "triangular_upper": lambda **more: TriangularLinear(D, upper=True, **more),
    "kronecker": lambda **more: KroneckerLinear(1, D, flat=True, **more),
    "cayley": lambda **more: Orthogonal(D, **more),
    "exp": lambda **more: Orthogonal(D, form="exp", **more),
    "rotation": lambda **more: Rotation(D, **more),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def noisy(layer: Any, spread: float = 0.4) -> Any:
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return layer


def near(got: Tensor, want: Tensor, tolerance: float = 1e-10) -> None:
    assert got.shape == want.shape
    error = float((got - want).detach().abs().max())
    assert error <= tolerance * max(1.0, float(want.detach().abs().max())), f"differs by {error:.2e}"


def values(layer: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in layer.learned.values.items()}


def shift_of(layer: Any) -> Tensor:
    shift = layer.shift if isinstance(layer, LULinear) else values(layer).get("shift")
    return torch.zeros(D, dtype=torch.float64) if shift is None else shift.detach()


def is_the_matrix(layer: Any, matrix: Tensor) -> None:
    """The map multiplies by that matrix and adds its shift, with its determinant and its inverse."""
    z = torch.randn(ROWS, D, dtype=torch.float64)
    shift, wanted = shift_of(layer), torch.linalg.slogdet(matrix).logabsdet.expand(ROWS)
    x, log_det = layer(z)
    near(x, z @ matrix.mT + shift)
    near(log_det, wanted)
    back, back_log_det = layer.inverse(z)
    near(back, torch.linalg.solve(matrix, (z - shift).mT).mT, 1e-9)
    near(back_log_det, -wanted)


def lower(entries: Tensor, diagonal: Tensor) -> Tensor:
    return entries.tril(-1) + torch.diag(diagonal)


def upper(entries: Tensor, diagonal: Tensor) -> Tensor:
    return entries.triu(1) + torch.diag(diagonal)


def reflections(directions: Tensor) -> Tensor:
    """H_m ... H_1 as a product of explicit matrices."""
    matrix = torch.eye(directions.shape[1], dtype=torch.float64)
    for v in directions:
        matrix = (torch.eye(len(v), dtype=torch.float64) - 2 * torch.outer(v, v) / v.dot(v)) @ matrix
    return matrix


# -- matrices written out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_slogdet_and_solve(name: str) -> None:
    layer = noisy(MAKERS[name]())
    is_the_matrix(layer, layer.matrix().detach())


def test_triangular_is_the_cholesky_map() -> None:
    layer = noisy(TriangularLinear(D))
    parts = values(layer)
    factor = lower(parts["entries"], parts["log_diagonal"].exp())
    is_the_matrix(layer, factor)
    flow = fk.Flow(fk.distributions.StandardNormal((D,)), layer)
    x = torch.randn(ROWS, D, dtype=torch.float64)
    near(flow.log_prob(x), torch.distributions.MultivariateNormal(parts["shift"], scale_tril=factor).log_prob(x))
    turned = noisy(TriangularLinear(D, upper=True, bias=False))
    is_the_matrix(turned, upper(values(turned)["entries"], values(turned)["log_diagonal"].exp()))


def test_cholesky() -> None:
    layer = noisy(CholeskyLinear(D))
    parts = values(layer)
    factor = lower(parts["entries"], parts["log_diagonal"].exp())
    is_the_matrix(layer, factor @ factor.mT)
    near(torch.linalg.cholesky(layer.matrix()), factor)


def test_qr() -> None:
    layer = noisy(QRLinear(D))
    parts = values(layer)
    is_the_matrix(layer, reflections(parts["directions"]) @ upper(parts["entries"], parts["log_diagonal"].exp()))


def test_svd_and_its_condition() -> None:
    layer = noisy(SVDLinear(D, condition=50.0), 3.0)
    parts = values(layer)
    bound = torch.tensor(50.0).double().log() / 2
    logs = parts["log_scale"] + parts["raw"] / (1 + (parts["raw"] / bound) ** 2) ** 0.5
    is_the_matrix(layer, reflections(parts["left"]) @ torch.diag(logs.exp()) @ reflections(parts["right"]))
    near(torch.linalg.svdvals(layer.matrix()), logs.exp().sort(descending=True).values)
    assert bool(torch.linalg.cond(layer.matrix()) < 50.0)
    with pytest.raises(ConfigError, match="condition > 1"):
        SVDLinear(D, condition=1.0)


@pytest.mark.parametrize("spread", [0.4, 3.0])
def test_low_rank_is_invertible_anywhere(spread: float) -> None:
    """The updates have the stated rank, and a positive determinant however large the parameters are."""
    for seed in range(20):
        torch.manual_seed(seed)
        layer, scaled = noisy(LowRankLinear(D, 2), spread), noisy(DiagonalPlusLowRank(D, 2), spread)
        diagonal = torch.diag(values(scaled)["log_diagonal"].exp())
        for update, matrix in ((layer.matrix() - EYE, layer.matrix()), (scaled.matrix() - diagonal, scaled.matrix())):
            sizes = torch.linalg.svdvals(update.detach())
            assert float(sizes[2] / sizes[0]) < 1e-10 and float(sizes[1] / sizes[0]) > 1e-6
            sign, log_det = torch.linalg.slogdet(matrix.detach())
            assert bool(sign == 1.0)
            z = torch.randn(1, D, dtype=torch.float64)
            near((layer if matrix.equal(layer.matrix()) else scaled)(z)[1], log_det[None], 1e-6)


def test_low_rank_reaches_any_update() -> None:
    """A given I + U V^T whose I_k + V^T U has positive pivots, shears with v.u = 0 included, is reached exactly."""
    u, _ = torch.linalg.qr(torch.randn(D, 2, dtype=torch.float64))
    small = torch.tensor([[1.7, -0.4], [0.9, 0.8]], dtype=torch.float64)
    across = torch.randn(2, D, dtype=torch.float64)
    v = u @ (small - torch.eye(2)).mT + (across @ (EYE - u @ u.mT)).mT
    layer = LowRankLinear(D, 2, bias=False).double()
    packed, scales = torch.geqrf(u)
    directions = (packed.tril(-1) + torch.eye(D, 2)).mT
    signs = packed.diagonal().sign()  # geqrf's Q differs from u by these signs
    turned = torch.diag(signs) @ small @ torch.diag(signs)
    pivot = turned[1, 0] / turned[0, 0]
    with torch.no_grad():
        own = layer.learned.values
        own["directions"].copy_(directions.flip(0))
        own["across"].copy_(torch.diag(signs) @ across)
        own["factors"].copy_(torch.tensor([[0.0, float(turned[0, 1])], [float(pivot), 0.0]], dtype=torch.float64))
        own["log_pivots"].copy_(torch.stack([turned[0, 0], turned[1, 1] - pivot * turned[0, 1]]).log())
    assert bool((scales != 0).all())
    is_the_matrix(layer, EYE + u @ v.mT)


def test_kronecker() -> None:
    for flat in (False, True):
        layer = noisy(KroneckerLinear(2, 3, flat=flat))
        parts = values(layer)
        a, b = (
            lower(parts[f"{side}_factors"], torch.ones(size).double()) @ upper(parts[f"{side}_factors"], parts[f"{side}_log_diagonal"].exp())
            for side, size in (("left", 2), ("right", 3))
        )
        product = torch.kron(a, b)
        near(layer.matrix(), product)
        z = torch.randn(ROWS, *layer.in_shape, dtype=torch.float64)
        x, log_det = layer(z)
        near(x.flatten(1), z.flatten(1) @ product.mT + parts["shift"].flatten())
        near(log_det, torch.linalg.slogdet(product).logabsdet.expand(ROWS))
        near(layer.inverse(z)[0].flatten(1), torch.linalg.solve(product, (z - parts["shift"]).flatten(1).mT).mT)


def test_rank_one() -> None:
    layer = noisy(RankOneLinear(D, 3))
    parts, matrix = values(layer), EYE
    for w, v in zip(parts["free"], parts["normal"], strict=True):
        a = w.dot(v)
        u = w + (a.exp() - 1 - a) * v / v.dot(v)
        near(1 + u.dot(v), a.exp())
        matrix = (EYE + torch.outer(u, v)) @ matrix
    is_the_matrix(layer, matrix)


def test_orthogonal_forms() -> None:
    cayley, exponential = noisy(Orthogonal(D)), noisy(Orthogonal(D, form="exp"))
    for layer, formula in ((cayley, lambda a: torch.linalg.inv(EYE + a) @ (EYE - a)), (exponential, torch.linalg.matrix_exp)):
        skew = torch.zeros(D, D, dtype=torch.float64)
        row, column = torch.tril_indices(D, D, -1)
        skew[row, column] = values(layer)["skew"]
        matrix = formula(skew - skew.mT)
        near(matrix @ matrix.mT, EYE)
        is_the_matrix(layer, matrix)


def test_rotation() -> None:
    layer = noisy(Rotation(D, planes=((0, 3), (1, 2), (4, 1), (3, 0))))
    matrix = EYE
    for (i, j), angle in zip(layer.planes, values(layer)["angles"], strict=True):
        plane = EYE.clone()
        plane[i, i] = plane[j, j] = angle.cos()
        plane[i, j], plane[j, i] = -angle.sin(), angle.sin()
        matrix = plane @ matrix
    is_the_matrix(layer, matrix)


@pytest.mark.parametrize("features", [2, 3, 4, 5, 8])
def test_rotation_turns_every_plane_once(features: int) -> None:
    layer = Rotation(features)
    pairs = layer._pairs()
    assert sorted(pairs) == [(i, j) for i in range(features) for j in range(i + 1, features)]
    assert len(layer.partner) == features - 1 + features % 2


def test_far_from_the_start_orthogonal_maps_stay_orthogonal() -> None:
    for layer in (Orthogonal(D), Orthogonal(D, form="exp"), Rotation(D), Householder(D, 4)):
        matrix = noisy(layer, 10.0)(EYE)[0]
        near(matrix @ matrix.mT, EYE, 1e-11)


def test_float32_solves_are_backward_stable() -> None:
    """On the Hilbert matrix, of condition 5e5, the residual stays at rounding level: a solve, not an explicit inverse."""
    i = torch.arange(D, dtype=torch.float32)
    layer = Linear(D, bias=False)
    with torch.no_grad():
        layer.learned.values["weight"].copy_(1 / (i[:, None] + i + 1))
        x = torch.randn(ROWS, D)
        z, log_det = layer.inverse(x)
        residual = (layer(z)[0] - x).norm(dim=-1) / (layer.matrix().norm() * z.norm(dim=-1))
        assert float(residual.max()) < 1e-6
        near(log_det.double(), -torch.linalg.slogdet(layer.matrix().double()).logabsdet.expand(ROWS), 1e-2)


def test_a_singular_free_matrix_says_so() -> None:
    layer = Linear(2)
    with torch.no_grad():
        layer.learned.values["weight"].copy_(torch.ones(2, 2))
    assert float(layer(torch.randn(2))[1]) == float("-inf")


# -- peers ------------------------------------------------------------------------------------------------------------


def both(ours: Any, theirs: Any, directions: tuple[str, ...] = ("forward", "inverse")) -> None:
    """Their own inverses of QR, LU and the free matrix call functions that torch has dropped; ours undoes their forward instead."""
    value = torch.randn(ROWS, D, dtype=torch.float64)
    x, log_det = theirs.forward(value)
    near(ours.inverse(x)[0], value, 1e-9)
    near(ours.inverse(x)[1], -log_det, 1e-9)
    for direction in directions:
        for got, want in zip(getattr(ours, direction)(value), getattr(theirs, direction)(value), strict=True):
            near(got, want)


def fill(layer: Any, **given: Tensor) -> Any:
    layer = layer.double()
    with torch.no_grad():
        for name, parameter in layer.learned.values.items():
            parameter.copy_(given[name])
    return layer


def test_nflows_naive() -> None:
    peer = pytest.importorskip("nflows.transforms")
    theirs = noisy(peer.NaiveLinear(D))
    both(fill(Linear(D), weight=theirs._weight, shift=theirs.bias), theirs, ("forward",))


def test_nflows_qr() -> None:
    peer = pytest.importorskip("nflows.transforms")
    theirs = noisy(peer.QRLinear(D, 4))
    directions = theirs.orthogonal.q_vectors
    entries = theirs._create_upper().detach()
    both(fill(QRLinear(D, reflections=4), directions=directions, entries=entries, log_diagonal=theirs.log_upper_diag, shift=theirs.bias), theirs, ("forward",))


def test_nflows_svd() -> None:
    peer = pytest.importorskip("nflows.transforms")
    theirs = noisy(peer.SVDLinear(D, 4))
    ours = SVDLinear(D, reflections=4, condition=1e4)
    logs, bound = theirs.log_diagonal, torch.tensor(1e4).double().log() / 2
    raw = logs / (1 - (logs / bound) ** 2) ** 0.5
    filled = fill(ours, raw=raw, log_scale=torch.zeros(1), left=theirs.orthogonal_1.q_vectors, right=theirs.orthogonal_2.q_vectors, shift=theirs.bias)
    value = torch.randn(ROWS, D, dtype=torch.float64)
    for got, want in zip(filled(value.clone()), theirs.forward(value.clone()), strict=True):
        near(got, want)
    for got, want in zip(filled.inverse(value.clone()), theirs.inverse(value.clone()), strict=True):
        near(got, want)


def test_zuko_rotation() -> None:
    zuko = pytest.importorskip("zuko.transforms")
    a = torch.randn(D, D, dtype=torch.float64)
    theirs = zuko.RotationTransform(a)
    row, column = torch.tril_indices(D, D, -1)
    ours = fill(Orthogonal(D, form="exp"), skew=(a - a.mT)[row, column])
    z = torch.randn(ROWS, D, dtype=torch.float64)
    near(ours(z)[0], theirs(z))
    near(ours.inverse(z)[0], theirs.inv(z))


def test_zuko_lu() -> None:
    """Theirs has the diagonal in L, ours in U."""
    zuko = pytest.importorskip("zuko.transforms")
    ours = noisy(LULinear(D, bias=False))
    assert ours.factors is not None
    diagonal = ours.log_diagonal.exp()
    theirs = zuko.LULinearTransform(((ours.factors.tril(-1) + EYE) * diagonal + ours.factors.triu(1) / diagonal[:, None]).detach())
    z = torch.randn(ROWS, D, dtype=torch.float64)
    near(ours(z)[0], theirs(z))
    near(ours(z)[1], theirs.log_abs_det_jacobian(z, theirs(z)))
    near(ours.inverse(z)[0], theirs.inv(z))


def test_pyro_householder() -> None:
    transforms = pytest.importorskip("pyro.distributions.transforms")
    theirs = transforms.Householder(D, count_transforms=3).double()
    ours = Householder(D, 3).double()
    ours.load_state_dict({"directions": theirs.u_unnormed.detach()})
    z = torch.randn(ROWS, D, dtype=torch.float64)
    near(ours(z)[0], theirs(z))
    near(ours.inverse(theirs(z))[0], z)
    near(ours.inverse(z)[0], theirs._inverse(z))


def test_pyro_conditioned_householder() -> None:
    """One set of directions for each event."""
    transforms = pytest.importorskip("pyro.distributions.transforms.householder")
    ours = noisy(Householder(D, 3, context_features=2, hidden=(4,)))
    context, z = torch.randn(ROWS, 2, dtype=torch.float64), torch.randn(ROWS, D, dtype=torch.float64)
    theirs = transforms.ConditionedHouseholder(ours._directions_at(context).detach())
    near(ours(z, context)[0], theirs(z))
    near(ours.inverse(z, context)[0], theirs._inverse(z))


# -- conditional forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MAKERS, "householder"])
def test_a_constant_context_is_the_unconditional_map(name: str) -> None:
    """Each event's matrix is that of the unconditional map with the parameters that its context gives."""
    make = MAKERS.get(name, lambda **more: Householder(D, 3, **more))
    conditional = noisy(make(context_features=2, hidden=(4,)))
    contexts = torch.randn(3, 2, dtype=torch.float64)
    z = torch.randn(3, ROWS, D, dtype=torch.float64)
    x, log_det = conditional(z, contexts[:, None])
    back, back_log_det = conditional.inverse(z, contexts[:, None])
    for i, context in enumerate(contexts):
        plain = _at(conditional, make().double(), context)
        for got, want in zip((x[i], log_det[i], back[i], back_log_det[i]), (*plain(z[i]), *plain.inverse(z[i])), strict=True):
            near(got, want, 1e-11)
    if name != "householder":
        near(conditional.matrix(contexts)[1], _at(conditional, make().double(), contexts[1]).matrix())


def _at(conditional: Any, plain: Any, context: Tensor) -> Any:
    """The unconditional map with the conditional one's parameters at a context."""
    with torch.no_grad():
        if isinstance(plain, Householder):
            plain.directions.copy_(conditional._directions_at(context))
        else:
            plain._filled(**conditional._parts(context, torch.float64))
    return plain


@pytest.mark.parametrize("name", [*MAKERS, "householder"])
def test_a_context_changes_nothing_at_the_start(name: str) -> None:
    make = MAKERS.get(name, lambda **more: Householder(D, 3, **more))
    layer = make(context_features=2).double()
    z, contexts = torch.randn(2, D, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    near(layer(z, contexts)[0], layer(z, contexts.flip(0))[0], 1e-14)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("linear", "lu")])
def test_starts_at_the_identity(name: str) -> None:
    near(MAKERS[name]().double()(EYE)[0], EYE, 1e-12)


def test_unconditional_state_names_are_kept() -> None:
    """Checkpoints of earlier versions load."""
    assert list(LULinear(3).state_dict()) == ["factors", "log_diagonal", "shift", "sign"]
    assert list(Householder(3).state_dict()) == ["directions"]


def test_the_matrix_of_reflections() -> None:
    """The compact form is the product of the reflections one by one; a zero direction reflects nothing, with finite gradients."""
    directions = torch.randn(3, 4, D, dtype=torch.float64)
    directions[1, 2] = 0
    directions.requires_grad_()
    eye = EYE.expand(3, D, D)
    near(compact_reflections(directions), reflect(eye, directions.unsqueeze(-3)).mT)
    near(compact_reflections(directions)[0], reflections(directions[0].detach()))
    (gradient,) = torch.autograd.grad(compact_reflections(directions).square().cumsum(-1).sum(), directions)
    assert bool(gradient.isfinite().all())


# -- the algebra, and permutations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "lu", "qr", "triangular", "triangular_upper", "cayley", "exp", "rotation"])
def test_products_stay_in_the_family(name: str) -> None:
    first, second = noisy(MAKERS[name]()), noisy(MAKERS[name]())
    merged = first.merge(second)
    assert type(merged) is type(first)
    is_the_matrix(merged, (second.matrix() @ first.matrix()).detach())
    near(merged(EYE)[0], second(first(EYE)[0])[0])
    near(merged.inverse(EYE)[0], first.inverse(second.inverse(EYE)[0])[0], 1e-9)
    near(merged(EYE)[1], first(EYE)[1] + second(EYE)[1])
    assert MAKERS[name](context_features=1).merge(second) is None and first.merge(MAKERS[name](context_features=1)) is None


@pytest.mark.parametrize("name", ["linear", "lu", "qr", "svd", "triangular", "cayley", "exp", "rotation"])
def test_inverses_stay_in_the_family(name: str) -> None:
    layer = noisy(MAKERS[name]())
    turned = layer.inverted()
    assert type(turned) is type(layer) and MAKERS[name](context_features=1).inverted() is None
    for got, want in zip((*turned(EYE), *turned.inverse(EYE)), (*layer.inverse(EYE), *layer(EYE)), strict=True):
        near(got, want, 1e-9)


def test_rotations_by_half_a_turn_do_not_merge() -> None:
    """Cayley's form cannot hold an eigenvalue -1; the chain is then left as it is."""
    quarter = fill(Orthogonal(2, form="exp"), skew=torch.tensor([torch.pi / 2], dtype=torch.float64))
    assert quarter.merge(quarter) is None
    near((quarter >> quarter).simplify()(torch.eye(2).double())[0], -torch.eye(2).double(), 1e-12)


def test_permutations() -> None:
    image = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(Permutation.reverse(2, rank=3)(image)[0], image.flip(0))
    orders = [Permutation.random(50, seed=seed).order for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    axes = (1, 2, 0)
    layer = PermuteAxes((2, None, None), axes)
    assert layer.out_shape == (None, None, 2)
    assert torch.equal(layer(image)[0], image.permute(axes))
    assert torch.equal(layer.inverse(image.permute(axes))[0], image)
    assert torch.equal((layer >> ~layer).simplify()(image)[0], image)
    moves = [PermuteAxes((2, 3, 4), axes)]
    for _ in range(2):
        moves.append(PermuteAxes(moves[-1].out_shape, axes))
    for before, after in pairwise(moves):
        merged = before.merge(after)
        assert merged is not None and merged.out_shape == after.out_shape
    assert type((moves[0] >> moves[1] >> moves[2]).simplify()).__name__ == "Identity"
    with pytest.raises(ConfigError, match=r"permutation of 0 \.\. 2"):
        PermuteAxes((2, 3, 4), (0, 1))


def test_every_parametric_map_of_the_family_is_conditional() -> None:
    for name, make in MAKERS.items():
        assert {"context_features", "hidden"} <= set(inspect.signature(type(make())).parameters), name
