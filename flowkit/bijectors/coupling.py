"""Coupling layers over any univariate map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._conditioning import carry_through, check_conditioner, check_univariate, conditioner, grouped, traits_over, univariate_domain
from flowkit.bijectors._fused_layer import Places, fused_carry, fused_layer
from flowkit.bijectors._scores import entry, left
from flowkit.core.build import build
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate


@BIJECTORS.register("coupling")
class Coupling(Bijector):
    """Part of the vector conditions, the rest is mapped elementwise: x_t = u(z_t; net(z_c, context)), x_c = z_c.

    Both directions cost one pass of the conditioner. With ``features=1`` (or a mask that is True everywhere) nothing
    is left to condition on: the parameters come from the context, or are learned constants.

    Args:
        features: D.
        univariate: the scalar map.
        hidden: widths of the conditioner's hidden layers.
        mask: D booleans, True where mapped; default the last ceil(D / 2).
        context_features: size of the context's last axis.
        net: registered conditioner, "mlp" or "residual_mlp".
        activation: of the conditioner.
        conditioner: a net of your own, (x_c (*B, Dc), context) -> (*B, Dt * parameter_count), in place of ``net``.

    Reference: Dinh et al. (2017), Real NVP, arXiv:1605.08803, equations 4 to 9; Durkan et al. (2019), arXiv:1906.04032.
    """

    mapped: Tensor
    conditioning: Tensor

    def __init__(
        self,
        features: int,
        univariate: Univariate,
        hidden: Sequence[int] = (64, 64),
        mask: Sequence[bool] | Tensor | None = None,
        *,
        context_features: int = 0,
        net: str = "mlp",
        activation: str = "relu",
        conditioner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.hidden, self.mask = positive(features, "Coupling", "features"), positive_sizes(hidden, self.who, "hidden"), mask
        self.context_features, self.net, self.activation = context_features, net, activation
        self.in_shape = self.out_shape = (self.features,)
        self.context_shape = (context_features,) if context_features else None
        mapped, rest = _split(mask, self.features)
        self._slice, self._places = _as_slice(mapped), Places(tuple(rest), tuple(mapped))
        self.univariate = check_univariate(univariate, self.who)
        self._univariate = univariate.select(mapped)
        self.conditioner = conditioner
        self._net = _network(self, len(rest), len(mapped))
        self._domain = univariate_domain(self._univariate, mapped, self.features)
        self._codomain = univariate_domain(self._univariate, mapped, self.features)
        self.register_buffer("mapped", torch.tensor(mapped), persistent=False)
        self.register_buffer("conditioning", torch.tensor(rest, dtype=torch.int64), persistent=False)
        self.traits = traits_over(univariate, "dense" if rest else "diagonal", activation)

    @property
    def _active_net(self) -> Any:
        return self._net if self.conditioner is None else self.conditioner

    def _params(self, value: Tensor, context: Any) -> Tensor:
        params = self._active_net(value.index_select(-1, self.conditioning), context)
        return grouped(params, len(self.mapped), self._univariate.parameter_count, value, "Coupling")

    def _put(self, value: Tensor, mapped: Tensor) -> Tensor:
        if self._slice is None:
            return value.index_copy(value.dim() - 1, self.mapped, mapped)
        return torch.slice_scatter(value, mapped, value.dim() - 1, *self._slice)  # copies once; index_copy writes entry by entry

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        whole = fused_layer(self._univariate, self._active_net, z, context, self._places, inverse=False)
        if whole is not None:
            return whole
        mapped, log_det = self._univariate.transform_event(z.index_select(-1, self.mapped), self._params(z, context), 1)
        return self._put(z, mapped), log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        whole = fused_layer(self._univariate, self._active_net, x, context, self._places, inverse=True)
        if whole is not None:
            return whole
        mapped, log_det = self._univariate.untransform_event(x.index_select(-1, self.mapped), self._params(x, context), 1)
        return self._put(x, mapped), log_det

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        whole = fused_carry(self._univariate, self._active_net, value, context, self._places, score, inverse=inverse)
        if whole is not None:
            return whole
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            entered = entry(value, recording)
            moved, own = entered.index_select(-1, self.mapped), score.index_select(-1, self.mapped)
            out, log_det, carried, correction = carry_through(self._univariate, moved, self._params(entered, context), entered, own, 1, inverse=inverse)
            out = self._put(entered, out)
        after = self._put(score if correction is None else score - correction, carried)
        return left(out, log_det, after, recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Coupling]]:
        spline = build({"name": "rational_quadratic_spline", "bins": 4}, Univariate)
        affine = build({"name": "affine"}, Univariate)
        yield "spline", cls(3, spline, (8,))
        yield "affine_conditional", cls(4, affine, (8, 8), (True, False, False, True), context_features=2, net="residual_mlp", activation="tanh")
        yield "single_conditional", cls(1, affine, (8,), context_features=2)
        yield "single", cls(1, spline)
        mixed = build({"name": "rational_quadratic_spline", "bins": 3, "bound": 2.0, "ends": ["linear", "bounded", "circular"]}, Univariate)
        yield "mixed_ends", cls(3, mixed, (8,), (False, True, True))
        yield "mixed_ends_one_mapped", cls(3, mixed, (8,), (False, False, True))


def _split(mask: Sequence[bool] | Tensor | None, features: int) -> tuple[list[int], list[int]]:
    """Positions that are mapped and positions that condition."""
    if isinstance(mask, str) or not (mask is None or hasattr(mask, "__iter__")):
        raise ConfigError(f"Coupling: expected a mask of {features} booleans; got {mask!r}.")
    flags = [i >= features // 2 for i in range(features)] if mask is None else mask.tolist() if isinstance(mask, Tensor) else list(mask)
    if len(flags) != features:
        raise ShapeError(f"Coupling: expected a mask of {features} booleans; got {len(flags)}.")
    chosen = [bool(flag) for flag in flags]
    if chosen != flags:
        raise ConfigError(f"Coupling: expected a mask of booleans, True where coordinates are mapped; got {flags}.")
    if not any(chosen):
        raise ConfigError("Coupling: the mask maps nothing; set True where coordinates are mapped.")
    return [i for i, flag in enumerate(chosen) if flag], [i for i, flag in enumerate(chosen) if not flag]


def _as_slice(index: list[int]) -> tuple[int, int, int] | None:
    """Start, end and step where the positions are evenly spaced."""
    step = index[1] - index[0] if len(index) > 1 else 1
    return (index[0], index[-1] + 1, step) if index == list(range(index[0], index[-1] + 1, step)) else None


def _network(layer: Coupling, in_features: int, groups: int) -> nn.Module | None:
    if layer.conditioner is not None:
        check_conditioner(layer.conditioner, groups * layer._univariate.parameter_count, "Coupling")
        return None
    return conditioner(layer.net, "Coupling", in_features, groups, layer._univariate, layer.hidden, layer.context_features, layer.activation)
