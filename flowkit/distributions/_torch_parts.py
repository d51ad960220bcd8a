"""Reading torch.distributions: classes by name, arguments of an object, supports as domains, seeded forks of the RNG."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution as TorchBase
from torch.distributions import Independent, constraints

from flowkit.core.domain.box import Box
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import UnknownNameError, nearest

ALTERNATIVES = (("scale_tril", "covariance_matrix", "precision_matrix"), ("logits", "probs"))  # a constructor takes one of each


def _named_classes() -> dict[str, type[TorchBase]]:
    exported = {name: getattr(torch.distributions, name) for name in torch.distributions.__all__}
    return {name: value for name, value in exported.items() if inspect.isclass(value) and issubclass(value, TorchBase) and value is not TorchBase}


def named_class(name: str, who: str) -> type[TorchBase]:
    """The class that torch.distributions exports under a name."""
    known = _named_classes()
    if name not in known:
        raise UnknownNameError(f"{who}: torch.distributions has no class {name!r}. {nearest(name, known)}")
    return known[name]


def as_named(made: TorchBase, event_rank: int | None) -> tuple[str | TorchBase, Mapping[str, float | Tensor] | None, int | None]:
    """An object as class name, arguments and event rank; the object itself where it is not made of tensors alone."""
    inner = made
    while isinstance(inner, Independent):
        inner = inner.base_dist
    rank = len(made.event_shape) if isinstance(made, Independent) and event_rank is None else event_rank
    cls = type(inner)
    if _named_classes().get(cls.__name__) is not cls or not inner.arg_constraints:
        return made, None, event_rank
    arguments = {name: value for name, value in _arguments(inner).items() if isinstance(value, Tensor | float)}
    try:
        again = cls(**arguments, validate_args=False)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return made, None, event_rank
    if again.batch_shape != inner.batch_shape or again.event_shape != inner.event_shape:
        return made, None, event_rank
    return cls.__name__, {name: torch.as_tensor(value).detach() for name, value in arguments.items()}, rank


def _arguments(made: TorchBase) -> dict[str, Any]:
    accepted = inspect.signature(type(made).__init__).parameters
    names = [name for name in made.arg_constraints if name in accepted]  # type: ignore[attr-defined]
    for group in ALTERNATIVES:
        present = [name for name in group if name in names]
        names = [name for name in names if name not in present[1:]]
    return {name: getattr(made, name, None) for name in names}


def support_of(made: TorchBase, event_shape: tuple[int, ...]) -> Domain | None:
    """The support as a domain: None for R^n, a box where bounds are coordinatewise, else torch's own constraint."""
    try:
        constraint: Any = made.support
    except NotImplementedError:
        return None
    inner = constraint
    while hasattr(inner, "base_constraint"):
        inner = inner.base_constraint
    if inner is constraints.real or (inner is constraints.real_vector):
        return None
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if low is None and high is None:
        return _Constrained(made, constraint, event_shape)
    low, high = (torch.as_tensor(end, dtype=torch.get_default_dtype()) for end in (-torch.inf if low is None else low, torch.inf if high is None else high))
    if isinstance(inner, constraints.greater_than):  # an open end: many formulas are NaN there
        low = torch.nextafter(low, torch.full_like(low, torch.inf))
    return Box(low, high, event_shape)


class _Constrained(Domain):
    """Where a torch constraint holds; a draw of the law is the safe point."""

    point: Tensor

    def __init__(self, made: TorchBase, constraint: Any, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.constraint, self.event_shape = constraint, event_shape
        with forked_rng(torch.Generator().manual_seed(0), torch.device("cpu")):
            self.register_buffer("point", made.sample().detach(), persistent=False)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        inside = self.constraint.check(x)
        rank = inside.dim() - (x.dim() - len(self.event_shape))
        inside = inside.flatten(-rank).all(-1) if rank else inside
        return inside & torch.isfinite(x.flatten(-len(self.event_shape))).all(-1) if self.event_shape else inside & torch.isfinite(x)

    def safe_point(self, x: Tensor) -> Tensor:
        return self.point.to(x).expand_as(x)


@contextmanager
def forked_rng(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Run on a fork of the CPU's and this device's global RNG seeded from a generator; without one, on the global RNG itself."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed every GPU, also those the fork does not restore
        torch.default_generator.manual_seed(seed)
        for fork in cuda:
            torch.cuda.default_generators[fork.index or 0].manual_seed(seed)
        yield
