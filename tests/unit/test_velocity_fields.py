"""What is special to single velocity fields: symmetry, gates, starts, sizes, wrong arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.continuous import ConcatSquashField, DiTField, EGNNField, GradientField, MLPField, OTPotentialField, UNetField
from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.vector_field import VectorField
from flowkit.numerics.divergence import draw_probes, field_and_divergence

DOUBLE = torch.float64
T = torch.tensor(0.3, dtype=DOUBLE)


def perturbed(field: Any, size: float = 0.3) -> Any:
    generator = torch.Generator().manual_seed(0)
    field = field.double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE))
    return field


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# -- particles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_egnn_symmetry(dim: int) -> None:
    """Rotations, reflections and exchanges commute with the field, translations leave it, and the centre of mass stays: to 1e-12."""
    field = perturbed(EGNNField(5, dim, 8, 3))
    x = normal(4, 5, dim)
    v = field.velocity(T, x)
    frame = torch.linalg.qr(normal(dim, dim, seed=2)).Q
    mirror = torch.diag(torch.tensor([-1.0] + [1.0] * (dim - 1), dtype=DOUBLE))
    for turn in (frame, mirror, frame @ mirror):
        assert (field.velocity(T, x @ turn.mT) - v @ turn.mT).abs().max() <= 1e-12
    assert (field.velocity(T, x + normal(dim, seed=3)) - v).abs().max() <= 1e-11
    order = torch.tensor([3, 0, 4, 1, 2])
    assert (field.velocity(T, x[:, order]) - v[:, order]).abs().max() <= 1e-12
    assert v.mean(-2).abs().max() <= 1e-13 and v.abs().max() > 1e-2


def test_egnn_types() -> None:
    """Particles of one type may be exchanged, those of different types may not."""
    field = perturbed(EGNNField(4, 2, 8, 2, types=(0, 0, 1, 1)))
    x = normal(3, 4, 2)
    v = field.velocity(T, x)
    for order, same in (([1, 0, 2, 3], True), ([0, 1, 3, 2], True), ([2, 1, 0, 3], False)):
        gap = (field.velocity(T, x[:, order]) - v[:, order]).abs().max()
        assert (gap <= 1e-12) == same


def test_egnn_coincident_particles() -> None:
    """Two particles at one place: velocity, gradient and divergence are finite."""
    field = perturbed(EGNNField(3, 2, 6))
    x = torch.zeros(2, 3, 2, dtype=DOUBLE, requires_grad=True)
    v, divergence = field_and_divergence(field, T, x, mode="exact")
    (gradient,) = torch.autograd.grad(v.square().sum() + divergence.sum(), x)
    assert all(bool(torch.isfinite(found).all()) for found in (v, divergence, gradient))


# -- gates and times ----------------------------------------------------------------------------------------------------


def test_concat_squash_formula() -> None:
    """The gated layers are the formula of the docstring, layer by layer, also where gates go into the weights."""
    field = perturbed(ConcatSquashField(3, (5, 4), context_features=2))
    x, context, times = normal(6, 3), normal(6, 2, seed=2), torch.linspace(0, 1, 6, dtype=DOUBLE)
    sizes = [5, 4, 3]
    for t in (T, times):
        time = t.reshape(-1, 1)
        h = x
        for number, (layer, p, q, r) in enumerate(
            zip(field.layers, *(values.split(sizes) for values in (field.gate_slope, field.gate_bias, field.shift)), strict=True)
        ):
            extra = context @ field.context_layer.weight.mT if number == 0 else 0
            a = (h @ layer.weight.mT + layer.bias + extra) / (1 + torch.exp(-(p * time + q))) + r * time
            h = torch.tanh(a) if number < 2 else a
        assert (field.velocity(t, x, context) - h).abs().max() <= 1e-13


def test_mlp_is_one_of_the_joined_input() -> None:
    """MLPField is the perceptron of (x, t, context) joined, with the start that such a first layer would have."""
    torch.manual_seed(0)
    field = MLPField(3, (400, 4), context_features=2)
    joined = torch.cat([field.layers[0].weight, field.time.unsqueeze(-1), field.context_layer.weight], dim=-1).detach()  # type: ignore[union-attr, list-item]
    bound = 1 / math.sqrt(6)
    assert 0.95 * bound <= float(joined.abs().max()) <= bound and abs(float(joined.std()) - bound / math.sqrt(3)) <= 0.01
    x, t, context = torch.randn(5, 3), torch.rand(5), torch.randn(5, 2)
    h = torch.tanh(torch.cat([x, t.unsqueeze(-1), context], dim=-1) @ joined.mT + field.layers[0].bias)  # type: ignore[operator]
    for layer, act in ((field.layers[1], torch.tanh), (field.layers[2], lambda a: a)):
        h = act(layer(h))
    assert torch.allclose(field.velocity(t, x, context), h, atol=1e-6)


# -- images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [UNetField((2, 8, 8), 8, (1, 2), attention=(4,), context_features=3), DiTField((2, 8, 8), 2, 16, 2, 2, context_features=3)])
def test_image_fields_start_at_zero(field: VectorField) -> None:
    """The velocity of an untrained image field is exactly zero, and training its last layer frees the others."""
    x, context = torch.randn(3, 2, 8, 8), torch.randn(3, 3)
    assert torch.equal(field.velocity(torch.rand(3), x, context), torch.zeros_like(x))


@pytest.mark.parametrize("field", [UNetField((1, 4, 4), 8, (1, 2), attention=(4, 2), head_channels=4), DiTField((1, 4, 4), 2, 16, 2, 2)], ids=["unet", "dit"])
def test_attention_under_divergence(field: Any) -> None:
    """Through attention, whose fused kernels have no second derivative, the divergence and its gradient are exact all the same."""
    field = perturbed(field, 0.1)
    x = normal(2, 1, 4, 4)
    probes = draw_probes(x, 3, count=2, generator=torch.Generator().manual_seed(1))
    plain = field.velocity(T, x)
    v, exact = field_and_divergence(field, T, x, mode="exact")
    assert (plain - v).abs().max() <= 1e-12
    assert (field_and_divergence(field, T, x, mode="exact_forward")[1] - exact).abs().max() <= 1e-10
    _, estimate = field_and_divergence(field, T, x, mode="hutchinson", probes=probes)
    weight = next(parameter for name, parameter in field.named_parameters() if name.endswith("qkv.weight"))
    (gradient,) = torch.autograd.grad(estimate.sum(), weight)
    way, step = normal(*weight.shape, seed=4), 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * way)
            ends.append(field_and_divergence(field, T, x, mode="hutchinson", probes=probes)[1].sum())
            weight.sub_(sign * step * way)
    assert abs(float((ends[0] - ends[1]) / (2 * step) - (gradient * way).sum())) <= 1e-6 * max(1.0, float((gradient * way).abs().sum()))


def test_cifar_network() -> None:
    """The usual CIFAR-10 configuration builds, with attention at 16 x 16 and about 38 million weights, as does a DiT-S/2 (33 million)."""
    with torch.device("meta"):
        unet = UNetField((3, 32, 32), 128, (1, 2, 2, 2), 2, attention=(16,), dropout=0.1)
        dit = DiTField((3, 32, 32), 2, 384, 12, 6)
        x, t = torch.empty(2, 3, 32, 32), torch.empty(2)
        assert unet.velocity(t, x).shape == dit.velocity(t, x).shape == x.shape
    sizes = [sum(parameter.numel() for parameter in field.parameters()) / 1e6 for field in (unet, dit)]
    assert 36 <= sizes[0] <= 40 and 31 <= sizes[1] <= 34
    assert sum(type(part).__name__ == "_Attention" for part in unet.modules()) == 6  # 2 down, 3 up, 1 in the middle


def test_image_field_tells_times_apart() -> None:
    """Times 1e-3 apart, and the ends of [0, 1], have clearly different features."""
    field = UNetField((1, 4, 4), 32)
    condition = field.net.condition
    angles = torch.tensor([0.0, 0.001, 0.5, 0.999, 1.0]).unsqueeze(-1) * condition.frequencies
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
    assert float(torch.pdist(waves).min()) >= 0.5


# -- wrong arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLPField(0),
        lambda: MLPField(2, ()),
        lambda: MLPField(2, (0,)),
        lambda: MLPField(2, context_features=-1),
        lambda: ConcatSquashField(2, ()),
        lambda: GradientField(2, ()),
        lambda: OTPotentialField(2, layers=1),
        lambda: OTPotentialField(2, rank=0),
        lambda: EGNNField(1),
        lambda: EGNNField(3, types=(0, 1)),
        lambda: EGNNField(2, types=(0, -1)),
        lambda: UNetField((1, 5, 4)),
        lambda: UNetField((4, 4)),
        lambda: UNetField((1, 4, 4), attention=(3,)),
        lambda: UNetField((1, 4, 4), dropout=1.0),
        lambda: UNetField((1, 4, 4), 13, attention=(4,), head_channels=4),
        lambda: DiTField((1, 5, 4), 2),
        lambda: DiTField((1, 4, 4), 2, 10, 2, 5),
        lambda: DiTField((1, 4, 4), 2, 16, 2, 3),
    ],
)
def test_wrong_arguments(make: Any) -> None:
    """Arguments that cannot be served raise ConfigError when the field is built."""
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("cls", [MLPField, ConcatSquashField, GradientField])
def test_unknown_activation(cls: Any) -> None:
    """An activation that is not smooth, or mistyped, is refused with the names that serve."""
    with pytest.raises(ConfigError, match="silu"):
        cls(2, activation="sillu")
    with pytest.raises(ConfigError):
        build({"name": cls.registered_name, "features": 2, "activation": "relu"}, VectorField)
