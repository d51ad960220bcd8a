"""Scores carried through maps of lattice fields against autograd through the inverse (physics-A1, A2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import Chain, CheckerboardCoupling, FourierPSD, U1GaugeCoupling
from flowkit.core.transform import Bijector
from flowkit.testing._case import prepared
from flowkit.univariates import NonCompactProjection

D = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(value: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert value.shape == wanted.shape
    assert float((value - wanted).detach().abs().max()) <= tolerance * max(1.0, float(wanted.detach().abs().max()))


def links(batch: int, size: int, seed: int = 0) -> Tensor:
    return 2 * math.pi * torch.rand(batch, 2, size, size, generator=generator(seed), dtype=D)


def stacks() -> list[tuple[str, Callable[[], Chain], float]]:
    """Six layers of each kind, and the agreement asked for."""
    colours: tuple[Literal["odd", "even"], ...] = ("odd", "even") * 3
    return [
        ("spectrum", lambda: Chain([FourierPSD((3, 2), m2=1.0 + i) for i in range(6)]), 1e-9),
        ("checkerboard", lambda: Chain([CheckerboardCoupling((3, 2), (4,), colour) for colour in colours]), 1e-9),
        ("both", lambda: Chain([*(CheckerboardCoupling((3, 2), (4,), colour, symmetry="none") for colour in colours), FourierPSD((3, 2))]), 1e-9),
        ("links", lambda: Chain([U1GaugeCoupling(4, 3, (4,), direction=i % 2, offset=i // 2) for i in range(6)]), 1e-6),
    ]


def inputs(f: Bijector, batch: int, seed: int = 0) -> Tensor:
    shape = [size for size in f.in_shape if size is not None]
    if shape[0] == 2 and len(shape) == 3:
        return links(batch, shape[1], seed)
    return torch.randn(batch, *shape, generator=generator(seed), dtype=D)


@pytest.mark.parametrize(("make", "tolerance"), [pytest.param(make, tolerance, id=name) for name, make, tolerance in stacks()])
def test_score_through_the_inverse(make: Callable[[], Chain], tolerance: float) -> None:
    """physics-A2: push_score and pull_score of each layer against autograd of log q through the other direction."""
    layers: list[Any] = list(prepared(make()).transforms)
    for layer in layers:
        z = inputs(layer, 7)
        score = torch.randn(z.shape, generator=generator(3), dtype=D)
        for carry, call, back in ((layer.push_score, layer, layer.inverse), (layer.pull_score, layer.inverse, layer)):
            x, log_det, carried = carry(z, score)
            wanted_x, wanted_log_det = call(z)
            point = wanted_x.detach().requires_grad_()
            origin, log_det_back = back(point)
            (wanted,) = torch.autograd.grad((origin * score).sum() + log_det_back.sum(), point)
            close(carried, wanted, tolerance)
            close(x, wanted_x, 1e-12)
            close(log_det, wanted_log_det, 1e-12)
            assert not carried.requires_grad


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make, _ in stacks()])
def test_path_gradient_of_the_parameters(make: Callable[[], Chain]) -> None:
    """physics-A1: the parameters' gradient of sum x . (s_q - s_p), s_q carried along, is that with s_q through the inverse, to 1e-10."""
    f = prepared(make())
    z = inputs(f, 64)
    parameters = list(f.parameters())

    def target_score(x: Tensor) -> Tensor:
        return x.sin() - 0.3 * x

    x, log_det, score = f.push_score(z, torch.zeros_like(z) if f[0].domain.scale > 1 else -z)
    assert log_det.requires_grad
    fast = torch.autograd.grad((x * (score - target_score(x)).detach()).sum(), parameters)
    x = f(z)[0]
    point = x.detach().requires_grad_()
    back, log_det_back = f.inverse(point)
    log_base = 0.0 if f[0].domain.scale > 1 else -0.5 * back.square().sum()
    (score,) = torch.autograd.grad(log_base + log_det_back.sum(), point)
    slow = torch.autograd.grad((x * (score - target_score(x)).detach()).sum(), parameters)
    largest = max(float(part.abs().max()) for part in slow)
    assert max(float((a - b).abs().max()) for a, b in zip(fast, slow, strict=True)) < 1e-10 * largest


def test_score_needs_no_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carrying a score forward through links never solves for an angle, and reads the net once."""
    f = prepared(U1GaugeCoupling(4, 3, (4,)))

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the inverse was called")

    monkeypatch.setattr(NonCompactProjection, "untransform", refused)
    calls: list[int] = []
    f._net.register_forward_hook(lambda *_: calls.append(1))
    f.push_score(links(3, 4), torch.zeros(3, 2, 4, 4, dtype=D))
    assert len(calls) == 1
    with pytest.raises(AssertionError, match="was called"):
        f.inverse(links(3, 4))
