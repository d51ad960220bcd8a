"""Planar, radial, Sylvester and block neural layers against Pyro, scipy's root finders, autograd and closed forms; float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, fsolve
from torch import Tensor, nn

from flowkit.bijectors import BlockAutoregressive, BlockTriangular, GINCoupling, Planar, Radial, Sylvester
from flowkit.flows import BNAF, PlanarFlow, SylvesterFlow

FEATURES, ROWS = 4, 32


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _largest(value: Tensor) -> float:
    return value.detach().abs().max().item()


def _perturbed(module: Any, size: float = 0.7) -> Any:
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


@torch.no_grad()
def _set(ours: Any, **values: Tensor) -> None:
    for name, value in values.items():
        ours.learned.values[name].copy_(value)


def _raw(value: Tensor, floor: float = 1e-3) -> Tensor:
    """What softplus and the floor make ``value`` from."""
    return value - floor + torch.log(-torch.expm1(floor - value))


def _like_pyro(ours: Any, theirs: Any, tolerance: float = 1e-11) -> None:
    """Same forward and log_det; ours inverts values that come from nowhere, theirs only what it has just computed."""
    z = 2 * torch.randn(ROWS, FEATURES, dtype=torch.float64)
    x, log_det = ours(z)
    wanted = theirs(z)
    torch.testing.assert_close(x, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(z, wanted), rtol=tolerance, atol=tolerance)
    data = 3 * torch.randn(ROWS, FEATURES, dtype=torch.float64)
    with pytest.raises(KeyError, match="intermediates cache"):
        theirs.inv(data)
    back, log_det = ours.inverse(data)
    torch.testing.assert_close(theirs(back), data, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, -theirs.log_abs_det_jacobian(back, theirs(back)), rtol=tolerance, atol=tolerance)


def _pyro() -> Any:
    pytest.importorskip("pyro")
    import pyro.distributions.transforms as transforms

    return transforms


def test_planar_against_pyro() -> None:
    """Pyro moves u along w until softplus(w.u) - 1 is reached: its u from our u_hat."""
    theirs, ours = _pyro().Planar(FEATURES).double(), _perturbed(Planar(FEATURES))
    w, b, u_hat, factor, _ = ours._parts(None)
    with torch.no_grad():
        theirs.w.copy_(w)
        theirs.bias.copy_(b)
        theirs.u.copy_(u_hat + (torch.log(torch.expm1(1 + factor)) - factor) * w / w.square().sum())
    _like_pyro(ours, theirs)


def test_radial_against_pyro() -> None:
    theirs, ours = _perturbed(_pyro().Radial(FEATURES)), Radial(FEATURES).double()
    alpha, gamma = nn.functional.softplus(theirs.alpha_prime), nn.functional.softplus(theirs.beta_prime)
    _set(ours, centre=theirs.x0, alpha=_raw(alpha), gamma=_raw(gamma))
    _like_pyro(ours, theirs)


def test_sylvester_against_pyro() -> None:
    """Pyro multiplies rows, so its R and S act transposed: with Q = I there they are ours for the Q that turns the order around.

    (For other Q its log-det is not that of its map: R^T Q^T and Q S^T leave no triangular product.)
    """
    theirs, ours = _perturbed(_pyro().Sylvester(FEATURES, count_transforms=2)), Sylvester(FEATURES, FEATURES, reflections=2).double()
    with torch.no_grad():
        theirs.u_unnormed[1] = theirs.u_unnormed[0]
        theirs.S_diag.abs_()
    right, left = theirs.R().mT.flip(0, 1), theirs.S().mT.flip(0, 1)
    turned = torch.tensor([[1.0, 0, 0, -1], [0, 1, -1, 0]])
    _set(ours, directions=turned, factors=right.triu(1) + left.mT.tril(-1), b=theirs.b.flip(0))
    _set(ours, scale=_raw(left.diagonal()), gap=_raw(1 + left.diagonal() * right.diagonal()))
    _like_pyro(ours, theirs, 1e-7)  # its log_det adds 1e-8 inside the logarithm


def test_sylvester_is_the_papers_formula() -> None:
    ours, z = _perturbed(Sylvester(5, 3)), torch.randn(5, dtype=torch.float64)
    values, right, left, _ = ours._parts(None)
    orthogonal = torch.eye(5, dtype=torch.float64)
    for v in values["directions"]:
        orthogonal = orthogonal @ (torch.eye(5, dtype=torch.float64) - 2 * torch.outer(v, v) / v.dot(v))
    q = orthogonal[:, :3]
    torch.testing.assert_close(ours(z)[0], z + q @ right @ torch.tanh(left @ q.mT @ z + values["b"]), rtol=1e-12, atol=1e-12)
    assert bool((right.diagonal() * left.diagonal() > -1).all()) and not bool(right.tril(-1).any() or left.tril(-1).any())


MAPS: dict[str, Any] = {
    "planar": lambda: Planar(3),
    "planar_conditional": lambda: Planar(3, context_features=2, hidden=(4,)),
    "radial": lambda: Radial(3),
    "sylvester": lambda: Sylvester(3, 2),
    "sylvester_conditional": lambda: Sylvester(3, 3, context_features=2),
    "block_autoregressive": lambda: BlockAutoregressive(3, (4, 4)),
    "block_autoregressive_conditional": lambda: BlockAutoregressive(3, (4,), context_features=2),
}


@pytest.mark.parametrize("name", MAPS)
def test_inverse_against_scipy(name: str) -> None:
    """A general root finder on the forward formula, in all dimensions at once."""
    ours = _perturbed(MAPS[name]())
    context = torch.randn(6, 2, dtype=torch.float64) if ours.context_shape else None
    x = 2 * torch.randn(6, 3, dtype=torch.float64)
    z, _ = ours.inverse(x, context)
    for i in range(len(x)):
        row = None if context is None else context[i]

        def residual(point: np.ndarray, i: int = i, row: Tensor | None = row) -> np.ndarray:
            with torch.no_grad():
                return (ours(torch.as_tensor(point), row)[0] - x[i]).numpy()

        found, _, status, message = fsolve(residual, x[i].numpy(), xtol=1e-13, full_output=True)
        if status != 1:  # it gives up on some points: ours must solve the equation all the same
            assert float(np.abs(residual(z[i].detach().numpy())).max()) < 1e-10, message
            continue
        np.testing.assert_allclose(z[i].detach().numpy(), found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in MAPS if not name.startswith("radial")])
def test_second_derivatives_through_the_root(name: str) -> None:
    ours = _perturbed(MAPS[name](), 0.3)
    context = (torch.randn(2, 2, dtype=torch.float64),) if ours.context_shape else ()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    parameters = list(ours.learned.values.values())
    assert torch.autograd.gradcheck(lambda x, *_: ours.inverse(x, *context), (x, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: ours.inverse(x, *context)[0], (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("product", [-1e4, -30.0, -1.0, 0.0, 50.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_planar_at_the_edge_of_invertibility(product: float, dtype: torch.dtype) -> None:
    """w.u from -1e4, where the slope is 1e-4 at the middle, to 1e4: the root is scipy's and the value comes back."""
    ours = Planar(1).to(dtype)
    _set(ours, w=torch.ones(1), u=torch.full((1,), product), b=torch.full((1,), 0.25))
    x = torch.tensor([-1e3, -1.0, -1e-3, 0.0, 0.1, 2.0, 1e3], dtype=dtype).unsqueeze(-1)
    z, log_det = ours.inverse(x)
    back, forward = ours(z)
    rounding = torch.finfo(dtype).eps * (1 + x.abs() + abs(product))  # of z, which forward then stretches by its slope
    assert bool(((back - x).abs() <= 8 * rounding * (1 + forward.exp().unsqueeze(-1))).all())
    torch.testing.assert_close(log_det, -forward, rtol=1e-5, atol=1e-5)
    if dtype == torch.float64:
        u_hat = product / (1 + np.logaddexp(0, -product))
        for got, y in zip(z.flatten().tolist(), x.flatten().tolist(), strict=True):
            wanted = brentq(lambda v, y=y: v + u_hat * np.tanh(v + 0.25) - y, y - abs(u_hat) - 1, y + abs(u_hat) + 1, xtol=1e-14, rtol=1e-14)
            assert abs(got - wanted) <= 1e-9 * (1 + abs(wanted))


