"""Written by ``make stubs``."""

from flowkit.objectives.evidence_lower_bound import EvidenceLowerBound as EvidenceLowerBound
from flowkit.objectives.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
