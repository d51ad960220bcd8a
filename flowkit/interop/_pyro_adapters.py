"""A flow with Pyro's surface, and a guide made of one.

``PyroFlow`` and ``AutoFlow`` are attributes of this module that are made when they are first asked for: it can be imported without Pyro.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.flow_view import FlowView
from flowkit.core.shapes import Context, show
from flowkit.interop._constraints import constraint_of


def __getattr__(name: str) -> Any:
    if name in _MADE:
        return _MADE[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _pyro_flow() -> type:
    from pyro.distributions.torch_distribution import TorchDistributionMixin

    class PyroFlow(FlowView, TorchDistributionMixin):  # type: ignore[misc]
        """The flow at one context as a Pyro distribution.

        Args:
            flow, context, batch: as for ``FlowView``.
            one_pass: keep the log-density of the last draw, which came with it: for an object that lives no longer than its parameters
                keep their values.
        """

        def __init__(self, flow: Flow, context: Context = None, *, batch: tuple[int, ...] | None = None, one_pass: bool = False) -> None:
            super().__init__(flow, context, batch=batch)
            self._one_pass = one_pass
            self._last: tuple[Tensor, Tensor, bool] | None = None

        @property
        def support(self) -> Any:
            """Where the density is positive, as torch's own constraint where there is one."""
            return constraint_of(self.flow.domain)

        def rsample(self, sample_shape: Any = ()) -> Tensor:
            if not self._one_pass:
                return super().rsample(sample_shape)
            x, log_prob = self.flow.sample_and_log_prob((*sample_shape, *self._extra), self.context)
            self._last = x, log_prob, torch.is_grad_enabled()
            return x

        def log_prob(self, value: Tensor) -> Tensor:
            if self._last is not None and value is self._last[0] and self._last[2] == torch.is_grad_enabled():
                return self._last[1]
            return super().log_prob(value)

        def expand(self, batch_shape: Any, _instance: Any = None) -> PyroFlow:
            view = super().expand(batch_shape)
            return PyroFlow(view.flow, view.context, batch=tuple(batch_shape), one_pass=self._one_pass)

    return _at_module_level(PyroFlow)


@cache
def _auto_flow() -> type:
    from pyro.infer.autoguide import AutoContinuous
    from pyro.infer.autoguide.initialization import init_to_feasible

    class AutoFlow(AutoContinuous):
        """Pyro's automatic guide whose posterior over the joined unconstrained variables is a flow.

        Args:
            model: of Pyro.
            flow: of vectors.
            context: one context, or a function of the model's arguments.
        """

        def __init__(self, model: Callable[..., Any], flow: Flow, context: Context | Callable[..., Context] = None) -> None:
            super().__init__(model, init_loc_fn=init_to_feasible)
            self.flow = flow
            self._flow_context = context

        def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
            super()._setup_prototype(*args, **kwargs)
            if tuple(self.flow.event_shape) != (self.latent_dim,):
                sites = ", ".join(f"{name}{tuple(shape)}" for name, shape in self._unconstrained_shapes.items())
                raise ConfigError(
                    f"pyro.guide: the model has {self.latent_dim} unconstrained numbers ({sites}), the flow events of shape "
                    f"{show(self.flow.event_shape)}. Build the flow with features={self.latent_dim}."
                )

        def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
            """The flow at the context of these arguments."""
            context = self._flow_context
            return _pyro_flow()(self.flow, context(*args, **kwargs) if callable(context) else context, one_pass=True)

        @torch.no_grad()
        def median(self, *args: Any, draws: int = 1000, **kwargs: Any) -> dict[str, Tensor]:
            """Medians of each variable's own draws: a flow has none in closed form."""
            latent = self.get_posterior(*args, **kwargs).sample((draws,)).median(0).values
            return {site["name"]: biject_to(site["fn"].support)(value) for site, value in self._unpack_latent(latent)}

    return _at_module_level(AutoFlow)


def _at_module_level(cls: type) -> type:
    """Let pickle find the class as an attribute of this module."""
    cls.__qualname__ = cls.__name__
    return cls


_MADE: dict[str, Callable[[], type]] = {"PyroFlow": _pyro_flow, "AutoFlow": _auto_flow}
