"""Products of domains over consecutive coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.domain._reflection import Reflection, joined, unmirrored
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DOMAINS


@DOMAINS.register("product")
class Product(Domain):
    """The product of vector domains: the first takes the first coordinates, and so on.

    Args:
        domains: domains with one event axis of known size.
    """

    def __init__(self, domains: Sequence[Domain]) -> None:
        super().__init__()
        self.domains = nn.ModuleList(domains)
        self.sizes: list[int] = []
        for part in domains:
            if len(part.event_shape) != 1 or part.event_shape[0] is None:
                raise ConfigError(f"Product: expected domains of one axis of known size; got {part}.")
            self.sizes.append(part.event_shape[0])
        self.event_shape = (sum(self.sizes),)

    def _parts(self, x: Tensor) -> list[tuple[Domain, Tensor]]:
        return list(zip(self.domains, x.split(self.sizes, dim=-1), strict=True))  # type: ignore[arg-type]

    @property
    def trivial(self) -> bool:
        return all(part.trivial for part in self.domains)  # type: ignore[union-attr]

    @property
    def scale(self) -> float:
        return max(float(part.scale) for part in self.domains)  # type: ignore[arg-type]

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return torch.stack([part.contains(piece, tol) for part, piece in self._parts(x)]).all(0)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.cat([part.safe_point(piece) for part, piece in self._parts(x)], dim=-1)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.cat([part.uniform(n, generator) for part in self.domains], dim=-1)  # type: ignore[operator]

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume."""
        return float(sum(part.log_volume for part in self.domains))  # type: ignore[arg-type, misc]

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, factor by factor: (*B, D) to itself."""
        return torch.cat([piece if part.trivial else part.project(piece) for part, piece in self._parts(x)], dim=-1)  # type: ignore[operator]

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """Reflect each factor's part of the step x -> x + dx in that factor."""
        x, dx = torch.broadcast_tensors(x, dx)
        pairs = zip(self._parts(x), dx.split(self.sizes, dim=-1), strict=True)
        folded = [unmirrored(piece + step) if part.trivial else part.reflect(piece, step) for (part, piece), step in pairs]  # type: ignore[operator]
        return joined(folded, self.sizes)

    def support_map(self) -> dict[str, Any] | None:
        maps = [part.support_map() or {"name": "identity", "shape": part.event_shape} for part in self.domains]  # type: ignore[operator]
        return {"name": "concat", "transforms": maps}

    def __repr__(self) -> str:
        return f"Product({', '.join(repr(part) for part in self.domains)})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Product]]:
        from flowkit.core.domain.box import Box
        from flowkit.core.domain.simplex import Simplex

        yield "box_simplex", cls([Box(-1.0, 1.0, 1), Simplex(2)])
