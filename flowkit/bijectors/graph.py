"""Maps wired as a graph of named values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._graph_builder import GraphBuilder
from flowkit.bijectors._scores import entry, left
from flowkit.bijectors._wiring import Plan, Step, joined_shape, make_plan
from flowkit.core.algebra.joint_domains import PartsDomain
from flowkit.core.build import build
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.real import Real
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, Shape, as_shape, zeros_log_det
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector

Call = Callable[[Step, Tensor, dict[str, Any]], Tensor]


@BIJECTORS.register("graph")
class Graph(Bijector):
    """A directed acyclic graph of maps: values are split, mapped under conditions, and joined; log_dets add.

    Steps are plain mappings over named values, in any order:

    * ``{"apply": "f", "to": "x", "as": "y", "given": "c"}``: y = f(x), f one of ``bijectors``, its context c. ``given`` names
      a value made elsewhere or a context, or lists vectors that are joined, or maps the keys of a dict context to names;
    * ``{"split": "x", "into": {"a": 2, "b": 3}, "axis": 0}``: cut x along an event axis;
    * ``{"join": ["a", "b"], "as": "y", "axis": 0}``: the reverse.

    Every value is used up exactly once, by a step or as an output, while conditioning does not use up. All of this is
    checked when the graph is built, also that the inverse knows every condition in time. Two steps that apply the same name
    share weights. Either direction costs the sum of the maps used.

    Args:
        inputs: name -> shape of the values a call starts from; several are parts of the event along axis 0, in this order.
        bijectors: name -> map.
        steps: as above.
        output: the name, or names, of the values a call ends with; several are joined along axis 0.
        context: shape of the context, which steps call "context", or name -> shape for a context that is a dict.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Affine, Graph
        >>> wire = Graph.wire({"x": 4})
        >>> a, b = wire.split("x", a=2, b=2)
        >>> b = wire.apply("shifted", Affine(2, context_features=2), to=b, given=a)
        >>> graph = wire.build(wire.join("y", b, a))
        >>> graph(torch.arange(4.0))[0].tolist()
        [2.0, 3.0, 0.0, 1.0]

    Reference: the wiring of FrEIA's GraphINN (Ardizzone et al. 2018), arXiv:1808.04730.
    """

    def __init__(
        self,
        inputs: Mapping[str, int | Sequence[int | None]],
        bijectors: Mapping[str, Bijector],
        steps: Sequence[Mapping[str, Any]],
        output: str | Sequence[str],
        *,
        context: Mapping[str, Sequence[int]] | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.steps, self.output, self.context = inputs, steps, output, context
        self.maps = nn.ModuleDict(_checked_bijectors(bijectors))
        self._starts, self._ends = list(inputs), [output] if isinstance(output, str) else list(output)
        if not self._starts or not self._ends:
            raise ConfigError("Graph: expected at least one input and one output.")
        given = dict(context) if isinstance(context, Mapping) else {} if context is None else {"context": context}
        contexts = {name: as_shape(tuple(shape), f"Graph: context '{name}'") for name, shape in given.items()}
        shapes = {name: as_shape(shape, f"Graph: input '{name}'") for name, shape in inputs.items()}
        self._contexts = frozenset(contexts)
        self._plan = make_plan(shapes, contexts, steps, self._ends, bijectors)
        self.context_shape = contexts if isinstance(context, Mapping) else contexts.get("context")
        self._in_sizes, self.in_shape = _event(self._starts, self._plan)
        self._out_sizes, self.out_shape = _event(self._ends, self._plan)
        used = [bijectors[step.map].traits for step in self._plan.forward if step.kind == "apply"]
        fixed = all(traits.jacobian == "constant" for traits in used) and not any(step.conditions for step in self._plan.forward)
        self.traits = combine(used).but(jacobian="constant" if fixed else "dense")
        if self._plan.both is None:
            self.traits = self.traits.but(score="two_pass")

    @property
    def bijectors(self) -> dict[str, Bijector]:
        """The maps by name."""
        return dict(self.maps.items())  # type: ignore[arg-type]

    @classmethod
    def wire(cls, inputs: Mapping[str, int | Sequence[int | None]], context: Mapping[str, Sequence[int]] | Sequence[int] | None = None) -> GraphBuilder[Graph]:
        """Start a graph that is written step by step; see the example."""
        return GraphBuilder(cls, inputs, context)

    @property
    def domain(self) -> Domain:
        users = {name: step for step in self._plan.forward for name in step.takes}
        return self._whole([self._domain_of(name, users, inverse=False) for name in self._starts], self.in_shape, self._in_sizes)

    @property
    def codomain(self) -> Domain:
        makers = {name: step for step in self._plan.forward for name in step.makes}
        return self._whole([self._domain_of(name, makers, inverse=True) for name in self._ends], self.out_shape, self._out_sizes)

    def _domain_of(self, name: str, steps: Mapping[str, Step], inverse: bool) -> Domain:
        """Where a value lies, as far as the steps next to it say; what lies beyond a join is found when it is called."""
        step, shape = steps.get(name), self._plan.shapes[name]
        if step is not None and step.kind == "apply":
            bijector: Any = self.maps[step.map]
            found: Domain = bijector.codomain if inverse else bijector.domain
            return Real(shape) if found.trivial else found
        if step is None or step.kind != ("join" if inverse else "split"):
            return Real(shape)
        parts = [self._domain_of(part, steps, inverse) for part in (step.takes if inverse else step.makes)]
        return Real(shape) if all(part.trivial for part in parts) else PartsDomain(parts, shape, step.axis, step.sizes)

    def _whole(self, parts: list[Domain], shape: Shape, sizes: tuple[int, ...]) -> Domain:
        if all(part.trivial for part in parts):
            return Real(shape)
        return parts[0] if len(parts) == 1 else PartsDomain(parts, shape, 0, sizes)

    def _evaluate(self, value: Tensor, context: Any, inverse: bool, call: Call, steps: Sequence[Step] | None = None) -> Tensor:
        """Run the steps of one direction; ``call`` evaluates a bijector, given what is known by name, and keeps what else it returns."""
        names, sizes, shape = (self._ends, self._out_sizes, self.out_shape) if inverse else (self._starts, self._in_sizes, self.in_shape)
        parts = value.split(list(sizes), value.dim() - len(shape)) if len(names) > 1 else (value,)
        known: dict[str, Any] = dict(zip(names, parts, strict=True))
        known.update(context if isinstance(context, Mapping) else {"context": context})
        for step in steps or (self._plan.inverse if inverse else self._plan.forward):
            takes, makes = (step.makes, step.takes) if inverse else (step.takes, step.makes)
            if step.kind == "apply":
                known[makes[0]] = call(step, known[takes[0]], known)
            elif len(takes) > 1 or (step.kind == "join") != inverse:
                known[makes[0]] = _joined(takes, known, self._plan.shapes, step.axis)
            else:
                whole = known[takes[0]]
                dim = whole.dim() - len(self._plan.shapes[takes[0]]) + step.axis
                known.update(zip(makes, whole.split(list(step.sizes), dim), strict=True))
        return _joined(self._starts if inverse else self._ends, known, self._plan.shapes, 0)

    def _run(self, value: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        log_dets = [zeros_log_det(value, self.out_shape if inverse else self.in_shape)]

        def call(step: Step, piece: Tensor, known: dict[str, Any]) -> Tensor:
            bijector: Any = self.maps[step.map]
            out, log_det = (bijector.inverse if inverse else bijector)(piece, _condition(step, known), generator=generator)
            log_dets.append(log_det)
            return out

        out = self._evaluate(value, context, inverse, call)
        return out, sum(log_dets[1:], start=log_dets[0])

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        log_dets = [zeros_log_det(value, self.out_shape if inverse else self.in_shape)]
        flags: list[Tensor] = []

        def call(step: Step, piece: Tensor, known: dict[str, Any]) -> Tensor:
            bijector: Any = self.maps[step.map]
            out, log_det, inside = bijector.masked(piece, _condition(step, known), inverse=inverse, generator=generator)
            log_dets.append(log_det)
            flags.extend([] if inside is None else [inside])
            return out

        out = self._evaluate(value, context, inverse, call)
        return out, sum(log_dets[1:], start=log_dets[0]), torch.stack(flags).all(0) if flags else None

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)

        def call(step: Step, piece: Tensor, known: dict[str, Any]) -> Tensor:
            bijector: Any = self.maps[step.map]
            done: Tensor = bijector.initialize(piece, _condition(step, known), inverse=inverse, generator=generator)
            return done

        return self._evaluate(value, context, inverse, call)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Point and score are split and joined alike; a step takes from the score of what it is conditioned on, as a coupling does."""
        steps = self._plan.both
        if steps is None:
            return super()._carry(value, score, context, generator, inverse)
        recording, log_dets = torch.is_grad_enabled(), [zeros_log_det(value, self.out_shape if inverse else self.in_shape)]

        def call(step: Step, pair: Tensor, known: dict[str, Any]) -> Tensor:
            bijector: Any = self.maps[step.map]
            carry = bijector.pull_score if inverse else bijector.push_score
            names = [name for name in step.conditions if name not in self._contexts]
            # an alias: what is mapped may have seen the same value before, which counts as fixed here
            seen = {name: _alias(known[name][0], recording) for name in dict.fromkeys(names)}
            out, log_det, carried = carry(*pair.unbind(0), _condition(step, known | seen), generator=generator)
            log_dets.append(log_det)
            if seen and (out.requires_grad or log_det.requires_grad):
                falls = torch.autograd.grad((out * carried).sum() + log_det.sum(), list(seen.values()), retain_graph=True, materialize_grads=True)
                known.update({name: torch.stack([known[name][0], known[name][1] - fall]) for name, fall in zip(seen, falls, strict=True)})
            return torch.stack([out, carried])

        with torch.enable_grad():
            out, carried = self._evaluate(torch.stack([value, score]), context, inverse, call, steps[::-1] if inverse else steps).unbind(0)
        return left(out, sum(log_dets[1:], start=log_dets[0]), carried.detach(), recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Graph]]:
        options = {"univariate": {"name": "affine"}, "hidden": (8,), "activation": "tanh"}
        moved = build({"name": "elementwise", "shape": (2,), "univariate": {"name": "affine"}, "context_features": 2, "hidden": (8,)}, Bijector)
        coupling = build({"name": "coupling", "features": 2, "context_features": 4, **options}, Bijector)
        wire = cls.wire({"x": 4}, context=(2,))
        a, b = wire.split("x", a=2, b=2)
        b = wire.apply("moved", moved, to=b, given=a)
        a = wire.apply("coupled", coupling, to=a, given=[b, "context"])
        yield "coupling_by_hand", wire.build(wire.join("y", a, b))
        wire = cls.wire({"x": (2, 2), "y": (1, 2)}, context={"c": (2,), "d": (3,)})
        rows = build({"name": "elementwise", "shape": (1, 2), "univariate": {"name": "affine"}, "context_features": 3, "hidden": (8,)}, Bijector)
        first, rest = wire.split("x", left=1, right=1, axis=1)
        first = wire.apply("column", build({"name": "to_box", "low": 0.0, "high": 1.0, "shape": (2, 1)}, Bijector), to=first)
        row = wire.apply("row", rows, to="y", given="d")
        again = wire.apply("shifted", build({"name": "affine", "shape": (2, 1), "context_features": 2}, Bijector), to=rest, given="c")
        yield "several_ends", wire.build(row, wire.join("z", first, again, axis=1))


