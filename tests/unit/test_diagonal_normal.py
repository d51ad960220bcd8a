"""Flows count a normal base in the op of their last map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit.bijectors import ActNorm, Affine, Autoregressive, Chain, Elementwise, Tanh
from flowkit.core.flow import Flow
from flowkit.distributions import DiagonalNormal, StandardNormal
from flowkit.testing._case import perturb
from flowkit.testing.ops import worst
from flowkit.univariates import Affine as AffineMap


def test_a_base_of_its_own_density() -> None:
    class Lower(StandardNormal):
        def log_prob(self, x: Tensor, context: Any = None) -> Tensor:
            return super().log_prob(x, context) - 100

    x = torch.zeros(2)
    assert Flow(Lower((2,)), Affine(2)).log_prob(x) == Flow(StandardNormal((2,)), Affine(2)).log_prob(x) - 100


class _Halved:
    """Half of what the class after it gives."""

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._inverse(x, context, generator)  # type: ignore[misc]
        return value / 2, log_det - x.shape[-1] * torch.log(torch.tensor(2.0))

    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._forward(z, context, generator)  # type: ignore[misc]
        return value / 2, log_det - z.shape[-1] * torch.log(torch.tensor(2.0))


class _HalvedElementwise(_Halved, Elementwise):
    pass


class _OwnElementwise(Elementwise):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._inverse(x, context, generator)
        return value / 2, log_det - x.shape[-1] * torch.log(torch.tensor(2.0))


class _OwnAutoregressive(Autoregressive):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> tuple[Tensor, Tensor]:
        value, log_det = super()._forward(z, context, generator)
        return value / 2, log_det - z.shape[-1] * torch.log(torch.tensor(2.0))


class _Heir(_OwnAutoregressive):
    pass


class _HalvedAffine(_Halved, Affine):
    pass


@pytest.mark.parametrize("made", [
    lambda: _OwnElementwise(3, AffineMap()),
    lambda: _HalvedElementwise(3, AffineMap()),
    lambda: ~_OwnAutoregressive(3, AffineMap(), (8,)),
    lambda: ~_Heir(3, AffineMap(), (8,)),
    lambda: Chain([_HalvedAffine((3,)), Affine((3,), loc=1.0)]),
])  # fmt: skip
def test_log_prob_of_a_subclass_is_that_of_its_own_formula(made: Any) -> None:
    flow = Flow(StandardNormal((3,)), made())
    perturb(flow)
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    z, log_det = flow.bijector.inverse(x)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det
    assert worst(flow.log_prob(x).detach(), wanted.detach()) <= 1e-5


@pytest.mark.parametrize("bijector", [
    lambda: Autoregressive(3, AffineMap(), (8,)),
    lambda: ~Autoregressive(3, AffineMap(), (8,)),
    lambda: ~Chain([Autoregressive(3, AffineMap(), (8,)), Autoregressive(3, AffineMap(), (8,))]),
    lambda: Elementwise(3, AffineMap()),
    lambda: Elementwise(3, AffineMap(), context_features=2),
    lambda: Chain([Autoregressive(3, AffineMap(), (8,), context_features=2), Affine((3,)), ActNorm((3,))]),
    lambda: Chain([ActNorm((3,)), Tanh(3)], memory="invert"),
    lambda: Chain([ActNorm((3,)), Tanh(3)]),
    lambda: Tanh(3),
])  # fmt: skip
def test_flows_with_a_normal_base(bijector: Any) -> None:
    """``log_prob`` and its gradients are those of the base's density at the latent, plus log_det."""
    flow = Flow(StandardNormal((3,)), bijector()).double()
    perturb(flow)
    generator = torch.Generator().manual_seed(3)
    context = None if flow.context_shape is None else torch.randn(5, 2, generator=generator, dtype=torch.float64)
    x = flow.to_data(torch.randn(5, 3, generator=generator, dtype=torch.float64), context).detach().requires_grad_()
    z, log_det = flow.bijector.inverse(x, context)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det
    found = flow.log_prob(x, context)
    inputs = [x, *flow.parameters()]
    assert worst(found.detach(), wanted.detach()) <= 1e-12
    for mine, other in zip(*(torch.autograd.grad(total.sum(), inputs) for total in (found, wanted)), strict=True):
        assert worst(mine, other) <= 1e-10
    with flowkit.checks(finite=True):
        assert worst(flow.log_prob(x, context).detach(), wanted.detach()) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_normals(dtype: torch.dtype) -> None:
    """Densities of the two normals, float32 at least, against torch's in float64."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(100, 4, 3, generator=generator).to(dtype)
    diagonal = DiagonalNormal((4, 3), loc=0.5, scale=2.0).to(dtype)
    perturb(diagonal)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    for own, loc, scale in ((StandardNormal((4, 3)), 0.0, 1.0), (diagonal, diagonal.mean.double(), diagonal.log_scale.double().exp())):
        wanted = torch.distributions.Normal(loc, scale).log_prob(x.double()).sum((-2, -1))
        found = own.log_prob(x)
        assert found.dtype == torch.promote_types(dtype, torch.float32) and worst(found.detach(), wanted.detach()) <= tolerance
