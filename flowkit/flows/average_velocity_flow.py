"""Continuous flows that also sample in one or a few steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.continuous import AverageVelocityField
from flowkit.core.errors import ConfigError
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, flag, positive, positive_sizes
from flowkit.core.vector_field import VectorField
from flowkit.flows._conditioning import conditioning
from flowkit.flows.continuous_flow import ContinuousFlow


@FLOWS.register("average_velocity_flow")
class AverageVelocityFlow(ContinuousFlow):
    """A continuous flow whose field is an average velocity u(t, r, x): an ODE for densities, jumps x + (r - t) u(t, r, x) for fast samples.

    ``log_prob``, ``sample``, ``to_latent`` and the rest are those of the ODE with v(t, x) = u(t, t, x), exact as for every ``ContinuousFlow``.
    ``sample(n, steps=k)`` takes k jumps instead, one evaluation each: the same law as far as u is the average of v along the trajectories, which
    ``MeanFlow`` and ``ConsistencyTraining`` train. What remains is an error of those samples; ``log_prob`` does not know of it.

    Args:
        features, context_features, hidden: as for ``ContinuousFlow``.
        field: an average velocity in place of the default ``AverageVelocityField``.
        activation: of the default field.
        options: the others of ``ContinuousFlow``.

    Reference: Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv:2505.13447.

    Example:
        >>> import torch, flowkit as fk
        >>> flow = fk.flows.AverageVelocityFlow(features=2, hidden=(16, 16))
        >>> flow.sample(5, steps=1).shape, flow.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int | None = None,
        context_features: int = 0,
        hidden: Sequence[int] = (128, 128, 128),
        *,
        field: VectorField | None = None,
        activation: str = "silu",
        **options: Any,
    ) -> None:
        if field is None and features is not None:
            seen = conditioning("AverageVelocityFlow", context_features, options.get("classes", 0), options.get("context_shape"), options.get("embed"))
            features, hidden = positive(features, "AverageVelocityFlow", "features"), positive_sizes(hidden, "AverageVelocityFlow", "hidden")
            field = AverageVelocityField(features, hidden, activation=activation, context_features=seen.features)
        if field is not None and not hasattr(field, "average_velocity"):
            raise ConfigError(f"AverageVelocityFlow: expected a field with average_velocity(); got {type(field).__name__}. Use AverageVelocityField.")
        super().__init__(features, context_features, hidden, field=field, activation=activation, **options)

    def sample(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        *,
        steps: int | None = None,
        renoise: bool = False,
    ) -> Tensor:
        """Draw events, detached from the parameters: (*shape, *Bc, *event).

        Args:
            steps: number k of jumps over equal times; None for the ODE, whose law ``log_prob`` is of.
            renoise: after every jump to the data go back to time i / k by mixing in fresh noise, as consistency models do.
        """
        with torch.no_grad():
            return self.rsample(shape, context, generator, temperature, steps=steps, renoise=renoise)

    def rsample(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        *,
        steps: int | None = None,
        renoise: bool = False,
    ) -> Tensor:
        """As ``sample``, differentiable in the parameters."""
        renoise = flag(renoise, f"{self.who}.sample", "renoise")
        if steps is None:
            if renoise:
                raise ConfigError(f"{self.who}.sample: renoise=True needs steps=, the number of jumps.")
            return super().rsample(shape, context, generator, temperature)
        steps = positive(steps, f"{self.who}.sample", "steps")
        if not hasattr(self.field, "average_velocity"):
            raise ConfigError(f"{self.who}.sample: {type(self.field).__name__} has no average velocity. Leave steps out, or bake guidance into MeanFlow.")
        z, seen = self._draw_latent(shape, context, generator, temperature)
        return self._placed(self._renoised(z, seen, steps, generator, temperature) if renoise else self._jumped(z, seen, steps))

    def _times(self, steps: int) -> Tensor:
        transport: Any = self.bijector
        start, end = transport.times()
        return start + (end - start) * torch.linspace(0, 1, steps + 1, dtype=start.dtype, device=start.device)

    def _jumped(self, x: Tensor, context: Context, steps: int) -> Tensor:
        field, times = self._average(), self._times(steps)
        for i in range(steps):
            x = field.jump(times[i], times[i + 1], x, context)
        return x

    def _renoised(self, z: Tensor, context: Context, steps: int, generator: torch.Generator | None, temperature: float) -> Tensor:
        field, times = self._average(), self._times(steps)
        x = field.jump(times[0], times[-1], z, context)
        for t in times[1:-1]:
            own = self.base.context_shape is not None
            noise = self.base.rsample(() if own else z.shape[: z.dim() - len(self.event_shape)], context if own else None, generator, temperature)
            x = field.jump(t, times[-1], torch.lerp(noise, x, t.to(x)), context)
        return x  # type: ignore[no-any-return]

    def _average(self) -> Any:
        return self.field

    @classmethod
    def examples(cls) -> Iterator[tuple[str, AverageVelocityFlow]]:
        fixed: dict[str, Any] = {"solver": "dopri8", "steps": 8, "per_sample": False}
        yield "plane", cls(2, hidden=(8, 8), **fixed)
        yield "conditional", cls(2, 3, hidden=(8, 8), activation="tanh", **fixed)
