"""Entropic and unbalanced optimal transport between weighted points."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import NonFiniteError, ShapeError
from flowkit.core.shapes import positive, positive_number

BLOCK = 20  # iterations between two changes of the kernel; how often a device is asked whether to stop
GAIN = 0.5  # what a block of over-relaxed iterations must at least gain
COOLING = 4.0  # the regularisation falls by this factor from the cost's range to what is asked for


class Plan(NamedTuple):
    """A transport plan and how it was found.

    Attributes:
        plan: mass from each row to each column (N, M), float64.
        row_potential, column_potential: f (N) and g (M) of the plan a_i b_j exp((f_i + g_j - c_ij) / reg).
        iterations: taken in all.
        error: the largest relative change of a row's scaling in the last iteration; balanced, the relative error of a row's mass.
    """

    plan: Tensor
    row_potential: Tensor
    column_potential: Tensor
    iterations: int
    error: float


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    reg: float,
    *,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    marginal_penalty: float = math.inf,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
) -> Plan:
    """The plan P that minimises <P, c> + reg KL(P | a b') + penalty (KL(P 1 | a) + KL(P' 1 | b)); with an infinite penalty P has the marginals a, b.

        f = - k reg log sum_j b_j exp((g_j - c_ij) / reg),  g alike,  k = penalty / (penalty + reg)

    Potentials are kept as logarithms; between two renewals of the kernel only matrix-vector products are taken. ``reg`` is lowered to its
    value in steps, each starting from the potentials of the one before; iterations are over-relaxed. Columns are exact when it ends. On the cost's
    device, in float64. Cost: 2 N M operations an iteration; the smaller reg, the more iterations.

    Args:
        cost: (N, M), finite. reg: > 0, in units of the cost.
        rows, columns: masses a (N), b (M); uniform by default.
        marginal_penalty: > 0, in units of the cost. tolerance: of ``Plan.error``. max_iterations: at most so many at the last reg.

    Raises:
        NonFiniteError, ShapeError, ConfigError: the cost is not finite or not a matrix; an argument is not positive.

    Reference: Cuturi (2013), arXiv:1306.0895; Schmitzer (2019), Stabilized sparse scaling algorithms, arXiv:1610.06519; Chizat et al. (2018), arXiv:1607.05816;
        Thibault et al. (2021), Overrelaxed Sinkhorn-Knopp, arXiv:1711.01851.

    Example:
        >>> import torch
        >>> from flowkit.numerics.sinkhorn import sinkhorn
        >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 0.1).plan
        tensor([[4.9998e-01, 2.2699e-05],
                [2.2699e-05, 4.9998e-01]], dtype=torch.float64)
    """
    if cost.dim() != 2:
        raise ShapeError(f"sinkhorn: expected a cost of shape (N, M); got {tuple(cost.shape)}.")
    reg = positive_number(reg, "sinkhorn", "reg")
    max_iterations = positive(max_iterations, "sinkhorn", "max_iterations")
    penalty = marginal_penalty if marginal_penalty == math.inf else positive_number(marginal_penalty, "sinkhorn", "marginal_penalty")
    cost = cost.double()
    span = float(cost.max() - cost.min()) if cost.numel() else 0.0
    if not math.isfinite(span):
        raise NonFiniteError("sinkhorn: the cost holds NaN or infinite values. Check the points it is made of.")
    state = _Scaling(cost, *(_masses(given, n, cost) for given, n in ((rows, cost.shape[0]), (columns, cost.shape[1]))))
    count, now = 0, max(span, reg)
    while True:
        last = now <= reg
        keep = 1.0 if penalty == math.inf else penalty / (penalty + now)
        taken, error = state.run(now, keep, tolerance if last else 0.1, max_iterations if last else 2 * BLOCK)
        count += taken
        if last:
            return Plan(state.kernel(now), state.f, state.g, count, error)
        now = max(now / COOLING, reg)


def _masses(given: Tensor | None, n: int, cost: Tensor) -> Tensor:
    return torch.full((n,), 1 / max(n, 1), dtype=cost.dtype, device=cost.device) if given is None else given.to(cost)


class _Scaling:
    """Potentials f, g of rows and columns, improved in place."""

    def __init__(self, cost: Tensor, a: Tensor, b: Tensor) -> None:
        self.cost, self.a, self.b = cost, a, b
        self.f, self.g = torch.zeros_like(a), torch.zeros_like(b)
        self.log_a, self.log_b = a.log().unsqueeze(1), b.log()

    def kernel(self, reg: float) -> Tensor:
        return torch.exp(self.log_a + self.log_b + (self.f.unsqueeze(1) + self.g - self.cost) / reg)

    def run(self, reg: float, keep: float, tolerance: float, most: int) -> tuple[int, float]:
        """Iterate until the scaling of rows changes by no more than the tolerance; iterations taken, and that change.

        A block of plain iterations tells the rate r at which they converge; blocks over-relaxed by 2 / (1 + sqrt(1 - r)) follow, which is the
        best factor near the solution, until one gains too little.
        """
        count, error, relax = 0, math.inf, 1.0
        self._in_logarithms(reg, keep)
        while count < most and error > tolerance:
            before = self.f, self.g
            now, rate = (float(value) for value in self._block(reg, keep, relax))
            count += BLOCK
            if relax > 1 and not now < error:  # too far from the solution for it
                (self.f, self.g), relax = before, 1.0
            elif not math.isfinite(now):
                self._in_logarithms(reg, keep)
            else:
                relax = _over_relaxation(rate) if relax == 1 else relax if now < GAIN * error else 1.0
                error = now
        return count, error

    def _in_logarithms(self, reg: float, keep: float) -> None:
        """One iteration that nothing can overflow; no column of the kernel is empty after it."""
        self.f = -keep * reg * torch.logsumexp(self.log_b + (self.g - self.cost) / reg, 1)
        self.g = -keep * reg * torch.logsumexp(self.log_a + (self.f.unsqueeze(1) - self.cost) / reg, 0)

    def _block(self, reg: float, keep: float, relax: float) -> Tensor:
        """Iterations as scalings exp(u), exp(v) of a fixed kernel, the last one plain; left out if they overflow.

        Returns:
            (2): the largest change of a row's scaling in the last iteration, and its ratio to that in the one before.
        """
        kernel, log_a, log_b = self.kernel(reg), self.log_a.squeeze(1), self.log_b
        u, v = torch.zeros_like(self.a), torch.zeros_like(self.b)
        # what the kernel carries shrinks by `keep` with every update
        rest_f, rest_g = (keep - 1) * self.f / reg, (keep - 1) * self.g / reg
        moved = before = u
        for step in range(BLOCK):
            factor = relax if step < BLOCK - 2 else 1.0
            before, moved = moved, keep * (log_a - torch.log(kernel @ v.exp())) + rest_f - u
            u = torch.add(u, moved, alpha=factor)
            v = torch.add(v, keep * (log_b - torch.log(u.exp() @ kernel)) + rest_g - v, alpha=factor)
        f, g = self.f + reg * u, self.g + reg * v
        fine = f.isfinite().all() & g.isfinite().all()
        self.f, self.g = torch.where(fine, f, self.f), torch.where(fine, g, self.g)
        change, former = moved.abs().max(), before.abs().max()
        return torch.where(fine, torch.stack([torch.expm1(change), change / former]), torch.inf)


def _over_relaxation(rate: float) -> float:
    """The best factor for iterations that converge at a rate; 1 where there is none."""
    return 2 / (1 + math.sqrt(1 - rate)) if 0 < rate < 1 else 1.0
