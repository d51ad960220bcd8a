"""The transforms and distributions of nflows rebuilt as flowkit's, parameter by parameter, direction by direction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from nflows import distributions, transforms
from nflows.transforms.autoregressive import AutoregressiveTransform
from nflows.transforms.coupling import CouplingTransform
from nflows.transforms.normalization import BatchNorm as NflowsBatchNorm
from nflows.transforms.standard import PointwiseAffineTransform
from torch import Tensor, nn

from flowkit.bijectors import ActNorm, Autoregressive, BatchNorm, Chain, Coupling, Elementwise, Identity, LULinear, Permutation, Standardize
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.distributions import DiagonalNormal, StandardNormal
from flowkit.interop._nflows_nets import conditioner_net, masked_net, output_rows
from flowkit.interop._parts import is_plain, put, put_linear, unsupported
from flowkit.univariates import Affine, RationalQuadraticSpline, Shift

WHO = "nflows.load_parameters"
FLOOR = 1e-3  # of nflows' scales, and of both libraries' bins and slopes


class Reader:
    """Reads transforms: ``read`` gives the map with the same forward, data to noise, as nflows has it.

    Args:
        features: size of an event.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.readers: dict[type, Callable[[Any], Bijector]] = {
            transforms.CompositeTransform: self._composite,
            transforms.InverseTransform: lambda t: ~self.read(t._transform),
            transforms.IdentityTransform: lambda t: Identity((self.features,)),
            transforms.Permutation: self._permutation,
            transforms.LULinear: self._lu_linear,
            transforms.ActNorm: self._act_norm,
            NflowsBatchNorm: self._batch_norm,
            PointwiseAffineTransform: self._pointwise_affine,
            transforms.AffineCouplingTransform: self._affine_coupling,
            transforms.AdditiveCouplingTransform: lambda t: self._coupling(t, Shift(), (0,)),
            transforms.PiecewiseRationalQuadraticCouplingTransform: self._spline_coupling,
            transforms.PiecewiseRationalQuadraticCDF: self._spline,
            transforms.MaskedAffineAutoregressiveTransform: self._affine_autoregressive,
            transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform: self._spline_autoregressive,
        }

    def read(self, transform: nn.Module) -> Bijector:
        """The bijector equal to a transform, direction included."""
        for cls in type(transform).__mro__:
            if cls in self.readers:
                if is_plain(transform, cls):
                    return self.readers[cls](transform)
                break
        raise unsupported(WHO, transform, sorted(cls.__name__ for cls in self.readers))

    def _composite(self, t: Any) -> Bijector:
        parts = [self.read(part) for part in t._transforms]
        return Chain(parts) if parts else Identity((self.features,))

    def _permutation(self, t: Any) -> Bijector:
        if t._dim != 1:
            raise ConfigError(f"{WHO}: {type(t).__name__} along dim={t._dim} is not supported; only dim=1 is, and events that are vectors.")
        return Permutation(t._permutation)

    def _lu_linear(self, t: Any) -> Bijector:
        made = LULinear(t.features)
        if made.factors is not None:
            factors = t.lower_entries.new_zeros(t.features, t.features)
            factors[tuple(torch.tril_indices(t.features, t.features, -1))] = t.lower_entries.detach()
            factors[tuple(torch.triu_indices(t.features, t.features, 1))] = t.upper_entries.detach()
            put(made.factors, factors)
        put(made.log_diagonal, t.upper_diag.log())
        put(made.shift, t.bias)
        return made

    def _act_norm(self, t: Any) -> Bijector:
        made = ActNorm(t.log_scale.shape[0])
        put(made.log_scale, t.log_scale)
        put(made.shift, t.shift)
        put(made.initialized, t.initialized)
        return made

    def _batch_norm(self, t: Any) -> Bijector:
        made = BatchNorm(t.bias.shape[0], momentum=t.momentum, eps=t.eps)
        put(made.log_scale, t.weight.log())
        put(made.shift, t.bias)
        put(made.mean, t.running_mean)
        put(made.var, t.running_var)
        made.initialized.fill_(True)
        return made

    def _pointwise_affine(self, t: Any) -> Bijector:
        if t._shift.dim() > 1 or t._scale.dim() > 1:
            raise ConfigError(f"{WHO}: {type(t).__name__} of tensors of shape {tuple(t._shift.shape)} is not supported; events must be vectors.")
        made = Standardize(self.features)
        put(made.loc, t._shift.expand(self.features))
        put(made.scale, t._scale.expand(self.features))
        made.fitted.fill_(True)
        return made

    # -- coupling -----------------------------------------------------------------------------------------------

    def _affine_coupling(self, t: Any) -> Bijector:
        return self._coupling(t, Affine(scale="sigmoid", offset=2.0, floor=FLOOR), (0, 1))

    def _spline_coupling(self, t: Any) -> Bijector:
        net = t.transform_net
        width = getattr(net, "hidden_features", getattr(net, "hidden_channels", 1))
        return self._coupling(t, _spline_univariate(t), None, _shrinking(t.num_bins, width, len(t.transform_features)))

    def _coupling(self, t: CouplingTransform, univariate: Univariate, blocks: tuple[int, ...] | None, factor: Tensor | None = None) -> Bijector:
        """``blocks``: nflows' outputs are blocks of one number per coordinate, in that order; None: coordinate by coordinate."""
        groups = len(t.transform_features)
        net = conditioner_net(WHO, t.transform_net, len(t.identity_features))
        if blocks is not None:
            put_linear(net.last, net.last, output_rows(groups, blocks))
        if factor is not None:
            put_linear(net.last, net.last, None, factor)
        mask = torch.zeros(t.features, dtype=torch.bool)
        mask[t.transform_features.cpu()] = True
        made = Coupling(t.features, univariate, (), mask.tolist(), context_features=net.context_features, conditioner=net)
        if t.unconditional_transform is None:
            return made
        return made >> self.read(t.unconditional_transform).on(t.identity_features.tolist(), t.features)  # type: ignore[return-value]

    def _spline(self, t: Any) -> Bijector:
        univariate = _spline_univariate(t, t.unnormalized_widths.shape[-1])
        made = Elementwise(tuple(t.unnormalized_widths.shape[:-1]), univariate)
        table: Any = made._net
        put(table.value, torch.cat([t.unnormalized_widths, t.unnormalized_heights, t.unnormalized_derivatives], dim=-1).flatten())
        return made

    # -- autoregression -----------------------------------------------------------------------------------------

    def _affine_autoregressive(self, t: Any) -> Bijector:
        # nflows has the scale before the shift
        index = torch.arange(2 * t.features).reshape(-1, 2).flip(1).flatten()
        return self._autoregressive(t, t.features, Affine(scale="softplus", offset=0.0, floor=FLOOR), index, None)

    def _spline_autoregressive(self, t: Any) -> Bijector:
        univariate = _spline_univariate(t)
        features = t.autoregressive_net.initial_layer.in_features
        factor = _shrinking(t.num_bins, getattr(t.autoregressive_net, "hidden_features", 1), features)
        return self._autoregressive(t, features, univariate, torch.arange(features * univariate.parameter_count), factor)

    def _autoregressive(self, t: AutoregressiveTransform, features: int, univariate: Univariate, index: Tensor, factor: Tensor | None) -> Bijector:
        net = masked_net(WHO, t.autoregressive_net, index, factor)
        return Autoregressive(features, univariate, (), context_features=net.context_features, conditioner=net)


