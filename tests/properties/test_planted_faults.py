"""The kit catches planted faults: each faulty copy of a small map fails the check that is there for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.core.algebra import Chain
from flowkit.core.build import build
from flowkit.core.domain import Box
from flowkit.core.shapes import sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.testing import ConformanceError, check_bijector, check_univariate
from flowkit.testing._suites import BIJECTOR
from flowkit.univariates import Affine as AffineUnivariate

Pair = tuple[Tensor, Tensor]


class Sound(Bijector):
    """x = z exp(s) + t + W c, coordinate by coordinate: what the faults below are planted in."""

    traits = Traits(jacobian="diagonal")

    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__()
        self.features, self.context_features = features, context_features
        self.in_shape = self.out_shape = (features,)
        self.context_shape = (context_features,)
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.net = nn.Linear(context_features, features, bias=False)

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return z * self.log_scale.exp() + self.shift + self.net(context), sum_event(self.log_scale, 1).expand(z.shape[:-1])

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return (x - self.shift - self.net(context)) * (-self.log_scale).exp(), -sum_event(self.log_scale, 1).expand(x.shape[:-1])


class WrongSign(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x, -log_det

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z, -log_det


class InverseSignOnly(Sound):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z, -log_det


class MissingFactor(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, _ = super()._forward(z, context, generator)
        return x, self.log_scale[:-1].sum().expand(z.shape[:-1])

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, _ = super()._inverse(x, context, generator)
        return z, -self.log_scale[:-1].sum().expand(x.shape[:-1])


class WrongAxis(Sound):
    """log_det summed over the batch instead of the event."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, _ = super()._forward(z, context, generator)
        return x, self.log_scale.expand_as(z).sum(0) if z.dim() > 1 else self.log_scale.sum()


class SummedOverBatch(Sound):
    """One log_det for the whole batch."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x, log_det.sum().expand(log_det.shape)


class PlainConstant(Sound):
    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__(features, context_features)
        self.offset = torch.linspace(0.0, 1.0, features, dtype=torch.float64)

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x + self.offset.to(x.dtype), log_det

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return super()._inverse(x - self.offset.to(x.dtype), context, generator)


class HiddenConstant(PlainConstant):
    """The same constant out of sight, in a closure: only moving to another device shows it."""

    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__(features, context_features)
        del self.offset
        self.offsets = _Offset(features)

    @property
    def offset(self) -> Tensor:
        return self.offsets.value

    @offset.setter
    def offset(self, value: Tensor) -> None:
        object.__setattr__(self, "offsets", _Offset(len(value)))

    @offset.deleter
    def offset(self) -> None:
        pass


class _Offset:
    def __init__(self, size: int) -> None:
        self.value = torch.linspace(0.0, 1.0, size, dtype=torch.float64)


class StaleCache(Sound):
    """The scale is computed at the first call and kept."""

    def _scale(self) -> Tensor:
        if not hasattr(self, "_kept"):
            object.__setattr__(self, "_kept", _Kept(self.log_scale.exp().detach()))
        return self._kept.value

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        scale = self._scale().to(z.dtype)
        return z * scale + self.shift + self.net(context), scale.log().sum().expand(z.shape[:-1]) + 0 * self.log_scale.sum()

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        scale = self._scale().to(x.dtype)
        return (x - self.shift - self.net(context)) / scale, -scale.log().sum().expand(x.shape[:-1]) + 0 * self.log_scale.sum()


class _Kept:
    def __init__(self, value: Tensor) -> None:
        self.value = value


class NoGradCache(Sound):
    """What was computed under no_grad is used where a gradient is wanted."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        key = (self.log_scale._version, id(self.log_scale))
        if getattr(self, "_kept", None) is None or self._kept.key != key:
            kept = _Kept(self.log_scale.exp() if torch.is_grad_enabled() else self.log_scale.exp().detach())
            kept.key = key
            object.__setattr__(self, "_kept", kept)
        if torch.is_grad_enabled() and self._kept.value.requires_grad:
            scale, self._kept = self._kept.value, None
        else:
            scale = self._kept.value
        return z * scale + self.shift + self.net(context), scale.log().sum().expand(z.shape[:-1])


