"""flowkit: normalizing flows for PyTorch."""

from flowkit import bijectors, data, distributions, evaluation, flows, injections, nets, objectives, surjections, targets, univariates
from flowkit.core.checks import checks
from flowkit.core.flow import Flow
from flowkit.core.version import __version__
from flowkit.training import FitResult, fit, load, save

__all__ = [
    "FitResult",
    "Flow",
    "__version__",
    "bijectors",
    "checks",
    "data",
    "distributions",
    "evaluation",
    "fit",
    "flows",
    "injections",
    "load",
    "nets",
    "objectives",
    "save",
    "surjections",
    "targets",
    "univariates",
]
