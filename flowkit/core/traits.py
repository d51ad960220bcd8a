"""What a map declares about itself; the property suite chooses and calibrates its checks from this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

Inverse = Literal["closed", "iterative", "sequential", "none"]
LogDet = Literal["exact", "estimate", "bound", "volume"]
Jacobian = Literal["diagonal", "triangular", "constant", "dense"]
Score = Literal["closed", "solve", "two_pass", "none"]


@dataclass(frozen=True)
class Traits:
    """Declared capabilities of a map. The list is closed.

    Args:
        inverse: how ``inverse`` is computed; ``sequential`` costs one pass per group of features.
        log_det: whether the second output is exact, an unbiased estimate, a bound or a volume.
        jacobian: structure of d forward / d z; ``constant`` does not depend on z.
        score: how ``push_score`` and ``pull_score`` are computed: "closed" by a formula or products with the call itself, "solve" by linear
            equations, a fixed point or a differential equation, "two_pass" by a second pass through the inverse, "none" not at all.
        stochastic: forward or inverse draws random numbers.
        volume_preserving: log_det is identically zero.
        compiles: ``torch.compile(fullgraph=True)`` agrees with eager, in the directions that do not iterate.
        vmaps: ``torch.func.vmap`` agrees with eager.
        smooth: twice differentiable inside the domain (finite differences of gradients are meaningful).
        tolerance: round-trip tolerance by dtype, for maps whose inverse is iterative.
        known_failures: check name -> reason; each is a strict expected failure of the property suite.
    """

    inverse: Inverse = "closed"
    log_det: LogDet = "exact"
    jacobian: Jacobian = "dense"
    score: Score = "two_pass"
    stochastic: bool = False
    volume_preserving: bool = False
    compiles: bool = True
    vmaps: bool = True
    smooth: bool = True
    tolerance: Mapping[torch.dtype, float] = field(default_factory=dict)
    known_failures: Mapping[str, str] = field(default_factory=dict)

    def but(self, **changes: Any) -> Traits:
        """The same traits with some changed."""
        return replace(self, **changes)


_INVERSE: tuple[Inverse, ...] = ("closed", "sequential", "iterative", "none")
_LOG_DET: tuple[LogDet, ...] = ("exact", "volume", "estimate", "bound")
_SCORE: tuple[Score, ...] = ("closed", "solve", "two_pass", "none")


def combine(parts: list[Traits], *, jacobian: Jacobian = "dense") -> Traits:
    """Traits of a composition: the weakest of each."""
    if not parts:
        return Traits(jacobian="diagonal", score="closed", volume_preserving=True)
    tolerance: dict[torch.dtype, float] = {}
    for part in parts:
        for dtype, bound in part.tolerance.items():
            tolerance[dtype] = max(bound, tolerance.get(dtype, 0.0))
    return Traits(
        inverse=max((part.inverse for part in parts), key=_INVERSE.index),
        log_det=max((part.log_det for part in parts), key=_LOG_DET.index),
        jacobian=jacobian,
        score=max((part.score for part in parts), key=_SCORE.index),
        stochastic=any(part.stochastic for part in parts),
        volume_preserving=all(part.volume_preserving for part in parts),
        compiles=all(part.compiles for part in parts),
        vmaps=all(part.vmaps for part in parts),
        smooth=all(part.smooth for part in parts),
        tolerance=tolerance,
        known_failures={check: reason for part in parts for check, reason in part.known_failures.items()},
    )