class BatchCoupling(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x + 1e-3 * z.detach().mean(), log_det


class SharedStep(Sound):
    """A later row changes an earlier one only when it is large, as a solver with one step size for the batch does."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x + 1e-9 * z.detach().abs().amax() if z.numel() else x, log_det


class UnusedContext(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return super()._forward(z, 0 * context, generator)

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return super()._inverse(x, 0 * context, generator)


class FirstContext(Sound):
    """Every row sees the context of the first."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return super()._forward(z, context.flatten(0, -2)[:1].expand_as(context) if context.numel() else context, generator)


class MeanContext(Sound):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return super()._inverse(x, context + 1e-6 * context.mean() if context.numel() else context, generator)


class ContextOptional(Sound):
    def _prepare(self, value: Tensor, context: Any, inverse: bool) -> tuple[Tensor, Any]:
        context = torch.zeros(self.context_features, dtype=value.dtype) if context is None else context
        return super()._prepare(value, context, inverse)


class DeadParameter(Sound):
    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__(features, context_features)
        self.spare = nn.Parameter(torch.ones(features))


class DetachedParameter(Sound):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return (x - self.shift.detach() - self.net(context)) * (-self.log_scale).exp(), -self.log_scale.sum().expand(x.shape[:-1])


class HalvedGradient(Sound):
    """The value is right, the gradient of the shift is not."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x - 0.5 * (self.shift - self.shift.detach()), log_det


class FloatLeak(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x.float().to(z.dtype), log_det

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z.float().to(x.dtype), log_det


class FloatLogDet(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x, log_det.float()


class HalfLogDet(Sound):
    """log_det accumulates in the input's low precision."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, _ = super()._forward(z, context, generator)
        return x, self.log_scale.sum().expand(z.shape[:-1])


class InverseOff(Sound):
    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z + 1e-3, log_det


class InverseOffFarOut(Sound):
    """Right near the origin, wrong in the tail."""

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return torch.where(z.abs() > 50, z * (1 + 1e-6), z), log_det


class Mutating(Sound):
    calls: Tensor

    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__(features, context_features)
        self.register_buffer("calls", torch.zeros(()))

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        if self.training:
            self.calls += 1
        return super()._forward(z, context, generator)


class GlobalNoise(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        torch.rand(())
        return super()._forward(z, context, generator)


class NotSaved(Sound):
    """A number that matters is drawn when built and is neither an argument nor in the state."""

    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__(features, context_features)
        self.register_buffer("offset", torch.rand(features), persistent=False)

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return x + self.offset, log_det

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        return super()._inverse(x - self.offset, context, generator)


class NotPicklable(Sound):
    def __init__(self, features: int = 3, context_features: int = 2) -> None:
        super().__init__(features, context_features)
        self.change = lambda x: x


class ForgetsArgument(Sound):
    def __init__(self, features: int = 3, context_features: int = 2, scale: float = 2.0) -> None:
        super().__init__(features, context_features)
        self.register_buffer("factor", torch.tensor(scale), persistent=False)


class NotTriangular(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z.flip(-1), context, generator)
        return x, log_det

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z, log_det = super()._inverse(x, context, generator)
        return z.flip(-1), log_det


class NotVolumePreserving(Sound):
    traits = Traits(jacobian="diagonal", volume_preserving=True)


class EmptyBatch(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        assert z.abs().max().item() >= 0
        return super()._forward(z, context, generator)


class NotVmapped(Sound):
    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return (x, log_det) if bool((z.abs() >= 0).all()) else (x + 1, log_det)


class Exponential(Bijector):
    """x = exp(z): R^n onto the positive numbers, declared with faults below."""

    traits = Traits(jacobian="diagonal")

    def __init__(self, features: int = 2) -> None:
        super().__init__()
        self.features = features
        self.in_shape = self.out_shape = (features,)
        self._codomain = Box(0.0, torch.inf, features)

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        return z.clamp(max=80.0).exp(), sum_event(z, 1)

    def _inverse(self, x: Tensor, context: Any, generator: Any) -> Pair:
        z = x.clamp(min=1e-30).log()
        return z, -sum_event(z, 1)


class WrongCodomain(Exponential):
    """Declares all of R^n where it only reaches the positive numbers."""

    def __init__(self, features: int = 2) -> None:
        super().__init__(features)
        self._codomain = None


class TooSmallCodomain(Exponential):
    def __init__(self, features: int = 2) -> None:
        super().__init__(features)
        self._codomain = Box(1.0, torch.inf, features)


class SelectedAfterwards(Exponential):
    """sqrt is evaluated on the branch that is thrown away: its gradient is NaN there."""

    def _forward(self, z: Tensor, context: Any, generator: Any) -> Pair:
        x, log_det = super()._forward(z, context, generator)
        return torch.where(z < 0, x + 0 * torch.sqrt(-z), x), log_det


class NoDomainCheck(Exponential):
    """Values outside are mapped to something without a word."""

    def _call(self, value: Tensor, context: Any, generator: Any, *, inverse: bool) -> Pair:
        value, context = self._prepare(value, context, inverse)
        return (self._inverse if inverse else self._forward)(value, context, generator)


class SimplifyLoses(Sound):
    """merge forgets the shift."""

    def merge(self, following: Any) -> Bijector | None:
        if not isinstance(following, SimplifyLoses):
            return None
        made = SimplifyLoses(self.features, self.context_features).to(self.shift)
        with torch.no_grad():
            made.log_scale.copy_(self.log_scale + following.log_scale)
            made.net.weight.copy_(self.net.weight * following.log_scale.exp().unsqueeze(-1) + following.net.weight)
        return made


class WrongScore(Sound):
    def push_score(self, z: Tensor, score: Tensor, context: Any = None, *, generator: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        x, log_det = self.forward(z, context)
        return x, log_det, score


FAULTS: list[tuple[type[Bijector], str]] = [
    (WrongSign, "log_det_jacobian"),
    (InverseSignOnly, "inverse_log_det"),
    (MissingFactor, "log_det_jacobian"),
    (WrongAxis, "shapes"),
    (SummedOverBatch, "log_det_jacobian"),
    (PlainConstant, "constants_are_buffers"),
    (HiddenConstant, "device_followed"),
    (StaleCache, "no_stale_cache"),
    (NoGradCache, "no_stale_cache"),
    (BatchCoupling, "rows_independent"),
    (SharedStep, "rows_independent"),
    (UnusedContext, "context_used"),
    (FirstContext, "context_broadcast"),
    (MeanContext, "rows_independent"),
    (ContextOptional, "context_required"),
    (DeadParameter, "parameter_gradients"),
    (DetachedParameter, "parameter_gradients"),
    (HalvedGradient, "gradient_parameters"),
    (FloatLeak, "float64_throughout"),
    (FloatLeak, "round_trip"),
    (FloatLogDet, "dtype_kept"),
    (HalfLogDet, "half_precision"),
    (InverseOff, "round_trip"),
    (InverseOffFarOut, "far_round_trip"),
    (Mutating, "pure"),
    (GlobalNoise, "pure"),
    (NotSaved, "state_dict_round_trip"),
    (NotPicklable, "pickled"),
    (ForgetsArgument, "state_dict_round_trip"),
    (NotTriangular, "jacobian_structure"),
    (NotVolumePreserving, "jacobian_structure"),
    (EmptyBatch, "shapes"),
    (NotVmapped, "vmapped"),
    (NotVmapped, "compiled"),
    (WrongCodomain, "round_trip"),
    (TooSmallCodomain, "domain_to_codomain"),
    (SelectedAfterwards, "extreme_gradients"),
    (NoDomainCheck, "domain_error"),
    (SimplifyLoses, "law_simplify"),
    (WrongScore, "scores"),
]


@pytest.mark.parametrize(("fault", "check"), FAULTS, ids=[f"{fault.__name__}-{check}" for fault, check in FAULTS])
def test_fault_is_caught(fault: type[Bijector], check: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConformanceError) as caught:
        check_bijector(fault())
    assert check in caught.value.failures, f"caught only by {sorted(caught.value.failures)}"
    assert "reproduce: check_bijector(" in caught.value.failures[check]


@pytest.mark.parametrize("sound", [Sound, Exponential])
def test_sound_map_passes(sound: type[Bijector]) -> None:
    instance = sound()
    report = check_bijector(instance)
    assert report.passed == BIJECTOR.names(instance)
    assert len(report.passed) > 30


def test_fault_inside_a_chain_is_caught() -> None:
    permutation = build({"name": "permutation", "order": (1, 2, 0)}, Bijector)
    with pytest.raises(ConformanceError) as caught:
        check_bijector(Chain([permutation, MissingFactor()]))
    assert "log_det_jacobian" in caught.value.failures


class WrongSlope(AffineUnivariate):
    def transform(self, z: Tensor, params: Tensor) -> Pair:
        x, log_slope = super().transform(z, params)
        return x, 0.9 * log_slope


class IgnoredParameter(AffineUnivariate):
    def transform(self, z: Tensor, params: Tensor) -> Pair:
        return super().transform(z, params * torch.tensor([1.0, 0.0], dtype=params.dtype))


class Decreasing(AffineUnivariate):
    def transform(self, z: Tensor, params: Tensor) -> Pair:
        x, log_slope = super().transform(z, params)
        return -x, log_slope

    def untransform(self, x: Tensor, params: Tensor) -> Pair:
        return super().untransform(-x, params)


@pytest.mark.parametrize(("fault", "check"), [(WrongSlope, "derivative"), (IgnoredParameter, "gradients"), (Decreasing, "monotone")])
def test_univariate_fault_is_caught(fault: Any, check: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_univariate(fault())
    assert check in caught.value.failures, f"caught only by {sorted(caught.value.failures)}"
