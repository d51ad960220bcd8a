"""Single bijectors in the situations the property suite does not reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flowkit.bijectors import ActNorm, Affine, Autoregressive, Coupling, Elementwise, LULinear, NumericalInverse, ToBox
from flowkit.core.algebra import simplify
from flowkit.core.build import build
from flowkit.core.errors import NotInvertibleError, ShapeError
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.nets import MaskedMLP
from flowkit.univariates import RationalQuadraticSpline

AFFINE = {"name": "affine"}


def affine() -> Univariate:
    return build(AFFINE, Univariate)


def randomise(module: nn.Module, scale: float = 0.5) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))


@pytest.mark.parametrize("ends", [["linear", "bounded", "circular"], ["circular", "linear", "linear"]])
def test_mixed_ends_invert(ends: list[str]) -> None:
    torch.manual_seed(0)
    spline = RationalQuadraticSpline(4, 1.0, ends=ends)
    masks = [[True, False, False], [False, False, True], None]
    for layer in [Autoregressive(3, spline), Autoregressive(3, spline, passes=2), *(Coupling(3, spline, mask=mask) for mask in masks)]:
        randomise(layer.double(), 0.2)
        again = build(layer.describe(), Bijector).double()
        again.load_state_dict(layer.state_dict())
        z = 1.8 * torch.rand(7, 3, dtype=torch.float64) - 0.9
        x, log_det = layer(z)
        back, inverse_log_det = layer.inverse(x)
        torch.testing.assert_close(back, z, atol=1e-8, rtol=0)
        torch.testing.assert_close(inverse_log_det, -log_det, atol=1e-6, rtol=0)
        torch.testing.assert_close(again(z)[0], x)


def test_mixed_ends_where_one_kind_is_mapped() -> None:
    layer = Coupling(2, RationalQuadraticSpline(4, 1.0, ends=["linear", "circular"]))
    torch.testing.assert_close(layer(torch.zeros(5, 2))[0], torch.zeros(5, 2), atol=1e-6, rtol=0)
    assert layer.domain.low_buffer.tolist() == [-torch.inf, -1.0]


def jacobian_pattern(net: MaskedMLP, features: int) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(net, torch.randn(features, dtype=torch.float64))
    return jacobian != 0


@pytest.mark.parametrize("hidden", [(8, 8), (3,), (1,), (32, 4)])
@pytest.mark.parametrize("graph", ["order", "random"])
def test_masked_net_keeps_every_dependence_with_few_units(graph: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    full = torch.ones(20, 20, dtype=torch.bool).tril(-1)
    adjacency = full if graph == "order" else full & (torch.rand(20, 20) < 0.3)
    net = MaskedMLP(adjacency, 1, hidden, activation="tanh").double()
    randomise(net)
    assert torch.equal(jacobian_pattern(net, 20), adjacency)


def test_narrow_autoregressive_starts_as_the_identity() -> None:
    layer = Autoregressive(100, affine(), hidden=(64, 64), context_features=2)
    z = torch.randn(3, 100)
    assert torch.equal(layer(z, torch.randn(3, 2))[0], z)


def test_conditioner_of_the_wrong_size_is_refused() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return x.new_zeros(*x.shape[:-1], 2)

    with pytest.raises(ShapeError, match="outputs; got 2"):
        Coupling(4, affine(), conditioner=Net())(torch.zeros(3, 4))


def test_elementwise_mixed_ends_on_two_axes_has_a_domain() -> None:
    layer = Elementwise((2, 3), RationalQuadraticSpline(4, 1.0, ends=["linear", "bounded", "circular"]))
    assert layer.domain.event_shape == (2, 3)
    assert layer.domain.low_buffer.tolist() == [[-torch.inf, -1.0, -1.0]] * 2
    assert Elementwise((), affine()).domain.event_shape == ()


def test_numerical_inverse_checks_every_row() -> None:
    good = NumericalInverse(Affine((1,), scale=2.0))
    z, _ = good.inverse(torch.tensor([[torch.nan], [1.0]]))
    assert bool(z[0].isnan()) and z[1].item() == 0.5
    with pytest.raises(NotInvertibleError):  # the root, 1e50, is no float32
        NumericalInverse(Affine((1,), scale=1e-30)).inverse(torch.tensor([[torch.nan], [1e20]]))


def test_numerical_inverse_stays_in_the_domain() -> None:
    spline = NumericalInverse(Elementwise(2, RationalQuadraticSpline(4, (0.0, 1.0), ends="bounded")))
    torch.testing.assert_close(spline.inverse(torch.tensor([0.5, 0.3]))[0], torch.tensor([0.5, 0.3]))
    logit = NumericalInverse(~ToBox(0.0, 1.0, 1))
    torch.testing.assert_close(logit.inverse(torch.tensor([0.3]))[0], torch.tensor([0.3]).sigmoid())


def test_numerical_inverse_has_no_range_limit() -> None:
    for value in (2e9, -2e30):
        z, _ = NumericalInverse(Affine((1,), scale=1e-3)).inverse(torch.tensor([value]))
        torch.testing.assert_close(z, torch.tensor([1e3 * value]))


def test_numerical_inverse_in_inference_mode() -> None:
    layer = NumericalInverse(Elementwise(2, affine(), context_features=1))
    with torch.inference_mode():
        x, context = torch.randn(3, 2), torch.randn(3, 1)
        torch.testing.assert_close(layer.inverse(x, context)[0], x)


@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3)])
def test_lu_inverse_of_any_batch(batch: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    layer = LULinear(4, order=(2, 0, 3, 1))
    randomise(layer)
    z = torch.randn(*batch, 4)
    back, log_det = layer.inverse(layer(z)[0])
    torch.testing.assert_close(back, z, atol=1e-4, rtol=1e-4)
    assert log_det.shape == batch
    if batch == (5,):
        torch.testing.assert_close(torch.vmap(lambda row: layer.inverse(row)[0])(z), layer.inverse(z)[0])


def test_lu_inverse_in_bfloat16() -> None:
    layer = LULinear(4).bfloat16()
    z = torch.randn(5, 4).bfloat16()
    assert torch.equal(layer.inverse(z)[0], z)


def test_fresh_act_norms_do_not_merge() -> None:
    first, second = ActNorm(3), ActNorm(3)
    assert first.merge(second) is None and first.inverted() is None
    chain = simplify(first >> second)
    value = 5 + 3 * torch.randn(64, 3)
    chain.initialize(value)
    assert chain(value)[0].mean().abs() < 1e-5
    assert first.merge(ActNorm(3)) is None
    first.initialize(value)
    second.initialize(value)
    assert first.merge(second) is not None and first.inverted() is not None
