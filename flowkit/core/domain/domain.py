"""The contract of a domain: a set of events that knows membership, a safe point and a map onto itself."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowkit.core.errors import DomainError
from flowkit.core.registry import DOMAINS, Registry
from flowkit.core.shapes import Shape, mask_event, show


class Domain(nn.Module):
    """A set of events. Constants are buffers, so a domain follows its owner's device and dtype.

    Implement ``contains``, ``safe_point`` and ``support_map``; where a uniform law exists also ``uniform``.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Box
        >>> Box(0.0, 1.0, 2).contains(torch.tensor([[0.5, 0.5], [0.5, 1.5]]))
        tensor([ True, False])
    """

    registries: ClassVar[tuple[Registry, ...]] = (DOMAINS,)
    event_shape: Shape

    @property
    def trivial(self) -> bool:
        """True for R^n, where no finite value needs checking."""
        return False

    @property
    def scale(self) -> float:
        """Size of the set's coordinates, which rounding tolerances are multiplied with."""
        return 1.0

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        """Membership of each event, within ``tol``: (*B, *event) -> (*B) bool. NaN is never inside."""
        raise NotImplementedError

    def safe_point(self, x: Tensor) -> Tensor:
        """A point well inside, of the shape of ``x``: what stands in for values outside."""
        raise NotImplementedError

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` uniform draws (n, *event).

        Raises:
            DomainError: the set has no uniform law (it is unbounded).
        """
        raise DomainError(f"{type(self).__name__}.uniform: the set has no uniform law. Use a bounded domain.")

    def support_map(self) -> dict[str, Any] | None:
        """Description of a bijector from R^n onto the set's interior, or None where there is none or it is the identity."""
        return None

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Membership and a copy of ``x`` with everything outside replaced: (inside (*B), safe x)."""
        inside = self.contains(x)
        return inside, torch.where(mask_event(inside, len(self.event_shape)), x, self.safe_point(x))

    def check(self, x: Tensor, who: str) -> None:
        """Raise DomainError if an event lies outside by more than rounding."""
        inside = self.contains(x, tol=32 * torch.finfo(x.dtype).eps * self.scale)
        if not bool(inside.all()):
            outside = int((~inside).sum())
            raise DomainError(
                f"{who}: expected values in {self}; got {outside} of {inside.numel()} events outside. "
                "Rescale the data, or map it there first (support= on a flow)."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}{show(self.event_shape)}"
