"""What coupling, autoregression and elementwise maps share: parameters from a conditioner, domain from the univariate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import NETS
from flowkit.core.tally import tally
from flowkit.core.traits import Jacobian, Traits
from flowkit.core.univariate import Univariate
from flowkit.nets import Constant


class Carried(NamedTuple):
    """What a univariate map makes of an event and its score."""

    out: Tensor
    log_det: Tensor
    score: Tensor
    correction: Tensor | None


def check_univariate(univariate: Univariate, who: str) -> Univariate:
    """The scalar map given by the user, once it is known to be one: neither its name nor its class."""
    if not isinstance(univariate, Univariate):
        got = f"the class {univariate.__name__}" if isinstance(univariate, type) else repr(univariate)
        raise ConfigError(f"{who}: expected a univariate; got {got}. Pass an instance, e.g. Affine().")
    return univariate


def conditioner(
    net: str, who: str, in_features: int, groups: int, univariate: Univariate, hidden: tuple[int, ...], context_features: int, activation: str
) -> nn.Module:
    """A net from (in_features, context) to ``groups`` sets of parameters, starting where the univariate is the identity."""
    out = groups * univariate.parameter_count
    if in_features + context_features == 0:
        made: nn.Module = Constant(out)
    else:
        made = NETS[net](in_features, out, hidden, context_features=context_features, activation=activation)
    return start_at(made, univariate, groups, who)


def carry_through(univariate: Univariate, value: Tensor, params: Tensor, given: Tensor | None, score: Tensor, event_dims: int, *, inverse: bool) -> Carried:
    """A univariate map of an event under parameters that a net made of ``given``, and the score behind it.

    1. The mapped coordinates: x = u(z; h), log_det = sum l(z; h), so their score is s' = (s - dl/dz) / u'.
    2. The log-density carried over as a function of ``given`` = c at a fixed (x, c): s_c' = s_c - d/dc (s' . u(z; h(c)) + sum l(z; h(c))),
       one product with the net's Jacobian, which shares its evaluation with the call itself.

    Args:
        value: (*B, *event); params: (*B, *event, parameter_count), with the graph that leads to ``given`` (None: nothing to lead to).
        score: at ``value``, a constant.

    Returns:
        out (*B, *event), log_det (*B), score (*B, *event), and what to subtract from the score of ``given``, or None.
    """
    leaf = params if params.requires_grad else params.detach().requires_grad_()
    out, log_slope, carried, cotangent = univariate.carry_score(value, leaf, score, inverse=inverse)
    out, log_det = tally(out, log_slope, event_dims, "none")
    if given is None or not params.requires_grad:
        return Carried(out, log_det, carried, None)
    (correction,) = torch.autograd.grad(params, given, cotangent, retain_graph=True, allow_unused=True)
    return Carried(out, log_det, carried, correction)


def start_at(net: nn.Module, univariate: Univariate, groups: int, who: str) -> nn.Module:
    """Set a conditioner's output layer to give the univariate's initial parameters for every input."""
    start = univariate.initial_parameters().repeat(groups)
    with torch.no_grad():
        if isinstance(net, Constant):
            net.value.copy_(start)
            return net
        last = getattr(net, "last", None)
        if not isinstance(last, nn.Linear):
            raise ConfigError(f"{who}: expected a net whose output layer is a Linear called 'last'; got {type(net).__name__}.")
        nn.init.zeros_(last.weight)
        last.bias.copy_(start)
    return net


def check_conditioner(net: nn.Module, out_features: int, who: str) -> nn.Module:
    """A conditioner given by the user: only its output size can be checked beforehand."""
    declared = getattr(net, "out_features", out_features)
    if declared != out_features:
        raise ConfigError(f"{who}: expected a conditioner with out_features={out_features}; got {declared}.")
    return net


def univariate_domain(univariate: Univariate, index: list[int], features: int) -> Box | None:
    """The box that a univariate acting on some of the coordinates is defined on; None for all of R^n."""
    low, high = univariate.intervals(len(index))
    if bool(torch.isinf(low).all() and torch.isinf(high).all()):
        return None
    whole_low, whole_high = torch.full((features,), -torch.inf, dtype=low.dtype), torch.full((features,), torch.inf, dtype=high.dtype)
    whole_low[index], whole_high[index] = low, high
    return Box(whole_low, whole_high)


def grouped(params: Tensor, groups: int, count: int, like: Tensor, who: str) -> Tensor:
    """(*B, groups * count) -> (*B, groups, count), in the precision of the values (a net may run in bf16)."""
    if params.shape[-1] != groups * count:
        raise ShapeError(f"{who}: expected a conditioner with {groups} * {count} = {groups * count} outputs; got {params.shape[-1]}. Resize its last layer.")
    return params.to(like.dtype).reshape(*params.shape[:-1], groups, count)


def traits_over(univariate: Univariate, jacobian: Jacobian, activation: str = "tanh", *, sequential: bool = False) -> Traits:
    """Traits of a layer that applies a univariate under a conditioner; ``sequential`` if the inverse goes group by group."""
    declared = univariate.traits
    return Traits(
        inverse="sequential" if sequential and declared.inverse == "closed" else declared.inverse,
        jacobian=jacobian,
        score="closed",
        volume_preserving=declared.volume_preserving,
        smooth=declared.smooth and activation not in ("relu", "leaky_relu"),
        compiles=declared.compiles,
        vmaps=declared.vmaps,
        tolerance=declared.tolerance,
    )
