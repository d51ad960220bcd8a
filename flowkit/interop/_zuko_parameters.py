"""The lazy transforms of zuko rebuilt as flowkit's, parameter by parameter, direction by direction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zuko import distributions, lazy, transforms
from zuko import nn as zuko_nn
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.flows.gaussianization import ElementWiseTransform

from flowkit.bijectors import Autoregressive, Chain, Coupling, Elementwise, Identity, Permutation
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.distributions import DiagonalNormal, StandardNormal
from flowkit.interop._parts import is_plain, one_activation, plain_perceptron, put, put_linear, unsupported
from flowkit.nets import MLP, MaskedLayers
from flowkit.univariates import Shift, SoftClippedAffine, SoftClippedSpline

WHO = "zuko.load_parameters"
SLOPE, BOUND = 1e-3, 5.0  # zuko's defaults


class Reader:
    """Reads lazy transforms: ``read`` gives the map with the same forward, data to noise, as zuko has it.

    Args:
        features: size of an event.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.readers: dict[type, Callable[[Any], Bijector]] = {
            lazy.LazyComposedTransform: self._composed,
            lazy.LazyInverse: lambda t: ~self.read(t.transform),
            lazy.UnconditionalTransform: self._unconditional,
            MaskedAutoregressiveTransform: self._autoregressive,
            GeneralCouplingTransform: self._coupling,
            ElementWiseTransform: self._elementwise,
        }

    def read(self, transform: nn.Module) -> Bijector:
        """The bijector equal to a transform, direction included."""
        for cls in type(transform).__mro__:
            if cls in self.readers:
                if is_plain(transform, cls):
                    return self.readers[cls](transform)
                break
        raise unsupported(WHO, transform, sorted(cls.__name__ for cls in self.readers))

    def _composed(self, t: Any) -> Bijector:
        parts = [self.read(part) for part in t.transforms]
        return Chain(parts) if parts else Identity((self.features,))

    def _unconditional(self, t: Any) -> Bijector:
        made = t()
        if type(made) is transforms.PermutationTransform and made.order.dim() == 1:
            return Permutation(made.order)
        raise unsupported(f"{WHO}: UnconditionalTransform", made, ("PermutationTransform of one order",))

    def _autoregressive(self, t: Any) -> Bijector:
        univariate = _univariate(t)
        net = _masked(t.hyper, self.features)
        # who sees whom is read off the masks: it covers orders, passes and adjacency matrices, and gives the fewest passes
        adjacency = net.dependence().unflatten(0, (self.features, univariate.parameter_count)).any(1)
        return Autoregressive(self.features, univariate, (), adjacency=adjacency, context_features=net.context_features, conditioner=net)

    def _coupling(self, t: Any) -> Bijector:
        univariate, mapped = _univariate(t), (~t.mask).tolist()
        seen = self.features - sum(mapped)
        net = _dense(t.hyper, seen)
        return Coupling(self.features, univariate, (), mapped, context_features=net.context_features, conditioner=net)

    def _elementwise(self, t: Any) -> Bijector:
        univariate = _univariate(t)
        if hasattr(t, "hyper"):
            net = _dense(t.hyper, 0)
            return Coupling(self.features, univariate, (), [True] * self.features, context_features=net.context_features, conditioner=net)
        made = Elementwise(self.features, univariate)
        table: Any = made._net
        put(table.value, torch.cat([phi.reshape(self.features, -1) for phi in t.phi], dim=-1).flatten())
        return made


def _univariate(t: Any) -> Univariate:
    """The univariate map with zuko's parametrisation, its shapes checked."""
    made: Any = t.univariate
    options: dict[str, Any] = {}
    while isinstance(made, partial):
        if made.args:
            raise unsupported(WHO, made, ("univariate transforms with keyword options",))
        made, options = made.func, {**made.keywords, **options}
    known: Any = {
        transforms.MonotonicAffineTransform: (("slope",), lambda: SoftClippedAffine(options.get("slope", SLOPE)), [(), ()]),
        transforms.AdditiveTransform: ((), Shift, [()]),
        transforms.MonotonicRQSTransform: (("bound", "slope"), lambda: _spline(options, t.shapes), None),
    }
    if made not in known:
        name = getattr(made, "__name__", type(made).__name__)
        raise ConfigError(f"{WHO}: the univariate {name} is not supported. Supported: {', '.join(cls.__name__ for cls in known)}.")
    keys, build, shapes = known[made]
    if set(options) - set(keys):
        raise ConfigError(f"{WHO}: {made.__name__} with {sorted(set(options) - set(keys))} is not supported; only {keys} are.")
    if shapes is not None and [tuple(shape) for shape in t.shapes] != shapes:
        raise ConfigError(f"{WHO}: {made.__name__} with parameters of shapes {list(t.shapes)} is not supported; expected {shapes}.")
    return build()


def _spline(options: dict[str, Any], shapes: Any) -> SoftClippedSpline:
    sizes = [shape[0] if len(shape) == 1 else 0 for shape in shapes]
    if len(sizes) != 3 or sizes[0] != sizes[1] or sizes[2] != sizes[0] - 1:
        raise ConfigError(f"{WHO}: MonotonicRQSTransform with parameters of shapes {list(shapes)} is not supported; expected [(K,), (K,), (K - 1,)].")
    return SoftClippedSpline(sizes[0], float(options.get("bound", BOUND)), slope=options.get("slope", SLOPE))


def _masked(net: Any, features: int) -> MaskedLayers:
    """A MaskedMLP; the context's columns come after those of x."""
    layers = list(net) if is_plain(net, zuko_nn.MaskedMLP) else []
    if len(layers) % 2 == 0 or any(type(layer) is not zuko_nn.MaskedLinear for layer in layers[::2]):
        raise unsupported(WHO, net, ("zuko.nn.MaskedMLP with residual=False",))
    masks: list[Tensor] = [layer.mask.bool().cpu() for layer in layers[::2]]
    made = MaskedLayers(masks, context_features=masks[0].shape[1] - features, activation=one_activation(WHO, layers[1::2]))
    for target, source in zip(made.layers, layers[::2], strict=True):
        put_linear(target, source)
    return made


def _dense(net: Any, in_features: int) -> MLP:
    """An MLP; what it reads beyond ``in_features`` is the context."""
    layers = list(net) if is_plain(net, zuko_nn.MLP) else []
    flat = bool(layers) and all(layer.weight.dim() == 2 for layer in layers if isinstance(layer, zuko_nn.Linear))
    made = plain_perceptron(WHO, layers, zuko_nn.Linear, layers[0].weight.shape[1] - in_features) if flat else None
    if made is None:
        raise unsupported(WHO, net, ("zuko.nn.MLP with normalize=False",))
    return made


def read_base(base: nn.Module) -> Distribution:
    """The flowkit distribution equal to a base of zuko."""
    law: Any = base() if is_plain(base, lazy.UnconditionalDistribution) else None
    if law is None or type(law) is not distributions.DiagNormal:
        raise unsupported(WHO, base if law is None else law, ("UnconditionalDistribution of a DiagNormal",))
    loc, scale = law.base_dist.loc.detach(), law.base_dist.scale.detach()
    if not any(True for _ in base.parameters()) and bool((loc == 0).all() & (scale == 1).all()):
        return StandardNormal(tuple(loc.shape))
    made = DiagonalNormal(tuple(loc.shape))
    put(made.mean, loc)
    put(made.log_scale, scale.log())
    return made
