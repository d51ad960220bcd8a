"""Flows in Pyro: as a distribution in a model, and as a guide.

``flow(context)`` is a ``torch.distributions`` object; Pyro asks a little more of what ``pyro.sample`` gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.shapes import Context
from flowkit.interop._require import require

if TYPE_CHECKING:
    from pyro.distributions import TorchDistribution
    from pyro.infer.autoguide import AutoContinuous


def to_pyro(flow: Flow, context: Context = None) -> TorchDistribution:
    """A flow as a Pyro distribution: ``pyro.sample("x", to_pyro(flow))``, also with ``mask``, ``expand``, ``to_event`` and in plates.

    Its support is told by torch's own constraints where there is one, so that HMC and automatic guides can map it. For the flow's parameters to
    be trained by SVI, call ``pyro.module("flow", flow)`` in the model.

    Args:
        flow: of any kind with a density.
        context: (*Bc, *context_shape); Bc becomes the batch shape.

    Raises:
        ConfigError: Pyro is missing.
    """
    require("pyro", "pyro-ppl", "pyro.to_pyro")
    from flowkit.interop import _pyro_adapters as adapters

    if not isinstance(flow, Flow):
        raise ConfigError(f"pyro.to_pyro: expected a flowkit Flow; got {type(flow).__name__}.")
    return adapters.PyroFlow(flow, context)


def guide(model: Callable[..., Any], flow: Flow, *, context: Context | Callable[..., Context] = None) -> AutoContinuous:
    """An SVI guide: the joint posterior of all of a model's latent variables, unconstrained and joined to one vector, is the flow.

    Each variable is mapped onto its own support, as Pyro's automatic guides do, with the volume counted. The flow's event is a vector with one
    entry for each unconstrained number of the model; its parameters train with the guide's. Calling the guide draws all variables once.

    Args:
        model: a Pyro model with continuous latent variables only.
        flow: the family; its sampling and ``log_prob`` of its own samples are what SVI uses, so plain (not inverted) chains are fastest.
        context: for a conditional flow one context of shape (*context_shape), or a function of the model's arguments that returns it (amortised).

    Raises:
        ConfigError: Pyro is missing; at the first call, the flow's size is not that of the model's latent variables.
    """
    require("pyro", "pyro-ppl", "pyro.guide")
    from flowkit.interop import _pyro_adapters as adapters

    if not isinstance(flow, Flow):
        raise ConfigError(f"pyro.guide: expected a flowkit Flow; got {type(flow).__name__}.")
    return adapters.AutoFlow(model, flow, context)
