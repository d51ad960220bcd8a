"""flowkit: normalizing flows for PyTorch."""

from importlib import import_module
from types import ModuleType

from flowkit import bijectors, continuous, data, distributions, evaluation, flows, injections, nets, objectives, sampling, surjections, targets, univariates
from flowkit.core.checks import checks
from flowkit.core.flow import Flow
from flowkit.core.version import __version__
from flowkit.evaluation import diagnose
from flowkit.training import FitResult, compile, fit, load, save

__all__ = [
    "FitResult",
    "Flow",
    "__version__",
    "bijectors",
    "checks",
    "compile",
    "continuous",
    "data",
    "diagnose",
    "distributions",
    "evaluation",
    "fit",
    "flows",
    "injections",
    "load",
    "nets",
    "objectives",
    "sampling",
    "save",
    "surjections",
    "targets",
    "univariates",
]

_ON_DEMAND = ("bench", "estimators", "experiment", "heads", "interop", "plots", "testing")  # they need optional packages, or take time to import


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return import_module(f"flowkit.{name}")
    raise AttributeError(f"module 'flowkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_DEMAND])
