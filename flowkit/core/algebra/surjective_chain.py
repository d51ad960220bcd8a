"""Composition of maps of which some lose information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.core.algebra.sequence import TransformSequence
from flowkit.core.registry import SURJECTIONS
from flowkit.core.surjection import Surjection
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector, Transform


@SURJECTIONS.register("surjective_chain")
class SurjectiveChain(TransformSequence, Surjection):
    """Bijectors and surjections one after the other; likelihood contributions add. What ``f >> g`` gives where one is a surjection.

    Its likelihood is a bound as soon as one part's is.

    Args:
        transforms: bijectors and surjections in the order ``forward`` applies them.

    Raises:
        ShapeError: two neighbours do not fit, or two parts want different contexts.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, section 3.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        steps = self._compose(transforms, (Bijector, Surjection), "bijectors and surjections")
        self.traits = combine([step.traits for step in steps])
        self.draws = frozenset().union(*(step.draws for step in steps if isinstance(step, Surjection)))

    def __getitem__(self, index: int | slice) -> Transform:
        from flowkit.core.algebra.operators import compose

        parts = self._part(index)
        return compose(parts) if isinstance(index, slice) else parts[0]

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SurjectiveChain]]:
        from flowkit.core.build import build

        affine = build({"name": "affine", "shape": (2,), "context_features": 2}, Bijector)
        yield "absolute", cls([affine, build({"name": "absolute", "shape": (2,)}, Surjection)])