def _spline_univariate(t: Any, bins: int | None = None) -> RationalQuadraticSpline:
    if t.tails != "linear":
        raise ConfigError(f"{WHO}: {type(t).__name__} with tails={t.tails!r} is not supported; only tails='linear' is.")
    floors = {name: getattr(t, name) for name in ("min_bin_width", "min_bin_height", "min_derivative")}
    wrong = [f"{name}={value}" for name, value in floors.items() if value != FLOOR]
    if wrong:
        raise ConfigError(f"{WHO}: {type(t).__name__} with {', '.join(wrong)} is not supported; only {FLOOR} is.")
    return RationalQuadraticSpline(t.num_bins if bins is None else bins, float(t.tail_bound))


def _shrinking(bins: int, width: int, groups: int) -> Tensor | None:
    """What nflows divides raw widths and heights by, as a factor for every output: it goes into the weights."""
    if width == 1:
        return None
    one = torch.cat([torch.full((2 * bins,), 1 / math.sqrt(width), dtype=torch.float64), torch.ones(bins - 1, dtype=torch.float64)])
    return one.repeat(groups)


def read_base(base: Any) -> Distribution:
    """The flowkit distribution equal to one of nflows."""
    if is_plain(base, distributions.StandardNormal):
        return StandardNormal(tuple(base._shape))
    if is_plain(base, distributions.DiagonalNormal):
        made = DiagonalNormal(tuple(base._shape))
        put(made.mean, base.mean_.reshape(base._shape))
        put(made.log_scale, base.log_std_.reshape(base._shape))
        return made
    if is_plain(base, distributions.ConditionalDiagonalNormal):
        return _conditional_normal(base)
    raise unsupported(WHO, base, ("StandardNormal", "DiagonalNormal", "ConditionalDiagonalNormal of a context, or of one nn.Linear of it"))


def _conditional_normal(base: Any) -> Distribution:
    """Mean and log-scale are the context itself, or one linear layer of it."""
    size, encoder = math.prod(base._shape), base._context_encoder
    identity = type(encoder) is nn.Identity or getattr(encoder, "__module__", "") == type(base).__module__
    if not identity and type(encoder) is not nn.Linear:
        names = ("no context_encoder", "nn.Identity", "nn.Linear")
        raise unsupported(f"{WHO}: ConditionalDiagonalNormal", encoder, names)
    weight = torch.eye(2 * size, device=base._log_z.device) if identity else encoder.weight
    bias = weight.new_zeros(2 * size) if identity or encoder.bias is None else encoder.bias
    made = DiagonalNormal(tuple(base._shape), context_features=weight.shape[1])
    net: Any = made.net
    put(net.weight, weight)
    put(made.mean, bias[:size].reshape(base._shape))
    put(made.log_scale, bias[size:].reshape(base._shape))
    return made