def _checked_bijectors(bijectors: Mapping[str, Bijector]) -> dict[str, Bijector]:
    for name, bijector in bijectors.items():
        if not isinstance(bijector, Bijector):
            raise ConfigError(f"Graph: expected bijector '{name}' to be a bijector; got {type(bijector).__name__}.")
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ConfigError(f"Graph: expected names of bijectors that are identifiers; got {name!r}, which a module list cannot use.")
    return dict(bijectors)


def _event(names: Sequence[str], plan: Plan) -> tuple[tuple[int, ...], Shape]:
    """Sizes of the parts and shape of the event they are joined to along axis 0; a single one is the event."""
    if len(names) == 1:
        return (), plan.shapes[names[0]]
    return joined_shape([plan.shapes[name] for name in names], 0, f"Graph: the values {', '.join(names)}")


def _joined(names: Sequence[str], known: Mapping[str, Tensor], shapes: Mapping[str, Shape], axis: int) -> Tensor:
    if len(names) == 1:
        return known[names[0]]
    return torch.cat([known[name] for name in names], known[names[0]].dim() - len(shapes[names[0]]) + axis)


def _alias(value: Tensor, recording: bool) -> Tensor:
    """A value to differentiate by, apart from all else that has been made of it."""
    value = entry(value, recording)
    return value.view_as(value)


def _condition(step: Step, known: Mapping[str, Any]) -> Any:
    """What a step's map gets as its context."""
    if step.given is None or isinstance(step.given, str):
        return None if step.given is None else known[step.given]
    if isinstance(step.given, dict):
        return {key: known[name] for key, name in step.given.items()}
    return torch.cat([known[name] for name in step.given], -1)
