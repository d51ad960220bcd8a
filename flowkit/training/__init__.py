"""The one training loop, its checkpoints, and the compiling and saving of flows."""

from flowkit.training.compile import compile
from flowkit.training.fit import fit
from flowkit.training.result import FitResult, Progress
from flowkit.training.saving import load, save

__all__ = ["FitResult", "Progress", "compile", "fit", "load", "save"]
