"""Chains of fixed elementwise maps for the tests of what fuses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import ActNorm, Affine, BatchNorm, Chain, Exp, Power, Sigmoid, SoftClip, Softplus, Standardize, Tanh
from flowkit.kernels.cpu import library
from flowkit.testing._case import perturb

fused = pytest.mark.skipif(library.unavailable() is not None, reason="no C++ compiler")


def standardize(*shape: int) -> Standardize:
    made = Standardize(shape)
    made.set_from(torch.linspace(0, 2, 40).reshape(-1, *([1] * len(shape))) ** 2 + torch.rand(40, *shape, generator=torch.Generator().manual_seed(0)))
    return made


def normalized(*shape: int) -> BatchNorm:
    made = BatchNorm(shape)
    made.update(3 + 2 * torch.randn(50, *shape, generator=torch.Generator().manual_seed(1)), momentum=1.0)
    return made


CHAINS: dict[str, Any] = {
    "to_the_unit_interval": lambda: [ActNorm((3,)), Sigmoid(3), Affine((3,), loc=0.3, scale=1.4)],
    "standardized": lambda: [Sigmoid(3), Affine((3,), scale=2.0), standardize(3), Tanh(3), ~normalized(3)],
    "two_affine": lambda: [Affine((3,), loc=-1.0, scale=0.5), ActNorm((3,))],
    "tempered": lambda: [ActNorm((3,)), Sigmoid(3, temperature=2.0), ~Sigmoid(3, temperature=0.5), Tanh(3)],
    "positive": lambda: [Exp(3), ~Softplus(3), normalized(3), SoftClip(3, bound=3.0), Affine((3,), scale=0.3), ~Tanh(3)],
    "broken": lambda: [Affine((3,)), Exp(3), Power(3, exponent=1.5), ~Exp(3), Affine((3,), loc=1.0)],
    "image": lambda: [ActNorm((3, None, None)), Affine((3, 2, 5), scale=2.0), Softplus((3, 2, 5)), ~normalized(3, 2, 5)],
    "scalar": lambda: [Affine((), scale=2.0), Tanh(())],
}


def made_chain(name: str, dtype: torch.dtype = torch.float64) -> Chain:
    chain = Chain(CHAINS[name]()).to(dtype)
    perturb(chain)
    return chain


def points(chain: Chain, *batch: int, inverse: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = {"image": (3, 2, 5), "scalar": ()}.get(str(chain.in_shape), tuple(size or 4 for size in chain.in_shape))
    z = torch.randn((*batch, *shape), generator=torch.Generator().manual_seed(2), dtype=dtype)
    return chain(z)[0].detach() if inverse else z
