"""Laws of the time at which flow matching looks at a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, UnknownNameError, nearest
from flowkit.core.shapes import positive_number
from flowkit.numerics.schedules import described

EDGE = 1e-4  # "edm" keeps this far from both ends
_OPTIONS: dict[str, dict[str, float]] = {"uniform": {}, "stratified": {}, "logit_normal": {"mean": 0.0, "std": 1.0}, "edm": {"mean": 1.2, "std": 1.2}}


@dataclass(frozen=True)
class TimeLaw:
    """How times in [0, 1] are drawn, one a row.

        uniform       on [0, 1)
        stratified    uniform, one in each of B equal parts: the loss of a batch varies less
        logit_normal  logit t ~ N(mean, std^2)
        edm           the same with mean 1.2 and std 1.2, late times mostly, kept 1e-4 off both ends

    Args:
        name: as above. options: mean and std by name.

    Reference: Esser et al. (2024), arXiv:2403.03206 (logit_normal); Karras et al. (2022), arXiv:2206.00364 (edm, whose log sigma is -logit t).
    """

    name: str
    options: Mapping[str, float]

    @classmethod
    def of(cls, time: str | Mapping[str, Any], who: str) -> TimeLaw:
        """The law that a name, or ``{name: ..., **options}``, describes.

        Raises:
            UnknownNameError, ConfigError: the name or an option is not known.
        """
        name, options = described(time, "time", who)
        if name not in _OPTIONS:
            raise UnknownNameError(f"{who}: no law of time named {name!r}. {nearest(name, _OPTIONS)}")
        unknown = set(options) - set(_OPTIONS[name])
        if unknown:
            raise ConfigError(f"{who}: time '{name}' has no option {min(unknown)!r}. It takes: {', '.join(_OPTIONS[name]) or 'none'}.")
        if "std" in options:
            positive_number(options["std"], who, f"{name}'s std")
        return cls(name, _OPTIONS[name] | {key: float(value) for key, value in options.items()})

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Times for the rows of a tensor (B, ...), in its dtype: (B)."""
        n, kind = len(like), {"dtype": like.dtype, "device": like.device}
        if self.name in ("uniform", "stratified"):
            t = torch.rand(n, generator=generator, **kind)  # type: ignore[call-overload]
            return t if self.name == "uniform" else (t + torch.arange(n, **kind)) / n  # type: ignore[call-overload, no-any-return]
        t = torch.sigmoid(self.options["mean"] + self.options["std"] * torch.randn(n, generator=generator, **kind))  # type: ignore[call-overload]
        return t.clamp(EDGE, 1 - EDGE) if self.name == "edm" else t
