"""The kit catches planted faults: each faulty copy of a small map fails the check that is there for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.core.algebra import Chain
from flowkit.core.build import build
from flowkit.core.domain import Box
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import sum_event
from flowkit.core.target import Target
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.testing import ConformanceError, check_bijector, check_target, check_univariate
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


# -- targets --------------------------------------------------------------------------------------------------------

FIVE = ("permutation", "reflection", "rotation", "sign", "translation")


class Formula(Target):
    """exp(-|x|^2 / 2) on vectors or particles, with whatever symmetries the test declares."""

    def __init__(self, event_shape: tuple[int, ...] = (3,), invariances: frozenset[str] = frozenset(), log_normalizer: Any = None) -> None:
        super().__init__()
        self.event_shape, self.invariances, self.log_normalizer = event_shape, invariances, log_normalizer

    def log_density(self, x: Tensor) -> Tensor:
        return sum_event(-0.5 * x.square(), len(self.event_shape))


class Sheared(Formula):
    """The mixed term has x -> -x and the exchange of coordinates as symmetries, and no other."""

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) + 0.3 * (x[..., 0] * x[..., 1] + x[..., 1] * x[..., 2] + x[..., 2] * x[..., 0])


class AboutTheMean(Formula):
    """For a vector only shifts of all coordinates alike are symmetries; for particles all translations are."""

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x - x.mean(-len(self.event_shape), keepdim=True))


class Handed(Formula):
    """Two particles in the plane that tell left from right."""

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) + torch.tanh(x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0])


HOLDS = [
    (Formula, (3,), ("permutation", "reflection", "rotation", "sign")),
    (Formula, (1,), ("permutation", "reflection", "rotation", "sign")),
    (Formula, (3, 2), ("permutation", "reflection", "rotation", "sign")),
    (Sheared, (3,), ("permutation", "sign")),
    (AboutTheMean, (3,), ("permutation", "sign")),
    (AboutTheMean, (3, 2), FIVE),
    (Handed, (2, 2), ("rotation", "sign")),
]


@pytest.mark.parametrize(("cls", "shape", "names"), HOLDS, ids=[f"{cls.__name__}-{len(shape)}-{shape[0]}" for cls, shape, _ in HOLDS])
def test_true_invariances_pass_and_false_ones_do_not(cls: type[Formula], shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    assert "invariances_hold" in check_target(cls(shape, frozenset(names))).passed
    for name in set(FIVE) - set(names):
        with pytest.raises(ConformanceError, match=f"log_density after {name}"):
            check_target(cls(shape, frozenset({name})), only="invariances_hold")


class Ring(Formula):
    """Neighbours on a closed chain: turning the chain is a symmetry of the target's own."""

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) - (x * x.roll(1, -1)).cos().sum(-1)

    def symmetry(self, name: str, x: Tensor, generator: Any = None) -> Tensor | None:
        return x.roll(int(torch.randint(1, x.shape[-1], (), generator=generator)), -1) if name == "turn" else None


class LoneSite(Ring):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) - x[..., 0]


class Unmoved(LoneSite):
    def symmetry(self, name: str, x: Tensor, generator: Any = None) -> Tensor:
        return x


def test_a_symmetry_of_its_own() -> None:
    assert "invariances_hold" in check_target(Ring((5,), frozenset({"turn", "sign"}))).passed
    for target, message in [
        (LoneSite((5,), frozenset({"turn"})), "log_density after turn"),
        (Unmoved((5,), frozenset({"turn"})), "never changes an event"),
        (Unmoved((5,), frozenset({"sign"})), "log_density after sign"),  # a known name means what it says
        (Ring((5,), frozenset({"twist"})), "returns None"),
    ]:
        with pytest.raises(ConformanceError, match=message):
            check_target(target, only="invariances_hold")


class NoShape(Target):
    def log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1)


class Cusp(Formula):
    def log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1).sqrt()


class NaNAtUnitVectors(Formula):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) + 0 * (1 - x.square().sum(-1)).abs().log()


class NaNFarOut(Formula):
    def log_density(self, x: Tensor) -> Tensor:
        return (x.exp() - x.exp().square()).sum(-1) - x.square().sum(-1)


