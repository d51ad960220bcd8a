"""How good is a flow: likelihoods, distances between samples, calibration."""

from flowkit.evaluation.calibration import Coverage, LatentNormality, coverage, latent_normality
from flowkit.evaluation.classifier import c2st
from flowkit.evaluation.diagnose import Diagnosis, LayerDiagnosis, diagnose
from flowkit.evaluation.likelihood import bits_per_dim, nll
from flowkit.evaluation.molecular import energy_wasserstein, geometric_wasserstein, ramachandran_kl, torus_wasserstein
from flowkit.evaluation.transport import sliced_wasserstein, wasserstein
from flowkit.evaluation.two_sample import energy_distance, mmd
from flowkit.numerics.estimate import Estimate
from flowkit.numerics.importance import ess

__all__ = [
    "Coverage",
    "Diagnosis",
    "Estimate",
    "LatentNormality",
    "LayerDiagnosis",
    "bits_per_dim",
    "c2st",
    "coverage",
    "diagnose",
    "energy_distance",
    "energy_wasserstein",
    "ess",
    "geometric_wasserstein",
    "latent_normality",
    "mmd",
    "nll",
    "ramachandran_kl",
    "sliced_wasserstein",
    "torus_wasserstein",
    "wasserstein",
]
