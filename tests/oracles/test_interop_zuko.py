"""zuko: the parameters of its flows taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zuko
from torch import Tensor, nn

import flowkit as fk
from flowkit.core.errors import ConfigError
from flowkit.interop.zuko import load_parameters

N, F = 40, 4
Z = zuko.flows
SPLINE = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(5,), (5,), (4,)]}


def perturbed(module: Any) -> Any:
    """In float64, every parameter moved."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module.double()


def data(features: int, context: int) -> tuple[Tensor, Tensor | None]:
    g = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(N, features, generator=g, dtype=torch.float64)
    return x, torch.randn(N, context, generator=g, dtype=torch.float64) if context else None


def sources(c: int) -> dict[str, Any]:
    small = {"hidden_features": (12, 9)}
    dag = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.randn(F), torch.rand(F) + 0.5)
    shuffle = zuko.lazy.UnconditionalTransform(zuko.transforms.PermutationTransform, torch.tensor([2, 0, 3, 1]), buffer=True)
    return {
        "maf": lambda: Z.MAF(F, c, transforms=3, **small),
        "maf_randperm": lambda: Z.MAF(F, c, transforms=2, randperm=True, activation=nn.ELU, **small),
        "maf_passes": lambda: Z.MAF(5, c, transforms=2, passes=3, hidden_features=(20, 20)),
        "maf_slope": lambda: Z.MAF(F, c, univariate=zuko_affine_with_slope(), **small),
        "maf_one_layer": lambda: Z.MAF(F, c, transforms=1, hidden_features=()),
        "nsf": lambda: Z.NSF(F, c, transforms=2, bins=5, **small),
        "nsf_coupling": lambda: Z.NSF(F, c, transforms=2, bins=4, slope=1e-2, passes=2, **small),
        "nsf_line": lambda: Z.NSF(1, c, transforms=2, bins=4, **small),
        "realnvp": lambda: Z.RealNVP(F, c, transforms=3, **small),
        "nice_random_masks": lambda: Z.NICE(F, c, randmask=True, activation=nn.Tanh, **small),
        "additive": lambda: Z.NICE(F, c, univariate=zuko.transforms.AdditiveTransform, shapes=[()], **small),
        "spline_coupling": lambda: Z.NICE(F, c, transforms=2, **SPLINE, **small),
        "by_hand": lambda: zuko.lazy.Flow(
            [
                Z.autoregressive.MaskedAutoregressiveTransform(F, c, adjacency=dag, **small),
                shuffle,
                Z.coupling.GeneralCouplingTransform(F, c, **small).inv,
                zuko.lazy.LazyComposedTransform(Z.gaussianization.ElementWiseTransform(F, c, **SPLINE)),
            ],
            base,
        ),
    }


def zuko_affine_with_slope() -> Any:
    from functools import partial

    return partial(zuko.transforms.MonotonicAffineTransform, slope=0.1)


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("name", list(sources(0)))
def test_parameters(name: str, c: int) -> None:
    torch.manual_seed(0)
    source = perturbed(sources(c)[name]())
    made = load_parameters(source)
    x, context = data(made.event_shape[0], c)
    theirs = source(context)
    torch.testing.assert_close(made.log_prob(x, context), theirs.log_prob(x), rtol=1e-13, atol=1e-10)
    noise = made.to_latent(x, context)
    torch.testing.assert_close(noise, theirs.transform(x), rtol=1e-13, atol=1e-10)
    small = 0.5 * torch.randn(N, x.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(made.to_data(small, context), theirs.transform.inv(small), rtol=1e-8, atol=1e-8)
    assert not any(type(part).__module__.startswith("zuko") for part in made.modules())


def test_saves_and_follows_dtype(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Z.NSF(F, 2, transforms=2, hidden_features=(30,))
    made = load_parameters(source)
    fk.save(made, tmp_path / "flow")
    x, context = (part.float() for part in data(F, 2))
    assert torch.equal(fk.load(tmp_path / "flow").log_prob(x, context), made.log_prob(x, context))
    torch.testing.assert_close(made.log_prob(x, context), source(context).log_prob(x), rtol=1e-4, atol=1e-4)
    expected = source(context).log_prob(x)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(1.0)
    assert torch.equal(source(context).log_prob(x), expected)


def test_as_many_passes_as_the_source() -> None:
    made = load_parameters(Z.MAF(6, transforms=1, passes=2, hidden_features=(16,)))
    (step,) = (part for part in made.modules() if isinstance(part, fk.bijectors.Autoregressive))
    assert len(step._levels) == 2


UNSUPPORTED = {
    "base": (lambda: Z.NCSF(3), "BoxUniform is not supported. Supported: UnconditionalDistribution of a DiagNormal"),
    "univariate": (lambda: Z.NAF(3, hidden_features=(8,)), "univariate MNN is not supported. Supported: MonotonicAffineTransform"),
    "option": (lambda: Z.NSF(3, activation=nn.Softplus), "activation Softplus.* is not supported"),
    "residual": (lambda: Z.MAF(3, hidden_features=(8, 8), residual=True), "MaskedMLP with residual=False"),
    "normalize": (lambda: Z.NICE(3, normalize=True), "MLP with normalize=False"),
    "transform": (
        lambda: zuko.lazy.Flow([zuko.lazy.UnconditionalTransform(zuko.transforms.RotationTransform, torch.randn(3, 3))], Z.MAF(3).base),
        "RotationTransform is not supported",
    ),
    "flow": (lambda: Z.CNF(3), "CNF|FFJ|Free|not supported"),
    "not_a_flow": (lambda: nn.Linear(2, 2), "Linear is not supported"),
}


@pytest.mark.parametrize("name", list(UNSUPPORTED))
def test_unsupported(name: str) -> None:
    make, message = UNSUPPORTED[name]
    with pytest.raises(ConfigError, match=message):
        load_parameters(make())


def test_univariates() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.cat([6 * torch.randn(200, generator=g, dtype=torch.float64), torch.tensor([-5.0, 5.0, 0.0, 1e3, -1e3], dtype=torch.float64)])
    raw = 5 * torch.randn(len(z), 14, generator=g, dtype=torch.float64)
    spline, theirs = fk.univariates.SoftClippedSpline(5), zuko.transforms.MonotonicRQSTransform(raw[:, :5], raw[:, 5:10], raw[:, 10:])
    x, log_slope = spline.transform(z, raw)
    expected, ladj = theirs.call_and_ladj(z)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(log_slope, ladj, rtol=0, atol=1e-8)
    affine, other = fk.univariates.SoftClippedAffine(0.05), zuko.transforms.MonotonicAffineTransform(raw[:, 0], raw[:, 1], slope=0.05)
    torch.testing.assert_close(affine.transform(z, raw[:, :2])[0], other(z), rtol=1e-14, atol=1e-12)
    assert fk.univariates.SoftClippedSpline(5).saturated(100 * raw).any() and not spline.saturated(0.1 * raw).any()
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="0 < slope < 1"):
            fk.univariates.SoftClippedSpline(5, slope=wrong)
        with pytest.raises(ConfigError, match="0 < slope < 1"):
            fk.univariates.SoftClippedAffine(wrong)
