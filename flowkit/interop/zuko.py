"""From zuko: take over the parameters of its flows.

zuko's transforms map data to noise; flowkit's ``forward`` generates. ``load_parameters`` turns them around. ``flow(context)`` is a
``torch.distributions`` object in both.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.interop._require import require


def load_parameters(source: Any, *, check: bool = True) -> Flow:
    """A native flowkit flow with a copy of the parameters of a zuko flow: the same density, and no zuko inside.

    It compiles, saves and loads like any other flow. Read are MAF, NSF, NICE and RealNVP, and any ``zuko.Flow`` made of
    MaskedAutoregressiveTransform (any order, ``passes``, adjacency), GeneralCouplingTransform, ElementWiseTransform, inverses and
    compositions of them, and UnconditionalTransform of a PermutationTransform; over MonotonicAffineTransform, MonotonicRQSTransform and
    AdditiveTransform with any slope and bound; with MLP and MaskedMLP networks without normalisation or residual blocks, of one
    activation; on a DiagNormal.

    Args:
        source: a zuko flow.
        check: compare the log-densities of both, on copies in float64.

    Raises:
        ConfigError: zuko is missing; a part has no counterpart (the message names its class and what is supported); the check failed.
    """
    zuko = require("zuko", "zuko", "zuko.load_parameters")
    from flowkit.interop._agreement import check_agreement, twin_of
    from flowkit.interop._parts import is_plain, like_source, unsupported
    from flowkit.interop._zuko_parameters import WHO, Reader, read_base

    if not is_plain(source, zuko.lazy.Flow):
        raise unsupported(WHO, source, ("zuko.flows.MAF", "zuko.flows.NSF", "zuko.flows.NICE", "zuko.flows.RealNVP", "zuko.lazy.Flow of their transforms"))
    twin = twin_of(source)  # what is derived from a parameter is derived in float64, and rounded once
    base = read_base(twin.base)
    if len(base.event_shape) != 1:
        raise ConfigError(f"{WHO}: events of shape {tuple(base.event_shape)} are not supported; only vectors are.")
    flow = Flow(base, ~Reader(int(base.event_shape[0] or 0)).read(twin.transform))
    like_source(flow, twin)
    if check:
        check_agreement(WHO, flow, twin, _log_prob)
    like_source(flow, source)
    return flow


def _log_prob(source: Any, x: Tensor, context: Tensor | None) -> Tensor:
    return source(context).log_prob(x)
