"""The coupling of two copies of particles commutes with the symmetries of space; float64."""

from __future__ import annotations

import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import Chain, EquivariantCoupling


def moved(seed: int = 0) -> tuple[Chain, Tensor]:
    """Three layers off the identity, and two copies of five particles in space."""
    torch.manual_seed(seed)
    chain = Chain([EquivariantCoupling(5, moves=i % 2, hidden=(16, 16)) for i in range(3)]).double()
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return chain, torch.randn(7, 2, 5, 3, dtype=torch.float64)


def test_commutes_with_the_symmetries() -> None:
    """Rotations with reflections, shifts and orders that both copies share move the result likewise and leave log_det."""
    chain, z = moved()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    order = torch.randperm(5)
    x, log_det = chain(z)
    for change in (lambda p: p @ turn, lambda p: -p, lambda p: p + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), lambda p: p[..., order, :]):
        other, other_log_det = chain(change(z))
        torch.testing.assert_close(other, change(x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(other_log_det, log_det, rtol=1e-10, atol=1e-10)
    assert (x - z).abs().max() > 0.1


def test_log_det_is_that_relative_to_the_mean() -> None:
    """With the first copy's mean taken off both copies before and after, the map of the quotient has the same log_det."""
    chain, z = moved()
    event = z[0]

    def centred(event: Tensor) -> Tensor:
        return event - event[:1].mean(-2, keepdim=True)

    # an orthonormal frame of the first copy's mean-free directions, and all of the second copy
    frame = torch.linalg.svd(torch.eye(5, dtype=torch.float64) - 0.2)[0][:, :4]
    first = torch.kron(frame.contiguous(), torch.eye(3, dtype=torch.float64))

    def quotient(free: Tensor) -> Tensor:
        out = centred(chain(torch.cat([(first @ free[:12]), free[12:]]).reshape(2, 5, 3))[0])
        return torch.cat([first.T @ out[0].flatten(), out[1].flatten()])

    start = centred(event)
    free = torch.cat([first.T @ start[0].flatten(), start[1].flatten()])
    jacobian = torch.autograd.functional.jacobian(quotient, free)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], chain(start)[1], rtol=1e-9, atol=1e-9)


def test_kinds_are_told_apart() -> None:
    layer = EquivariantCoupling(2, 2, kinds=(0, 1)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    z = torch.randn(2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(layer(z.flip(-2))[0], layer(z)[0].flip(-2))


def test_it_is_exported() -> None:
    assert fk.bijectors.EquivariantCoupling is EquivariantCoupling