def test_planar_without_a_direction() -> None:
    """At w = 0 the paper's u_hat divides by zero; here the map is a shift, with finite gradients, and continuous in w."""
    ours = _perturbed(Planar(3))
    _set(ours, w=torch.zeros(3))
    z = torch.randn(5, 3, dtype=torch.float64)
    x, log_det = ours(z)
    shift = (x - z).detach()
    assert not bool(log_det.any()) and _largest(shift - shift[0]) < 1e-15
    (x.sum() + log_det.sum() + ours.inverse(x)[0].sum()).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in ours.parameters())
    _set(ours, w=torch.full((3,), 1e-9))
    torch.testing.assert_close(ours(z)[0], x, rtol=0, atol=1e-7)


def test_radial_at_its_centre() -> None:
    """There the Jacobian is (gamma / alpha) I and all gradients are finite."""
    ours = _perturbed(Radial(3))
    centre, alpha, gamma = ours._parts(None)
    z = centre.detach().clone().requires_grad_()
    for call, slope in ((ours, gamma / alpha), (ours.inverse, alpha / gamma)):
        matrix = torch.autograd.functional.jacobian(lambda z, call=call: call(z)[0], z)
        torch.testing.assert_close(matrix, (slope * torch.eye(3)).double(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(call(z)[1], 3 * slope.log().squeeze(), rtol=1e-12, atol=1e-12)
        for gradient in torch.autograd.grad(call(z)[0].sum() + call(z)[1], [z, *ours.parameters()]):
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("beta", [-0.998, -0.5, 0.0, 10.0, 1e6])
def test_radial_distance_is_the_root(beta: float) -> None:
    """The closed root against bisection, from far inside to far outside, where the textbook formula cancels."""
    ours = Radial(1).double()
    _set(ours, centre=torch.zeros(1), alpha=_raw(torch.ones(1, dtype=torch.float64)), gamma=_raw(torch.full((1,), 1 + beta, dtype=torch.float64)))
    for s in (1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e8):
        wanted = brentq(lambda r, s=s: r * (1 + r + beta) / (1 + r) - s, 0, 2e3 * s + 1, xtol=1e-300, rtol=1e-14)
        got = ours.inverse(torch.tensor([s], dtype=torch.float64))[0].item()
        assert abs(got - wanted) <= 1e-9 * wanted + 1e-15


@pytest.mark.parametrize("hidden", [(8,), (8, 8), (3, 5, 2)])
def test_block_autoregressive_log_det(hidden: tuple[int, ...]) -> None:
    """Against slogdet of autograd's Jacobian, lower triangular, at ordinary points and where all units are saturated."""
    ours = _perturbed(BlockAutoregressive(5, hidden), 0.5)
    for scale in (1.0, 10.0, 1e3):
        z = scale * torch.randn(4, 5, dtype=torch.float64)
        _, log_det = ours(z)
        for i in range(len(z)):
            matrix = torch.autograd.functional.jacobian(lambda z: ours(z)[0], z[i])
            assert _largest(matrix.triu(1)) == 0.0 and matrix.diagonal().min().item() > 0
            torch.testing.assert_close(log_det[i], torch.linalg.slogdet(matrix).logabsdet, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("gate", [-5.0, 0.0, 5.0, 20.0])
def test_block_autoregressive_is_onto(gate: float) -> None:
    """Every far point has a preimage, also with gates that leave a slope of 2e-9 outside the network's reach."""
    ours = _perturbed(BlockAutoregressive(4, (8, 8)), 0.5)
    _set(ours, gate=torch.full((4,), gate))
    for radius in (1.0, 30.0, 1e3):
        x = radius * nn.functional.normalize(torch.randn(8, 4, dtype=torch.float64), dim=-1)
        z, log_det = ours.inverse(x)
        back, forward = ours(z)
        assert _largest(back - x) <= 1e-9 * radius
        torch.testing.assert_close(log_det, -forward, rtol=1e-6, atol=1e-6)


def test_block_autoregressive_derivative_survives_saturation() -> None:
    """The slope of tanh units at 500 is exp(-998); its logarithm is kept where plain numbers would give -inf."""
    ours = BlockAutoregressive(1, (2,)).double()
    _set(ours, gate=torch.full((1,), 1e4))  # no straight part left: 1 - g = exp(-1e4)
    with torch.no_grad():
        for weight in ours.log_weights:
            weight.zero_()
    _set(ours, bias_0=torch.zeros(1, 2))
    _, log_det = ours(torch.tensor([500.0], dtype=torch.float64))
    assert abs(log_det.item() - (2 * np.log(2) - 1000 + np.log(2))) < 1e-9


def test_gin_keeps_volumes() -> None:
    """det = 1 to rounding, scales that are not all one, and the affine coupling's formula with centred log-scales."""
    ours = _perturbed(GINCoupling(6, (8,), (True, True, False, True, False, False), activation="tanh"), 0.5)
    z = torch.randn(7, 6, dtype=torch.float64)
    x, log_det = ours(z)
    assert _largest(log_det) == 0.0
    for i in range(len(z)):
        matrix = torch.autograd.functional.jacobian(lambda z: ours(z)[0], z[i])
        assert _largest(torch.linalg.slogdet(matrix).logabsdet) < 1e-12
        assert _largest(matrix.diagonal() - 1) > 1e-2
    shift, raw = ours._net(z[:, [2, 4, 5]], None).unflatten(-1, (3, 2)).unbind(-1)
    scale = 5 * torch.tanh(raw / 5)
    torch.testing.assert_close(x[:, [0, 1, 3]], z[:, [0, 1, 3]] * torch.exp(scale - scale.mean(-1, keepdim=True)) + shift, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("blocks", [1, 3, (2, 1, 3), (6,)])
def test_block_triangular_structure(blocks: Any) -> None:
    ours = _perturbed(BlockTriangular(6, blocks))
    matrix = ours.matrix()
    sizes = [blocks] * (6 // blocks) if isinstance(blocks, int) else list(blocks)
    member = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    allowed = member[:, None] >= member
    assert bool(((matrix != 0) == allowed).all())
    x = torch.randn(5, 6, dtype=torch.float64)
    z, log_det = ours.inverse(x)
    torch.testing.assert_close(z, torch.linalg.solve(matrix, (x - ours.learned.values["shift"]).mT).mT, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, -torch.linalg.slogdet(matrix).logabsdet.expand(5), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "flow", [lambda: PlanarFlow(3, layers=6), lambda: SylvesterFlow(3, layers=3), lambda: BNAF(3, layers=2)], ids=["planar", "sylvester", "bnaf"]
)
def test_recipes_score_data_they_never_saw(flow: Any) -> None:
    """log_prob is that of autograd's Jacobian of the sampling side at the latents found."""
    ours = _perturbed(flow(), 0.4)
    x = 2 * torch.randn(4, 3, dtype=torch.float64)
    z = ours.to_latent(x).detach()
    for i in range(len(x)):
        volume = torch.linalg.slogdet(torch.autograd.functional.jacobian(ours.to_data, z[i])).logabsdet
        torch.testing.assert_close(ours.log_prob(x[i]), ours.base.log_prob(z[i]) - volume, rtol=1e-8, atol=1e-8)
