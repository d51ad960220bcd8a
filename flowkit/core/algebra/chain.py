"""Composition: the maps of a chain one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.core.algebra.contexts import part
from flowkit.core.algebra.inverse import moves_by_call
from flowkit.core.algebra.sequence import TransformSequence
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, zeros_log_det
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("chain")
class Chain(TransformSequence, Bijector):
    """Composition x = f_n(... f_2(f_1(z))); log_dets add.

    Shapes are unified when the chain is built. Parts that declare a context all declare the same one and share it.
    ``chain[i]`` is a part, ``chain[i:j]`` a chain of parts (same modules, not copies). ``domain`` and ``codomain`` are those of
    the first and the last part; what parts between leave out is found when they are called.

    ``memory="invert"`` trains at a memory that does not grow with depth: the parts' activations are not kept but computed
    again in the backward pass, from the output, through the inverses. A step takes about twice as long, gives first
    derivatives only, and refuses dropout and maps that draw. Gradients carry the round-trip error of the parts. Under
    ``torch.compile``, vmap and forward-mode derivatives the activations are stored as usual.

    Args:
        transforms: bijectors in the order ``forward`` applies them, at least one.
        memory: "store" keeps activations for the backward pass; "invert" recomputes them.

    Raises:
        ShapeError: two neighbours do not fit, or two parts want different contexts.
        ConfigError: ``memory="invert"`` with a part that has no inverse or draws.

    Reference: Gomez et al. (2017), The Reversible Residual Network, arXiv:1707.04585, section 3.2, for recomputing.
    """

    def __init__(self, transforms: Sequence[Bijector], *, memory: Literal["store", "invert"] = "store") -> None:
        super().__init__()
        steps = self._compose(transforms, (Bijector,), "bijectors")
        if memory not in ("store", "invert"):
            raise ConfigError(f"Chain: expected memory to be 'store' or 'invert'; got {memory!r}.")
        self.memory = memory
        for step in steps if memory == "invert" else ():
            if step.traits.stochastic or step.traits.inverse == "none":
                raise ConfigError(f"Chain: memory='invert' needs parts that are inverted without drawing; got {step.who}. Use memory='store'.")
        diagonal = all(step.traits.jacobian == "diagonal" for step in steps)
        constant = all(step.traits.jacobian == "constant" for step in steps)
        self.traits = combine([step.traits for step in steps], jacobian="diagonal" if diagonal else "constant" if constant else "dense")

    def move(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """The value alone, of parts that know how to leave their log_det out."""
        if self.moves_by_call:
            return super().move(value, context, inverse=inverse, generator=generator)
        value, context = self._prepare(value, context, inverse)
        for step in self._steps(inverse):
            value = step.move(value, part(context, step), inverse=inverse, generator=generator)
        return value

    @property
    def moves_by_call(self) -> bool:
        """Whether ``move`` is a call of which the log_det is dropped."""
        return self.memory == "invert" or all(moves_by_call(step) for step in self.transforms)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        total = zeros_log_det(value, self.out_shape if inverse else self.in_shape)
        for step in self._steps(inverse):
            carry = step.pull_score if inverse else step.push_score
            value, log_det, score = carry(value, score, part(context, step), generator=generator)
            total = total + log_det
        return value, total, score

    def merge(self, following: Transform) -> Transform | None:
        return None

    def __getitem__(self, index: int | slice) -> Bijector:
        parts = self._part(index)
        return Chain(parts, memory=self.memory) if isinstance(index, slice) else parts[0]  # type: ignore[arg-type]

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Chain]]:
        from flowkit.core.build import build

        affine = {"name": "affine", "shape": (3,)}
        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 2}
        yield "affine_coupling", cls([build(affine, Bijector), build(coupling, Bijector)])
        turned = {"name": "permutation", "order": (1, 2, 0)}
        yield "inverting", cls([build(coupling, Bijector), build(turned, Bijector), build(coupling, Bijector)], memory="invert")
        yield "permuted", cls([build({"name": "permutation", "order": (1, 0, 2)}, Bijector), build(affine, Bijector)])
