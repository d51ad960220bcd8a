"""What a check is run on: a seeded draw of inputs, and instances ready to be judged."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from flowkit.core.build import build, describe
from flowkit.core.errors import ConfigError
from flowkit.core.traits import Traits

M = TypeVar("M", bound=nn.Module)
NOISE = 0.3  # added to every parameter, so that an identity start hides nothing


@dataclass(frozen=True)
class Case:
    """One draw of inputs.

    Args:
        seed: of every random number a check draws.
        batch: batch shape of the inputs where a check does not choose its own.
        spread: inputs on R^n are drawn from N(0, (1.5 spread)^2).
        dtype: of the inputs and of the instance.
    """

    seed: int = 0
    batch: tuple[int, ...] = (5,)
    spread: float = 1.0
    dtype: torch.dtype = torch.float64

    def generator(self, offset: int = 0) -> torch.Generator:
        """A fresh generator; the same one for the same offset."""
        return torch.Generator().manual_seed(1000 * self.seed + offset)

    def but(self, **changes: Any) -> Case:
        """The same case with some changed."""
        return replace(self, **changes)


def prepared(instance: M, dtype: torch.dtype = torch.float64) -> M:
    """A copy to be judged: of that dtype, in eval mode, its trainable parameters perturbed."""
    subject = copy.deepcopy(instance).to(dtype).eval()
    perturb(subject)
    return subject


def perturb(module: nn.Module, seed: int = 1) -> None:
    """Add seeded noise to every trainable parameter, in place, as an optimiser would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.requires_grad:
                parameter.add_(NOISE * noise.to(parameter))


def rebuilt(instance: M) -> M:
    """A new instance from the same constructor arguments, with none of the state; float parameters of the same dtype."""
    weights: dict[str, torch.Tensor] = {}
    try:
        made = build(describe(instance, weights), type(instance), weights=weights)
    except ConfigError:  # a part is not registered; the check describe_build says so where it matters
        made = type(instance)(**{key: copy.deepcopy(value) for key, value in arguments(instance).items()})
    return made.to(dtype_of(instance)).train(instance.training)


def reloaded(instance: M) -> M:
    """``rebuilt`` with the instance's state loaded: what saving and loading gives."""
    made = rebuilt(instance)
    made.load_state_dict(instance.state_dict())
    return made


def arguments(instance: nn.Module) -> dict[str, Any]:
    """The constructor's arguments, as the instance stored them."""
    given: dict[str, Any] = {}
    for key, parameter in inspect.signature(type(instance).__init__).parameters.items():
        if key == "self" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if not hasattr(instance, key):
            raise AssertionError(f"{type(instance).__name__} does not store its argument '{key}' under that name")
        value = getattr(instance, key)
        given.update(value if parameter.kind is parameter.VAR_KEYWORD else {key: list(value) if isinstance(value, nn.ModuleList) else value})
    return given


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating dtype of a module's parameters and buffers, float64 when it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float64


def traits_of(instance: Any) -> Traits:
    """Declared traits; a distribution or a target has none and gets the defaults."""
    traits = getattr(instance, "traits", None)
    return traits if isinstance(traits, Traits) else Traits()


def known_failures(instance: Any) -> dict[str, str]:
    """Check name -> reason, from the traits or from an attribute ``known_failures``."""
    return dict(getattr(instance, "known_failures", None) or traits_of(instance).known_failures)


def seeded_examples(cls: Any) -> Iterator[Any]:
    """``cls.examples()`` under a fixed seed, the global generators left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield from list(cls.examples())


def one_line(call: str, contract: str, instance: Any, name: str, case: Case) -> str:
    """A line of Python that runs one check on one instance again."""
    if isinstance(instance, tuple):  # an objective with its toy problem
        return f"{call}(*example, only={name!r}) for each (label, *example) of {type(instance[0]).__name__}.examples()"
    try:
        made = f"build({describe(instance)}, {contract})"
    except Exception:
        made = type(instance).__name__ + "(...)"
    where = "" if case == Case() else f", case={case}"
    return f"{call}({made}, only={name!r}{where})"


Predicate = Callable[[Any], bool]
