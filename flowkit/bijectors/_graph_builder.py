"""Writing a graph step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from flowkit.core.errors import ConfigError
from flowkit.core.transform import Bijector

G = TypeVar("G")


class GraphBuilder(Generic[G]):
    """Collects the steps of a graph; every call returns the names of the values it makes.

    Args:
        make: the class to build, called with (inputs, bijectors, steps, output, context=).
        inputs, context: as the class takes them.
    """

    def __init__(self, make: Callable[..., G], inputs: Mapping[str, Any], context: Any = None) -> None:
        self.make, self.inputs, self.context = make, inputs, context
        self.bijectors: dict[str, Bijector] = {}
        self.steps: list[dict[str, Any]] = []

    def apply(self, name: str, bijector: Bijector, to: str, given: str | Sequence[str] | Mapping[str, str] | None = None) -> str:
        """Map the value ``to`` and call the result ``name``. A bijector met before is applied again with the same weights."""
        key = next((known for known, other in self.bijectors.items() if other is bijector), name)
        if self.bijectors.setdefault(key, bijector) is not bijector:
            raise ConfigError(f"Graph: the name '{name}' is taken by another bijector. Choose another one.")
        step: dict[str, Any] = {"apply": key, "to": to, "as": name}
        if given is not None:
            step["given"] = given if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else list(given)
        self.steps.append(step)
        return name

    def split(self, value: str, *, axis: int = 0, **sizes: int) -> tuple[str, ...]:
        """Cut a value along an event axis into parts of these names and sizes."""
        self.steps.append({"split": value, "into": sizes, "axis": axis})
        return tuple(sizes)

    def join(self, name: str, *values: str, axis: int = 0) -> str:
        """Join values along an event axis and call the result ``name``."""
        self.steps.append({"join": list(values), "as": name, "axis": axis})
        return name

    def build(self, *output: str) -> G:
        """The graph that ends with these values."""
        return self.make(self.inputs, self.bijectors, self.steps, output[0] if len(output) == 1 else list(output), context=self.context)
