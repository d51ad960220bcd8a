"""What objectives that draw from the flow and weigh against a target share."""

from __future__ import annotations

from typing import Any, Self

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, nearest
from flowkit.core.flow import Flow
from flowkit.core.objective import Objective
from flowkit.core.target import Target
from flowkit.objectives._energies import frozen


class EnergyObjective(Objective):
    """Keeps a target that is never trained: its parameters belong to no phase, and it stays in evaluation mode."""

    requires = frozenset({"target"})
    target: Any

    @property
    def who(self) -> str:
        """The name in messages."""
        return type(self).__name__

    def _keep(self, target: Target | Distribution) -> None:
        self.target = frozen(target, self.who)

    def train(self, mode: bool = True) -> Self:
        """The target stays as it is."""
        super().train(mode)
        if self.target is not None and next(self.target.parameters(), None) is not None:
            self.target.eval()
        return self


def one_of(value: object, known: tuple[str, ...], who: str, name: str) -> None:
    """Check an option that is one of a few words."""
    if value not in known:
        raise ConfigError(f"{who}: expected {name} to be one of {', '.join(known)}; got {value!r}. {nearest(str(value), known)}")


def normal(loc: float = 1.0, scale: float = 0.5) -> Distribution:
    """A normal in the plane, the target of examples."""
    return build({"name": "diagonal_normal", "shape": (2,), "loc": loc, "scale": scale}, Distribution)


def small_flow(*, context: int = 0) -> Flow:
    """A flow of two affine couplings in the plane, the model of examples."""
    coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": context}
    pair = {"name": "chain", "transforms": [coupling, {"name": "permutation", "order": (1, 0)}, coupling]}
    return build({"name": "flow", "base": {"name": "standard_normal", "shape": (2,)}, "bijector": pair}, Flow)
