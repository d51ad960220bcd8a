"""What objectives of diffusion samplers share: paths drawn without a graph, their densities evaluated again with one, log F along them.

With D_n = sum_{l < n} log P_F - log P_B and a_n = log F_n(x_n) - D_n, a path is balanced between m and n where a_m = a_n.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.objective import Batch, Phase
from flowkit.core.shapes import positive, positive_number, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.core.target import Target
from flowkit.nets import FourierMLP
from flowkit.objectives._energies import check_events, evaluate
from flowkit.objectives._energy_objective import EnergyObjective

FLOOR = -1e6  # of log mu: far outside the target, or where it is not finite


class Paths(NamedTuple):
    """What a step works on.

    Attributes:
        path: the trajectory. log_ratio: log P_F - log P_B with a graph, (N, B). log_mu: floored, finite, (N + 1, B) or (1, B).
        not_finite: share of places where log mu is not finite, ().
    """

    path: Any
    log_ratio: Tensor
    log_mu: Tensor
    not_finite: Tensor

    @property
    def log_weight(self) -> Tensor:
        """log mu(x_N) - sum log P_F - log P_B: (B)."""
        return self.log_mu[-1] - self.log_ratio.sum(0)


class PathObjective(EnergyObjective):
    """An objective of paths of a ``DiffusionSampler``.

    Args:
        target: mu. exploration: volatility that paths are drawn with; None for the sampler's own.
    """

    along: ClassVar[bool] = False  # whether log mu is wanted at every place of a path

    def __init__(self, target: Target | Distribution, exploration: float | None) -> None:
        super().__init__()
        self._keep(target)
        self.exploration = None if exploration is None else positive_number(exploration, self.who, "exploration")

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        """The sampler's parameters, and the objective's own with a learning rate of their own."""
        sampler, own = ([p for p in part.parameters() if p.requires_grad] for part in (model, self))
        scales = [1.0] * len(sampler) + [float(getattr(self, "lr_scale", 1.0))] * len(own)
        return (Phase("main", sampler + own, lr_scales=scales if own else None),)

    def _draw(self, model: nn.Module, batch: Batch, generator: torch.Generator | None) -> Paths:
        """Paths without a graph; log P_F - log P_B with one."""
        sampler, size = self._sampler(model, batch)
        path = sampler.rollout(size, sigma=self.exploration, along=self.along, generator=generator)
        with torch.no_grad():
            log_mu, bad = self._log_mu(sampler, path)
        return Paths(path, sampler.log_ratio(path), log_mu, bad)

    def _sampler(self, model: nn.Module, batch: Batch) -> tuple[Any, int]:
        if not (hasattr(model, "rollout") and hasattr(model, "log_ratio")):
            raise ConfigError(f"{self.who}: expected a sampler with rollout() and log_ratio(); got {type(model).__name__}. Use flows.DiffusionSampler.")
        check_events(self.target, model, self.who)
        if batch.size is None:
            raise ConfigError(f"{self.who}: expected batch.size, the number of paths; got none. Train with source=None and batch_size=.")
        return model, positive(batch.size, self.who, "batch.size")

    def _log_mu(self, sampler: Any, path: Any) -> tuple[Tensor, Tensor]:
        """log mu along paths (N + 1, B), or at their end (1, B), floored; and the share of places where it is not finite."""
        log_mu: Tensor = path.log_mu
        if sampler.target is not self.target:  # it looked at another one
            log_mu = self.target.log_density(path.x[-1:]) if log_mu.requires_grad else evaluate(self.target, path.x[-1:], who=self.who, score=False).log_density
            if self.along:
                log_mu = torch.cat([evaluate(self.target, path.x[:-1], who=self.who, score=False).log_density, log_mu])
        finite = torch.isfinite(log_mu)
        ends = finite[-len(path.log_pf) :]  # not at 0, which all paths share
        if may_raise(log_mu) and not bool(ends.any()):
            raise NonFiniteError(
                f"{self.who}: {type(self.target).__name__}.log_density is finite at none of the {ends.numel()} places on the paths. "
                "Look at its values there, or at the scale sigma and duration of the sampler."
            )
        return torch.where(finite, log_mu, FLOOR).clamp(min=FLOOR), (~finite).double().mean()

    def _terms(self, drawn: Paths, **more: Tensor) -> dict[str, Tensor]:
        """What to watch: on-policy paths have the mean log weight, a lower bound of log Z; bad places are counted where there are some."""
        terms = {key: value.detach() for key, value in more.items()}
        if self.exploration is None:
            terms["elbo"] = drawn.log_weight.detach().mean()
        if may_raise(drawn.not_finite) and bool(drawn.not_finite > 0):
            terms["not_finite"] = drawn.not_finite
        return terms


class FlowObjective(PathObjective):
    """An objective with a learned flow function.

        log F_n(x) = f(t_n, x) + (1 - n/N) log p_n(x) + (n/N) log mu(x) for n < N,   log F_N = log mu

    p_n is the marginal of the uncontrolled process, its variance at least that at 0.01 T; f, a ``FourierMLP``, starts at 0.

    Args:
        width: of f; log_flow: a module (t (N, 1), x (N, B, *event)) -> (N, B) that gives all of log F_n in place of that.
        lr_scale: learning rate of log F beside that of the sampler.
    """

    along = True

    def __init__(self, target: Target | Distribution, exploration: float | None, width: int, lr_scale: float, log_flow: nn.Module | None) -> None:
        super().__init__(target, exploration)
        self.width, self.lr_scale = positive(width, self.who, "width"), positive_number(lr_scale, self.who, "lr_scale")
        if log_flow is not None and not isinstance(log_flow, nn.Module):
            raise ConfigError(f"{self.who}: expected log_flow to be a module or None; got {type(log_flow).__name__}.")
        self.log_flow = log_flow
        self.correction = FourierMLP(math.prod(target.event_shape), 1, self.width) if log_flow is None else None  # type: ignore[arg-type]

    def _potentials(self, sampler: Any, drawn: Paths) -> Tensor:
        """a_n, equal along a balanced path: (N + 1, B)."""
        log_flow = torch.cat([self._log_flow(sampler, drawn), drawn.log_mu[-1:]])
        passed = drawn.log_ratio.cumsum(0)
        return log_flow - torch.cat([torch.zeros_like(passed[:1]), passed])

    def _log_flow(self, sampler: Any, drawn: Paths) -> Tensor:
        """log F_n for n < N: (N, B)."""
        t, x = drawn.path.t[:-1, None], drawn.path.x[:-1]
        if self.log_flow is not None:
            given: Tensor = self.log_flow(t, x)
            if given.shape != drawn.log_ratio.shape:
                raise ShapeError(f"{self.who}: expected log_flow(t, x) of shape {tuple(drawn.log_ratio.shape)}; got {tuple(given.shape)}. One value a place.")
            return given
        flat = x.flatten(2)
        share = t / sampler.duration
        variance = sampler.sigma**2 * t.clamp(min=0.01 * sampler.duration)
        log_reference = -0.5 * sum_event(flat.square(), 1) / variance - flat.shape[-1] * (HALF_LOG_2PI + 0.5 * variance.log())
        assert self.correction is not None
        own = self.correction.last.weight.dtype
        if own != flat.dtype:
            raise ConfigError(f"{self.who}: expected an objective of {flat.dtype}, the sampler's dtype; got {own}. Convert it with .to().")
        return self.correction(flat, t).squeeze(-1) + (1 - share) * log_reference + share * drawn.log_mu[:-1]


def subtrajectory_weights(steps: int, decay: float, like: Tensor) -> Tensor:
    """L = diag(W 1) - W of the pairs' weights W_mn = decay^|m - n|, scaled to sum_{m<n} W_mn = 1: (N + 1, N + 1).

    a' L a = sum_{m<n} W_mn (a_m - a_n)^2, the outer difference in one product. By logarithms: decay^N may overflow.
    """
    gaps = torch.arange(1, steps + 1, dtype=torch.float64)
    logs = gaps * math.log(decay)
    weights = (logs - torch.logsumexp(logs + (steps + 1 - gaps).log(), 0)).exp()
    places = torch.arange(steps + 1)
    pairs = torch.cat([torch.zeros(1, dtype=torch.float64), weights])[(places - places[:, None]).abs()]
    return (pairs.sum(1).diag() - pairs).to(like)


def weighted_differences(potentials: Tensor, weights: Tensor) -> Tensor:
    """a' L a of every path: (N + 1, B) -> (B). The mean is taken off first, as L knows no constants but rounding does."""
    centred = potentials - potentials.detach().mean(0)
    return (centred * (weights @ centred)).sum(0)
