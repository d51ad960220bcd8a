"""The multistate Bennett acceptance ratio.

With P_k(n) = n_k exp(f_k - u_kn) / sum_j n_j exp(f_j - u_jn), the probability that sample n came from state k, the estimate solves sum_n P_k(n) = n_k. That is
the gradient of the convex function sum_n log sum_k n_k exp(f_k - u_kn) - sum_k n_k f_k, whose Hessian is diag(sum_n P_k) - P P^T.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, NonFiniteError, NotInvertibleError, ShapeError
from flowkit.sampling.free_energy import FreeEnergies, doubles

LEAST_GAP = 1e-12  # below it the differences between groups of states are rounding


def mbar(u_kn: Tensor, n_k: Tensor | Sequence[int]) -> FreeEnergies:
    """Multistate Bennett acceptance ratio: free energies of K states from samples of all of them.

        f_k = -log sum_n exp(-u_kn) / sum_j n_j exp(f_j - u_jn)

    Solved by damped Newton steps on a convex function. For two states it is ``bar``.

    Args:
        u_kn: (K, N), reduced energy in state k of every sample, in kT; plus infinity is impossible there. Independent samples, in any order.
        n_k: (K), how many of them were drawn in state k, sum N; 0 for a state that is only predicted.

    Returns:
        all differences with their asymptotic covariance, and the overlap matrix.

    Raises:
        ShapeError, ConfigError: sizes that do not fit. NonFiniteError: NaN, or a state that no sample is possible in. NotInvertibleError: groups of states
            without any overlap, between which nothing is known.

    Reference: Shirts and Chodera (2008), Statistically optimal analysis of samples from multiple equilibrium states, arXiv:0801.1426; overlap: Klimovich,
        Shirts and Mobley (2015), Guidelines for the analysis of free energy calculations, J. Comput. Aided Mol. Des. 29.

    Example:
        >>> import torch
        >>> from flowkit.sampling import mbar
        >>> springs, generator = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.Generator().manual_seed(0)
        >>> x = torch.cat([torch.randn(20_000, generator=generator, dtype=torch.float64) / k.sqrt() for k in springs])
        >>> result = mbar(0.5 * springs[:, None] * x.square(), [20_000, 20_000, 20_000])
        >>> bool((result.delta_f[0] - 0.5 * springs.log()).abs().max() < 4 * result.error[0].max())
        True
    """
    energies, counts = _checked(u_kn, n_k)
    log_counts = counts.log()
    seen = counts > 0
    f = torch.zeros_like(counts)
    f[seen] = _solve(energies[seen], counts[seen])
    mixture = torch.logsumexp(log_counts[seen, None] + f[seen, None] - energies[seen], 0)
    f = -torch.logsumexp(-energies - mixture, 1)
    log_weights = f[:, None] - energies - mixture  # of each sample in each state; they sum to 1 over n
    weights = log_weights.exp()
    overlap = weights @ weights.T * counts
    covariance, gap = _covariance(weights.T, counts)
    variance = covariance.diag()[:, None] + covariance.diag() - 2 * covariance
    return FreeEnergies(f - f[:, None], variance.clamp(min=0).sqrt(), overlap, gap)


def _checked(u_kn: Tensor, n_k: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    energies, counts = doubles(u_kn, "mbar", "u_kn"), doubles(n_k, "mbar", "n_k")
    if energies.dim() != 2 or not energies.numel() or counts.shape != energies.shape[:1]:
        raise ShapeError(f"mbar: expected u_kn (K, N) and n_k (K); got {tuple(energies.shape)} and {tuple(counts.shape)}.")
    if bool((counts < 0).any()) or float(counts.sum()) != energies.shape[1] or bool((counts != counts.round()).any()):
        raise ConfigError(f"mbar: expected n_k to be counts >= 0 of sum N = {energies.shape[1]}; got {counts.tolist()}.")
    bad = int((torch.isnan(energies) | torch.isneginf(energies)).sum())
    if bad:
        raise NonFiniteError(f"mbar: {bad} of {energies.numel()} energies are NaN or minus infinity.")
    impossible = int((~torch.isfinite(energies[counts > 0])).all(0).sum())
    if impossible:
        raise NonFiniteError(f"mbar: {impossible} samples are impossible in every state that was sampled.")
    empty = (~torch.isfinite(energies)).all(1).nonzero().flatten().tolist()
    if empty:
        raise NonFiniteError(f"mbar: no sample is possible in state {empty[0]}, so its free energy is infinite. Leave it out.")
    return energies, counts.to(energies.device)


def _solve(energies: Tensor, counts: Tensor) -> Tensor:
    """f (K), the first 0, of states that were all sampled."""
    log_counts = counts.log()[:, None]

    def objective(f: Tensor) -> float:
        return float(torch.logsumexp(log_counts + f[:, None] - energies, 0).sum() - (counts * f).sum())

    f = torch.zeros_like(counts)
    for _ in range(10):  # the self-consistent equations, which never diverge, on the way to where Newton's steps converge
        f = -torch.logsumexp(-energies - torch.logsumexp(log_counts + f[:, None] - energies, 0), 1)
        f = f - f[0]
    for _ in range(200):
        shares = torch.softmax(log_counts + f[:, None] - energies, 0)
        slope = (shares.sum(1) - counts)[1:]
        curvature = (shares.sum(1).diag() - shares @ shares.T)[1:, 1:]
        step = -torch.linalg.pinv(curvature, hermitian=True) @ slope
        # the slope alone is small too where states hardly meet: the way left has to be short beside the error of f as well
        if not len(slope) or (float(slope.abs().max()) < 1e-10 * float(counts.sum()) and -float(slope @ step) < 1e-12):
            return f
        step = torch.cat([step.new_zeros(1), step])
        now, size = objective(f), 1.0
        while size > 1e-8 and objective(f + size * step) > now + 1e-4 * size * float(slope @ step[1:]) + 1e-12 * abs(now):
            size *= 0.5
        f = f + size * step
    raise NotInvertibleError("mbar: the equations were not solved. States that share no samples have no common zero; add states between them.")


def _covariance(weights: Tensor, counts: Tensor) -> tuple[Tensor, float]:
    """Asymptotic covariance of f (K, K) up to a common constant, W^T (I - W N W^T)^+ W, and the gap, by the singular values of W (N, K).

    The inner matrix takes the vector of ones to 0, since W N 1 = 1, and that alone where all states are connected. Its part in W^T ... W is the
    common constant, W^T 1 = 1: so it may have the eigenvalue 1 there, and the least of the others is the gap.
    """
    left, singular, right = torch.linalg.svd(weights, full_matrices=False)
    ones = left.sum(0) / left.sum(0).norm()
    core = torch.eye(len(singular), dtype=weights.dtype, device=weights.device) - singular[:, None] * (right * counts @ right.T) * singular
    gap = float(torch.linalg.eigvalsh(core + torch.outer(ones, ones))[0])
    if gap < LEAST_GAP:
        raise NotInvertibleError("mbar: the states fall into groups that share no samples, so their free energies cannot be compared. Add states in between.")
    outer = right.T * singular
    return outer @ torch.linalg.solve(core + torch.outer(ones, ones), outer.T), min(gap, 1.0)
