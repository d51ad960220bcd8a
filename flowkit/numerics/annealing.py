"""Annealed importance sampling: events carried through densities between two, with weights that stay exact.

1. Let pi_b be the density at b, known up to a constant, pi_0 = start and pi_1 = end; x_0 ~ start and x_j ~ k_j(. | x_{j-1}) for 0 < b_1 < ... < b_K < 1.
2. The path (x_0 ... x_K) is weighed against one that starts at x_K ~ end and goes back by the reverse kernels r_j:
   w = end(x_K) / start(x_0) prod_j r_j(x_{j-1} | x_j) / k_j(x_j | x_{j-1}), so E w = Z_end / Z_start whatever the kernels are.
3. Where pi_{b_j} is invariant under k_j its time reversal is r_j and the ratio is pi_j(x_{j-1}) / pi_j(x_j): the weights telescope to
   sum_j log pi_{b_{j+1}}(x_j) - log pi_{b_j}(x_j), j = 0 ... K, b_{K+1} = 1. The last term is the one that is easily left out.
4. Where it is not (unadjusted Langevin) r_j = k_j, and log r_j / k_j - log pi_j(x_{j-1}) + log pi_j(x_j) is added: exact all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, NonFiniteError
from flowkit.core.shapes import plain_int, positive
from flowkit.numerics.mcmc import LogDensity, check_values
from flowkit.numerics.transitions import Kernel, UnadjustedLangevin

LogPath = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class Annealed:
    """The end of annealed paths.

    Attributes:
        samples: (*B, *event). log_weights: (*B), whose exponentials have the mean Z_end / Z_start.
        acceptance: (K,), share of steps accepted at each density in between.
    """

    samples: Tensor
    log_weights: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class Bridge:
    """Densities known up to a constant from ``log_start`` at b = 0 to ``log_end`` at b = 1, (*B, *event) -> (*B) each.

    Between them (1 - b) log start + b log end, or ``log_path(b, x)``, which has to meet both ends.
    """

    log_start: LogDensity
    log_end: LogDensity
    log_path: LogPath | None = None

    def at(self, b: float, x: Tensor) -> Tensor:
        """log pi_b (*B). An end that counts nothing is not evaluated: there it may be infinite."""
        if b in (0.0, 1.0):
            return self.log_end(x) if b else self.log_start(x)
        return self.log_path(b, x) if self.log_path is not None else (1 - b) * self.log_start(x) + b * self.log_end(x)

    def change(self, x: Tensor) -> Callable[[float, float], Tensor]:
        """The function (b, c) -> log pi_c(x) - log pi_b(x) (*B), which evaluates both ends once on the geometric path."""
        if self.log_path is not None:
            return lambda b, c: self.at(c, x) - self.at(b, x)
        start, end = self.log_start(x), self.log_end(x)
        for value in (start, end):
            check_values(value, x)
        return lambda b, c: (c - b) * (end - start)


@torch.no_grad()
def annealed(
    log_start: LogDensity,
    log_end: LogDensity,
    x: Tensor,
    *,
    betas: int | Sequence[float] | Tensor,
    kernel: Kernel | Sequence[Kernel],
    generator: torch.Generator | None = None,
    log_path: LogPath | None = None,
    steps: int = 1,
    tick: Callable[[], None] | None = None,
) -> Annealed:
    """Carry events from one density to another by transitions that leave the densities in between invariant, and weigh them.

        log w = sum_{j=0}^{K} log pi_{b_{j+1}}(x_j) - log pi_{b_j}(x_j),   x_j from x_{j-1} by a transition at b_j,   b_0 = 0, b_{K+1} = 1
        E exp(log w) f(x_K) = (integral of f end) / (integral of start)

    That is exact for any transitions and temperatures chosen beforehand. ``UnadjustedLangevin`` adds the ratio of its densities and is exact as well.
    No gradient passes through.

    Args:
        log_start, log_end: (*B, *event) -> (*B).
        x: (*B, *event), draws from start.
        betas: 0 = b_0 < ... < b_{K+1} = 1, or K for equal steps.
        kernel: the transition at every density in between, or one for each of them.
        log_path: (b, x) -> (*B) in place of (1 - b) log start + b log end.
        steps: transitions at each density.
        tick: called after each density.

    Raises:
        ConfigError: betas do not rise from 0 to 1; the kernels are not K. NonFiniteError: log-weights are NaN or plus infinity.

    Reference: Neal (2001), Annealed importance sampling, arXiv:physics/9803008.

    Example:
        >>> import torch
        >>> from flowkit.numerics.annealing import annealed
        >>> from flowkit.numerics.transitions import HamiltonianSteps
        >>> generator = torch.Generator().manual_seed(0)
        >>> start, end = lambda x: -0.5 * x.square().sum(-1), lambda x: -2.0 * (x - 1).square().sum(-1)  # widths 1 and 1/2
        >>> x = torch.randn(20_000, 1, generator=generator)
        >>> run = annealed(start, end, x, betas=10, kernel=HamiltonianSteps(step_size=0.3), generator=generator)
        >>> bool((run.log_weights.exp().mean() - 0.5).abs() < 0.01)
        True
    """
    betas = schedule(betas)
    kernels = one_each(kernel, len(betas) - 2)
    steps = positive(steps, "annealed", "steps")
    bridge = Bridge(log_start, log_end, log_path)
    log_weights = bridge.change(x)(betas[0], betas[1])
    acceptance = []
    for (b, later), transition in zip(pairwise(betas[1:]), kernels, strict=True):
        x, correction, accepted = move(bridge, b, x, transition, steps, generator)
        log_weights = log_weights + correction + bridge.change(x)(b, later)
        acceptance.append(accepted)
        if tick is not None:
            tick()
    check_weights(log_weights, "annealed")
    return Annealed(x, log_weights, torch.stack(acceptance) if acceptance else log_weights.new_zeros(0))


def schedule(betas: int | Sequence[float] | Tensor) -> list[float]:
    """The inverse temperatures 0 = b_0 < ... < b_{K+1} = 1; a number K >= 0 stands for equal steps."""
    count = plain_int(betas)
    if count is not None:
        if count < 0:
            raise ConfigError(f"annealed: expected betas to be a number of densities in between >= 0, or a list from 0 to 1; got {betas!r}.")
        return [j / (count + 1) for j in range(count + 1)] + [1.0]
    try:
        values = [float(b) for b in betas]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ConfigError(f"annealed: expected betas to be a number of densities in between, or a list from 0 to 1; got {betas!r}.") from None
    if len(values) < 2 or values[0] != 0 or values[-1] != 1 or any(not b < c for b, c in pairwise(values)):
        shown = ", ".join(f"{b:.4g}" for b in (values if len(values) < 7 else [*values[:3], *values[-3:]]))
        raise ConfigError(f"annealed: expected betas that rise from 0 to 1, both included; got {shown or 'none'}. Weights need the last step, which ends at 1.")
    return values


def one_each(kernel: Kernel | Sequence[Kernel], count: int) -> list[Kernel]:
    """The transition of each density in between."""
    if callable(kernel):
        return [kernel] * count
    if len(kernel) != count:
        raise ConfigError(f"annealed: expected one kernel, or one for each of the {count} densities in between; got {len(kernel)}.")
    return list(kernel)


def move(bridge: Bridge, b: float, x: Tensor, kernel: Kernel, steps: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor | float, Tensor]:
    """``steps`` transitions at b: the events, what their log-weights gain by it (0 where the density is invariant), the share accepted ()."""
    log_density = partial(bridge.at, b)
    correction: Tensor | float = 0.0
    shares = []
    for _ in range(steps):
        if isinstance(kernel, UnadjustedLangevin):
            x, gained = kernel.weighed(log_density, x, generator)
            correction = correction + gained
            shares.append(torch.ones((), device=x.device))
        else:
            x, accepted = kernel(log_density, x, generator)
            shares.append(accepted.to(torch.float32).mean())
    return x, correction, torch.stack(shares).mean()


def check_weights(log_weights: Tensor, who: str) -> None:
    """Raise NonFiniteError naming how many log-weights are NaN or plus infinity; minus infinity is weight 0."""
    bad = int((torch.isnan(log_weights) | torch.isposinf(log_weights)).sum())
    if bad:
        raise NonFiniteError(
            f"{who}: {bad} of {log_weights.numel()} log-weights are NaN or plus infinity. Look at the log-densities of both sides there; "
            "a target should return -inf where it has no mass, and never NaN."
        )
