"""Written by ``make stubs``."""

from flowkit.objectives.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
