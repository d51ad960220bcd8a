"""Learned mixtures far from all their components in float32, where log-densities of the parts are equal to rounding."""

from __future__ import annotations

import pytest
import torch

from flowkit.core.distribution import Distribution
from flowkit.distributions import ClassConditional, Empirical, GaussianMixture
from flowkit.distributions.gaussian_mixture import FORMS

X = torch.tensor([[1e3, 1e3], [-2e4, 3e3], [1e7, 0.0], [0.0, 1e10]])


def _mixture(covariance: str) -> GaussianMixture:
    made = GaussianMixture(2, 8, covariance=covariance)  # type: ignore[arg-type]
    with torch.no_grad():
        made.means.copy_(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
        made.logits.copy_(torch.randn(8, generator=torch.Generator().manual_seed(1)))
    return made


def _classes() -> ClassConditional:
    made = ClassConditional(5, (2,))
    with torch.no_grad():
        made.means.copy_(torch.randn(5, 2, generator=torch.Generator().manual_seed(2)))
    return made


def _rows() -> Empirical:
    return Empirical(torch.randn(5000, 2, generator=torch.Generator().manual_seed(3)), bandwidth=0.5)


@pytest.mark.parametrize("made", [*(_mixture(form) for form in FORMS), _classes(), _rows()], ids=[*FORMS, "classes", "rows"])
def test_scores(made: Distribution) -> None:
    """Parts that tie share the score: torch's own log-sum-exp gives each of them all of it."""
    context = None if made.context_shape is None else torch.tensor(-1)
    single = made.score(X, context)
    log_prob = made.log_prob(X, context).detach()
    made = made.double()
    torch.testing.assert_close(single, made.score(X.double(), context).float(), rtol=2e-2, atol=100.0)
    torch.testing.assert_close(log_prob, made.log_prob(X.double(), context).detach().float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_means_add_up_to_the_score(form: str) -> None:
    """Moving all means and the event alike changes nothing: sum_k d/d mean_k = -d/dx."""
    made = _mixture(form)
    x = X.clone().requires_grad_()
    (of_means, of_x) = torch.autograd.grad(made.log_prob(x).sum(), (made.means, x))
    torch.testing.assert_close(of_means.sum(0), -of_x.sum(0), rtol=1e-3, atol=1.0)
    assert torch.equal(made.responsibilities(X).sum(-1).round(decimals=5), torch.ones(len(X)))
