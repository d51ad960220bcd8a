"""flowkit: normalizing flows for PyTorch."""

from flowkit import bijectors, data, distributions, evaluation, flows, nets, objectives, univariates
from flowkit.core.checks import checks
from flowkit.core.flow import Flow
from flowkit.training import FitResult, fit, load, save

__version__ = "0.1.0"

__all__ = [
    "FitResult",
    "Flow",
    "bijectors",
    "checks",
    "data",
    "distributions",
    "evaluation",
    "fit",
    "flows",
    "load",
    "nets",
    "objectives",
    "save",
    "univariates",
]