class Overflowing(Formula):
    """Float64 has room for the eighth power a million units out, float32 does not."""

    def log_density(self, x: Tensor) -> Tensor:
        return (x**8 / (1 + x**8) - x.square()).sum(-1)


class DoubleOut(Formula):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x).double()


class Branching(Formula):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) * (1.0 if float(x.detach().sum()) > -1e9 else 2.0)


class NoSampler(Formula):
    can_sample = True


GAUSS = 1.5 * math.log(2 * math.pi)
TARGET_FAULTS = [
    (NoShape(), "declared", "NoShape must set event_shape"),
    (NoShape(), "density_shapes", "NoShape: expected event_shape, a tuple of sizes"),
    (Formula(invariances="sign"), "declared", "frozenset of names"),  # type: ignore[arg-type]
    (Formula(invariances="sign"), "invariances_hold", "frozenset of names"),  # type: ignore[arg-type]
    (Formula(log_normalizer=torch.tensor(GAUSS)), "declared", "must be a float"),
    (Formula(log_normalizer=math.inf), "declared", "must be finite"),
    (Cusp(), "special_values", "score at the origin"),
    (NaNAtUnitVectors(), "special_values", "at unit vectors"),
    (NaNFarOut(), "special_values", "a thousand units out"),
    (Overflowing(), "special_values", "a million units out in torch.float32 is NaN"),
    (DoubleOut(), "density_shapes", "float32 events is torch.float64"),
    (Branching(), "compiled", "reproduce"),
    (Branching(), "vmapped", "reproduce"),
    (NoSampler(), "samples", "sample returns None"),
]


@pytest.mark.parametrize(("target", "check", "message"), TARGET_FAULTS, ids=[f"{type(each[0]).__name__}-{each[1]}-{i}" for i, each in enumerate(TARGET_FAULTS)])
def test_target_fault_is_caught(target: Target, check: str, message: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_target(target, only=check)
    assert message in caught.value.failures[check]


class ThinRing(Formula):
    """exp(-(|x| - 6)^2 / (2 width^2)) in the plane."""

    width = 0.05

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * ((x.square().sum(-1) + 1e-12).sqrt() - 6).square() / self.width**2


class Comb(Formula):
    """A normal density with waves that no grid resolves; their mean is one."""

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) + torch.log1p(0.9 * torch.cos(3e3 * x[..., 0]))


class Growing(Formula):
    def log_density(self, x: Tensor) -> Tensor:
        return -super().log_density(x)


RING = math.log(12 * math.pi * 0.05 * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("target", [ThinRing((2,), log_normalizer=RING), Comb((2,), log_normalizer=math.log(2 * math.pi))], ids=["ring", "comb"])
def test_a_right_log_normalizer_of_thin_structure_passes(target: Target) -> None:
    assert check_target(target, only="normalizer").passed == ["normalizer"]


WRONG_MASS = [(ThinRing, RING + 0.02, "integrates to 0.9802"), (Comb, 0.0, "cannot be resolved"), (Growing, 0.0, "cannot be resolved")]


@pytest.mark.parametrize(("cls", "log_normalizer", "message"), WRONG_MASS, ids=["ring", "comb", "growing"])
def test_a_wrong_log_normalizer_is_caught(cls: type[Formula], log_normalizer: float, message: str) -> None:
    with pytest.raises(ConformanceError, match=message) as caught:
        check_target(cls((2,), log_normalizer=log_normalizer), only="normalizer")
    assert len(caught.value.failures["normalizer"].split("|")[0]) < 200


class Doubled(Target):
    """A constructor that does not store its argument unchanged."""

    def __init__(self, features: int = 2) -> None:
        super().__init__()
        self.features = 2 * features
        self.event_shape = (features,)

    def log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Doubled]]:
        yield "pair", cls(2)


def test_description_of_a_target_is_checked() -> None:
    TARGETS.register("doubled")(Doubled)
    try:
        with pytest.raises(ConformanceError, match="describes itself as"):
            check_target(Doubled(), only="describe_build")
    finally:
        TARGETS._classes.pop("doubled", None)
