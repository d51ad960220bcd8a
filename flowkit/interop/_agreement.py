"""An imported flow is compared with the flow it was imported from before anybody gets it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow

M = TypeVar("M", bound=nn.Module)
POINTS = 32  # of each kind: samples of the flow, and wide noise
NUDGE = 1e-12  # relative change of x that shows how a rounding error grows
WILD = 1e12  # beyond it a log-density is that of a point next to overflow
TOLERANCE = 1e-6  # of a log-density in float64


def twin_of(source: M) -> M:
    """A copy in float64 and evaluation mode; the source is left as it is."""
    with evaluating(source):  # also lets nflows forget its cached matrices, which cannot be copied
        return copy.deepcopy(source).double().eval()


def check_agreement(who: str, flow: Flow, source: nn.Module, log_prob: Callable[[Any, Tensor, Tensor | None], Tensor]) -> None:
    """Compare log-densities at samples of the flow and at noise, both wider and narrower than a standard normal.

    Args:
        who: the call, for the message.
        flow: what was made, in float64.
        source: what it was made from, likewise.
        log_prob: of (source, x (N, D), context (N, C) or None) -> (N).

    Raises:
        ConfigError: they differ: some part of the source is not what its class says.
    """
    device = next((p.device for p in flow.parameters()), torch.device("cpu"))
    generator = torch.Generator(device).manual_seed(0)

    def noise(size: tuple[Any, ...]) -> Tensor:
        return torch.randn((POINTS, *size), generator=generator, dtype=torch.float64, device=device)

    with torch.no_grad():
        context = None if flow.context_shape is None else noise(tuple(flow.context_shape))
        drawn = flow.sample(() if context is not None else POINTS, context, generator=generator)
        x = torch.cat([drawn, 3 * noise(flow.event_shape), 0.3 * noise(flow.event_shape)])
        context = None if context is None else torch.cat([context] * 3)
        usable = torch.isfinite(x).all(-1)  # deep autoregressive flows may overflow where they generate
        x = torch.where(usable.unsqueeze(-1), x, torch.zeros_like(x))
        ours, theirs = flow.log_prob(x, context), log_prob(source, x, context)
        moved = flow.log_prob(x * (1 + NUDGE * torch.sign(noise(flow.event_shape)).repeat(3, 1)), context)
    usable = usable & (theirs.abs() < WILD)
    if not bool(usable.any()):
        raise ConfigError(f"{who}: the source's log-density is not finite at any of {len(x)} points, so nothing can be compared. Pass check=False.")
    # where a rounding error in x grows without measure, so may those on the way to log p: untrained autoregressive flows are like that
    allowed = TOLERANCE * theirs.abs().clamp(min=1) + (moved - ours).abs().nan_to_num(0.0, 0.0)
    off = (ours - theirs).abs().nan_to_num(torch.inf)
    if bool((off > allowed)[usable].any()):
        worst = float(off[usable].max())
        raise ConfigError(
            f"{who}: log-densities of the source and of the imported flow differ by up to {worst:.3g}, so nothing is returned. Some part of the "
            "source computes something other than its class does. Wrap it with to_flowkit where there is one."
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, every part back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.train()
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
