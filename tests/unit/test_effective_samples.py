"""A share and a number of effective samples never go by one name."""

from __future__ import annotations

import pytest
import torch

import flowkit as fk
from flowkit.numerics.chains import effective_sample_size
from flowkit.sampling.chains import Chains
from flowkit.sampling.weighted import Weighted


def test_weighted_samples() -> None:
    """``ess`` is the share, ``effective_samples`` and ``evaluation.ess`` the number: half the weights are 0."""
    log_weights = torch.zeros(2000, dtype=torch.float64)
    log_weights[::2] = -torch.inf
    report = Weighted(torch.zeros(2000, 1), log_weights)
    assert report.ess == pytest.approx(0.5) and report.effective_samples == pytest.approx(1000) == pytest.approx(float(fk.evaluation.ess(log_weights)))
    assert "ess=50.00%" in repr(report)
    clipped = Weighted(torch.zeros(2000, 1), log_weights, clip=0.25)
    assert clipped.clipped_ess == pytest.approx(0.25) and clipped.effective_samples == pytest.approx(1000)


def test_chains() -> None:
    """Chains give the number, of each coordinate, and have no ``ess``."""
    chains = Chains(torch.randn(500, 4, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4))
    assert torch.equal(chains.effective_samples, effective_sample_size(chains.samples))
    assert chains.effective_samples.tolist() == pytest.approx([2000, 2000], rel=0.2)
    assert torch.equal(chains.autocorrelation_time, 2000 / chains.effective_samples)
    assert "least effective_samples=" in repr(chains) and not hasattr(chains, "ess")


SAYS = [(Weighted.ess, "share"), (Weighted.clipped_ess, "share"), (Weighted.effective_samples, "number"), (Chains.effective_samples, "number")]


@pytest.mark.parametrize(("of", "word"), [*SAYS, (fk.evaluation.ess, "number")], ids=["ess", "clipped_ess", "of_weights", "of_chains", "evaluation"])
def test_the_first_line_says_which(of: object, word: str) -> None:
    assert word in str(of.__doc__).splitlines()[0]
