"""The stages of training a generator: on data, then on the energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.target import Target
from flowkit.flows import MolecularFlow
from flowkit.objectives import FAB, ForwardKL, MaximumLikelihood, ReverseKL
from flowkit.targets._molecular_target import MolecularTarget
from flowkit.training import FitResult, fit

DATA = ("forward_kl", "both")  # take data
PATIENCE = 10  # epochs: a trajectory of correlated frames is soon learned by heart
MARGIN = 2.0  # kT per coordinate above the minimum, from where energies count by their logarithm in training; the mean is 0.5
Handedness = Callable[[Tensor], Tensor]  # structures (*B, N, 3) -> booleans (*B)
Energy = Literal["reverse_kl", "forward_kl", "both", "fab"]


class Handed(Target):
    """A molecule's density with minus infinity for structures of another handedness.

    Args:
        target: the molecule; handed: structures (*B, N, 3) -> booleans (*B).
    """

    def __init__(self, target: MolecularTarget, handed: Handedness) -> None:
        super().__init__()
        self.target, self.handed = target, handed
        self.event_shape = target.event_shape
        self.invariances, self.traits = target.invariances, target.traits

    def log_density(self, x: Tensor) -> Tensor:
        value = self.target.log_density(x)
        return torch.where(self.handed(x), value, torch.full_like(value, -torch.inf))


class BothKL(Objective):
    """Forward KL at the data plus reverse KL at the flow's own samples, as many as rows, both with path gradients.

    The first keeps mass wherever the data have some, the second takes it from where atoms clash; alone, the first leaves a tail of high energies
    and the second a tail of high weights.

    Args:
        target: the density.
    """

    requires = frozenset({"data"})

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.at_data, self.at_samples = ForwardKL(target, gradient="path"), ReverseKL(target)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        assert batch.x is not None
        forward = self.at_data.loss(model, batch, generator, phase=phase)
        reverse = self.at_samples.loss(model, Batch(size=len(batch.x)), generator, phase=phase)
        return Loss(forward.value + reverse.value, {**forward.terms, **reverse.terms})


def data_stage(flow: MolecularFlow, x: Tensor, validation: float, **options: Any) -> FitResult:
    """Maximum likelihood; the last rows are held out, as neighbouring frames of a trajectory are alike."""
    held = round(validation * len(x))
    if held:
        options = {"patience": PATIENCE, **options}
    return fit(flow, x[: len(x) - held], MaximumLikelihood(), validation=x[len(x) - held :] if held else None, **options)


def energy_stage(
    flow: MolecularFlow, target: MolecularTarget, energy: Energy, handed: Callable[[Tensor], Tensor], x: Tensor | None, **options: Any
) -> FitResult:
    """The objective by name, on the flow's own samples or on the data."""
    soft = target.softened(MARGIN * 3 * len(target.molecule.masses))
    made: dict[str, Callable[[], Objective]] = {
        "reverse_kl": lambda: ReverseKL(soft),
        "forward_kl": lambda: ForwardKL(soft, gradient="path"),
        "both": lambda: BothKL(soft),
        "fab": lambda: FAB(Handed(soft, handed), step_size=0.002),
    }
    if energy not in made:
        raise ConfigError(f"BoltzmannGenerator.fit: expected energy to be one of {', '.join(made)}, or None; got {energy!r}.")
    return fit(flow, x if energy in DATA else None, made[energy](), **options)
