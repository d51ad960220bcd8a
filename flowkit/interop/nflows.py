"""To and from nflows: wrap its transforms and flows, be used as one, or take over the parameters of one.

nflows calls the direction from data to noise ``forward``; flowkit's ``forward`` generates. Everything here turns it around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.shapes import ContextShape
from flowkit.core.transform import Bijector
from flowkit.interop._require import require


def to_flowkit(source: Any, *, shape: Sequence[int] | None = None, context_shape: Sequence[int] | None = None) -> Any:
    """Wrap a transform, a distribution or a flow of nflows; parameters stay shared and train.

    ``forward`` of the result is nflows' ``inverse``. Any batch shape may lead; nflows itself sees one batch axis. Neither compiles nor
    vmaps, and cannot be saved by ``fk.save``: use ``load_parameters`` for a native flow.

    Args:
        source: nflows Transform -> Bijector; nflows Flow -> Flow; other nflows Distribution -> Distribution.
        shape: event shape of the data; default read off the source.
        context_shape: event shape of the context (the raw one, where the flow has an embedding net); default read off the source's networks.

    Raises:
        ConfigError: nflows is missing, ``source`` is something else, or a shape must be told.
    """
    require("nflows", "nflows", "nflows.to_flowkit")
    from flowkit.interop._from_nflows import wrap

    return wrap(source, None if shape is None else tuple(shape), None if context_shape is None else tuple(context_shape))


def to_nflows(source: Any) -> Any:
    """Wrap a bijector as an nflows Transform, or a flow as an nflows Flow; parameters stay shared and train.

    The transform's ``forward`` is ``source.inverse``, data to noise. The flow has ``log_prob(inputs, context)``, ``sample(num_samples,
    context, batch_size)`` of shape (num_samples, ...), or (contexts, num_samples, ...) with a context, ``sample_and_log_prob`` and
    ``transform_to_noise``. A context given to an unconditional map is ignored, as nflows does.

    Args:
        source: a flowkit Bijector or Flow.

    Raises:
        ConfigError: nflows is missing, or ``source`` is something else.
    """
    require("nflows", "nflows", "nflows.to_nflows")
    from flowkit.interop._as_nflows import AsNflowsFlow, AsNflowsTransform

    if isinstance(source, Flow):
        return AsNflowsFlow(source)
    if isinstance(source, Bijector):
        return AsNflowsTransform(source)
    raise ConfigError(f"nflows.to_nflows: expected a flowkit Bijector or Flow; got {type(source).__name__}.")


def load_parameters(source: Any, *, context_shape: Sequence[int] | None = None, check: bool = True) -> Flow:
    """A native flowkit flow with a copy of the parameters of an nflows flow: the same density, and no nflows inside.

    It compiles, saves and loads like any other flow. Read are CompositeTransform, InverseTransform, IdentityTransform, Permutation along
    dim 1 (reverse and random ones too), LULinear, ActNorm, BatchNorm, PointwiseAffineTransform, AffineCouplingTransform,
    AdditiveCouplingTransform, PiecewiseRationalQuadraticCouplingTransform and -CDF with linear tails,
    MaskedAffineAutoregressiveTransform and MaskedPiecewiseRationalQuadraticAutoregressiveTransform with linear tails; the networks
    ResidualNet, MLP and MADE without batch normalisation; the bases StandardNormal, DiagonalNormal and ConditionalDiagonalNormal; and
    embedding nets that are Identity, Linear, a Sequential of Linear and one activation, nflows' MLP, or registered with ``@NETS.register``.

    nflows' batch normalisation uses the batch's statistics while it trains, flowkit's the running ones: the two agree in evaluation mode.

    Args:
        source: an nflows Flow of vectors.
        context_shape: event shape of the raw context, for an embedding net that does not say.
        check: compare the log-densities of both, on copies in float64.

    Raises:
        ConfigError: nflows is missing; a part has no counterpart (the message names its class and what is supported); the check failed.
    """
    require("nflows", "nflows", "nflows.load_parameters")
    from nflows.flows.base import Flow as NflowsFlow

    from flowkit.interop._agreement import check_agreement, twin_of
    from flowkit.interop._nflows_nets import embedding
    from flowkit.interop._nflows_parameters import WHO, Reader, read_base
    from flowkit.interop._parts import is_plain, like_source, unsupported

    if not is_plain(source, NflowsFlow):
        raise unsupported(WHO, source, ("nflows.flows.Flow", "SimpleRealNVP", "MaskedAutoregressiveFlow"))
    twin = twin_of(source)  # what is derived from a parameter is derived in float64, and rounded once
    base: Distribution = read_base(twin._distribution)
    if len(base.event_shape) != 1:
        raise ConfigError(f"{WHO}: events of shape {tuple(base.event_shape)} are not supported; only vectors are.")
    bijector = ~Reader(int(base.event_shape[0] or 0)).read(twin._transform)
    embed: nn.Module | None = embedding(WHO, twin._embedding_net)
    raw: ContextShape = tuple(context_shape) if context_shape is not None else None
    if embed is not None and raw is None:
        raw = (int(embed.in_features),) if isinstance(getattr(embed, "in_features", None), int) else None  # type: ignore[arg-type]
    flow = Flow(base, bijector, embed=embed, context_shape=raw if embed is not None else None)
    like_source(flow, twin)
    if check:
        check_agreement(WHO, flow, twin, _log_prob)
    like_source(flow, source)
    return flow


def _log_prob(source: Any, x: Tensor, context: Tensor | None) -> Tensor:
    return source.log_prob(x, context)
