"""Flow annealed importance sampling bootstrap: a flow trained on its own annealed draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NonFiniteError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive, positive_number
from flowkit.core.target import Target
from flowkit.numerics.transitions import HamiltonianSteps, Kernel, RandomWalk
from flowkit.objectives._annealed_draws import AlphaPath, Draws, annealed_draws
from flowkit.objectives._energies import check_events
from flowkit.objectives._energy_objective import EnergyObjective, normal, one_of, small_flow
from flowkit.objectives._replay_buffer import ReplayBuffer

TERMS = ("ess", "annealed_ess", "acceptance", "log_z", "lost")
FIRST_BATCHES = 16  # in the buffer before the first step: drawn without replacement, a small one would be fitted by heart
RATE = 0.5  # of the logarithm of a step size, in the acceptance
REACH = 1e4  # by which factor a step size may move away from where it began


@OBJECTIVES.register("fab")
class FAB(EnergyObjective):
    """Train a flow q on annealed draws from p^alpha q^(1 - alpha), which lie where q misses mass of p.

        loss = -sum_i softmax(log w)_i log q(x_i),   (x_i, log w_i) by annealed importance sampling from q, without a graph
        log pi_b = ((1 - b) + b (1 - alpha)) log q + b alpha log p,   b = j / (intermediates + 1)

    Its gradient is that of log(int p^alpha q^(1 - alpha)) / (alpha - 1), an alpha-divergence: alpha = 2 minimises the variance of the importance
    weights p / q, and alpha = 1 the forward divergence, so that modes are not lost. Needs no data: ``fit(flow, None, FAB(target))``.

    With a buffer, every ``updates_per_pass``-th step adds a pass of as many chains as the batch size, and every step draws its batch from the last
    ``buffer`` points, without replacement, in proportion to their weights:

        loss = -mean_i min(c_i, clip) log q(x_i),   c_i = (q(x_i) / q_old(x_i))^(1 - alpha)

    and the unclipped c_i then go into the stored weights. Chains that the energy loses (NaN, infinite) have weight zero. Step sizes, buffer and
    counters are buffers of the objective: a resumed run continues exactly; of several processes all use the first one's. Nothing of this changes in
    ``eval()`` mode, where the loss is that of one pass.

    Logged of the newest pass: ``ess``, the flow's own effective share for p; ``annealed_ess``, that of the chains for p^alpha q^(1 - alpha);
    ``acceptance``; ``log_z``, an estimate of log int p from the chains; ``lost``, share of chains of weight zero. Below a thousand chains effective
    shares are biased upwards: judge by ``sampling.importance``.
    Cost of a pass: for each intermediate density, leapfrog_steps + 1 evaluations of log p and log q with gradients ("hmc"), or 2 without.

    Args:
        target: density known up to a constant; one with parameters is copied, and never trained.
        alpha: > 0.
        intermediates: K, densities between q and p^alpha q^(1 - alpha).
        transition: "hmc", or "metropolis" for random walks, which need no gradient of the target.
        leapfrog_steps: of a Hamiltonian move. transitions: moves at each intermediate density.
        step_size: to begin with, the same for every density. acceptance: share of accepted moves that step sizes are adapted to; None keeps them.
        buffer: points kept, by default 65,536; None trains on each pass once.
        updates_per_pass: steps for every pass, with a buffer.
        clip: largest c_i.

    Raises:
        ConfigError: the model is no flow of exact density or is conditional; the target has no gradient, with "hmc".
        ShapeError: target and flow have different events. NonFiniteError: every chain of a pass is lost.

    Reference: Midgley et al. (2023), Flow annealed importance sampling bootstrap, arXiv:2208.01893, algorithms 1 and 2.

    Example:
        >>> import flowkit as fk
        >>> flow, target = fk.flows.RealNVP(2, layers=2, hidden=(8,)), fk.targets.ManyWell(2)
        >>> fit = fk.fit(flow, None, fk.objectives.FAB(target, buffer=256), max_steps=2, batch_size=16, seed=0, progress=False)
        >>> sorted(set(fit.history) & {"ess", "acceptance", "log_z"})
        ['acceptance', 'ess', 'log_z']
    """

    step_sizes: Tensor
    calls: Tensor
    newest: Tensor

    def __init__(
        self,
        target: Target | Distribution,
        alpha: float = 2.0,
        *,
        intermediates: int = 4,
        transition: Literal["hmc", "metropolis"] = "hmc",
        leapfrog_steps: int = 5,
        transitions: int = 1,
        step_size: float = 0.1,
        acceptance: float | None = 0.65,
        buffer: int | None = 65_536,
        updates_per_pass: int = 8,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        self._keep(target)
        one_of(transition, ("hmc", "metropolis"), "FAB", "transition")
        if acceptance is not None and (isinstance(acceptance, bool) or not isinstance(acceptance, int | float) or not 0 < acceptance < 1):
            raise ConfigError(f"FAB: expected acceptance between 0 and 1, or None; got {acceptance!r}.")
        self.transition, self.acceptance = transition, acceptance
        self.alpha, self.step_size, self.clip = (positive_number(v, "FAB", k) for k, v in (("alpha", alpha), ("step_size", step_size), ("clip", clip)))
        self.intermediates, self.leapfrog_steps = positive(intermediates, "FAB", "intermediates"), positive(leapfrog_steps, "FAB", "leapfrog_steps")
        self.transitions, self.updates_per_pass = positive(transitions, "FAB", "transitions"), positive(updates_per_pass, "FAB", "updates_per_pass")
        self.buffer = None if buffer is None else positive(buffer, "FAB", "buffer")
        self.replay = None if self.buffer is None else ReplayBuffer(self.buffer, self.target.event_shape)
        self.register_buffer("step_sizes", torch.full((self.intermediates,), float(step_size)))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("newest", torch.zeros(len(TERMS)))

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow, n = self._check(model), positive(batch.size if batch.x is None else len(batch.x), "FAB", "the batch's size")
        if self.replay is None or not self.training:
            drawn = self.draw(flow, n, generator)
            return Loss(cross_entropy(flow.log_prob(drawn.samples), drawn.log_weights), self._terms())
        if int(self.calls) % self.updates_per_pass == 0:
            self._refill(flow, n, generator)
        self.calls += 1
        places = self.replay.draw(n, generator)
        log_probs = flow.log_prob(self.replay.points[places])
        change = self.replay.refer(places, log_probs.detach(), self.alpha)
        weight = change.exp().clamp(max=self.clip)
        return Loss(-torch.where(weight > 0, weight * log_probs, torch.zeros_like(weight)).mean(), self._terms())

    @torch.no_grad()
    def draw(self, flow: Any, n: int, generator: torch.Generator | None = None) -> Draws:
        """One pass of n chains; in training mode it adapts the step sizes.

        Raises:
            NonFiniteError: every chain is lost.
        """
        drawn = annealed_draws(AlphaPath(flow, self.target, self.alpha, "FAB"), n, self._kernels(), steps=self.transitions, generator=generator)
        if bool(torch.isneginf(drawn.log_weights).all()):
            raise NonFiniteError(
                f"FAB: {type(self.target).__name__}.log_density is NaN or infinite on all {n} draws of the flow. Start the flow where it is finite."
            )
        if self.training:
            self.newest.copy_(torch.stack([drawn.flow_ess, drawn.ess, drawn.acceptance.mean(), drawn.log_z, drawn.lost]))
            if self.acceptance is not None:
                self.step_sizes *= torch.exp(RATE * (drawn.acceptance - self.acceptance))
                self.step_sizes.clamp_(self.step_size / REACH, self.step_size * REACH)
        return drawn

    def _kernels(self) -> list[Kernel]:
        """The transition at each density in between."""
        sizes = self.step_sizes.tolist()
        if self.transition == "metropolis":
            return [RandomWalk(step_size=size) for size in sizes]
        return [HamiltonianSteps(step_size=size, leapfrog_steps=self.leapfrog_steps) for size in sizes]

    def _refill(self, flow: Any, n: int, generator: torch.Generator | None) -> None:
        """A pass into the buffer; several before the first step."""
        assert self.replay is not None
        for _ in range(FIRST_BATCHES if int(self.calls) == 0 else 1):
            drawn = self.draw(flow, n, generator)
            self.replay.add(drawn.samples, drawn.log_weights, drawn.log_probs)

    def _terms(self) -> dict[str, Tensor]:
        return dict(zip(TERMS, self.newest.clone(), strict=True))

    def _check(self, model: nn.Module) -> Any:
        """The model, a flow that annealing can start from."""
        if not isinstance(model, Flow) or model.density != "exact":
            kind = f"a density that is {model.density!r}" if isinstance(model, Flow) else type(model).__name__
            raise ConfigError(f"FAB: expected a flow with an exact density; got {kind}. Pass e.g. flows.RealNVP(features).")
        if model.context_shape is not None:
            raise ConfigError("FAB: expected a flow without a context; got a conditional one. Train flow.condition(context), or build it without.")
        check_events(self.target, model, "FAB")
        return model

    @classmethod
    def examples(cls) -> Iterator[tuple[str, FAB, nn.Module, Batch]]:
        yield "buffer", cls(normal(), intermediates=2, buffer=1024, updates_per_pass=2), small_flow(), Batch(size=64)
        walks: dict[str, Any] = {"intermediates": 1, "transition": "metropolis", "step_size": 0.5, "buffer": None}
        yield "each_pass_once", cls(normal(), 1.5, **walks), small_flow(), Batch(size=256)


def cross_entropy(log_probs: Tensor, log_weights: Tensor) -> Tensor:
    """-sum_i softmax(log w)_i log q(x_i): (N,), (N,) -> (), where a draw of weight zero counts nothing, whatever its log q."""
    weights = torch.softmax(log_weights, 0).detach()
    return -torch.where(weights > 0, weights * log_probs, torch.zeros_like(weights)).sum()
