"""Layers of one structure, run as a loop that compiles once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._layers import Layers
from flowkit.core.algebra.chain import Chain
from flowkit.core.build import build, describe
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, positive, show, zeros_log_det
from flowkit.core.traits import Jacobian, combine
from flowkit.core.transform import Bijector


@BIJECTORS.register("scan")
class Scan(Bijector):
    """x = f_n(... f_1(z)) for layers f_i of the same structure with parameters of their own, kept stacked (n, ...).

    Under ``torch.compile`` the loop is one scan over the stacked parameters: the layer is traced once and the time to
    compile does not grow with the depth; a compiled step takes up to 1.6 times that of a ``Chain``, which is compiled layer by
    layer (benchmarks/results/scan_compile.md). In eager mode, and for maps without
    parameters or that draw, it is a plain loop. Equal to a ``Chain`` of the layers: ``from_chain`` and ``to_chain`` convert.

    Args:
        bijector: one layer, which keeps its event shape. The first layer keeps its values; the others are built anew from
            its description, with fresh random weights.
        repeats: n.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Affine, Scan
        >>> scan = Scan(Affine(2, scale=2.0), repeats=3)
        >>> scan(torch.ones(2))[0].tolist(), len(scan.to_chain())
        ([8.0, 8.0], 3)
    """

    def __init__(self, bijector: Bijector, repeats: int) -> None:
        super().__init__()
        self.layers = Layers(bijector, repeats, "Scan")
        self.repeats = self.layers.count
        if bijector.in_shape != bijector.out_shape:
            raise ShapeError(f"Scan: expected a layer that keeps its shape; {bijector.who} maps {show(bijector.in_shape)} to {show(bijector.out_shape)}.")
        self.in_shape = self.out_shape = bijector.in_shape
        self.context_shape = bijector.context_shape
        kind: Jacobian = bijector.traits.jacobian
        self.traits = combine([bijector.traits] * self.repeats, jacobian=kind)

    @property
    def bijector(self) -> Bijector:
        """The layer, its parameters those of all layers stacked."""
        return self.layers.bijector

    @property
    def domain(self) -> Domain:
        return self.bijector.domain

    @property
    def codomain(self) -> Domain:
        return self.bijector.codomain

    @classmethod
    def from_chain(cls, chain: Chain, period: int = 1) -> Scan:
        """The scan equal to a chain whose layers, ``period`` neighbours each, have the same structure.

        Raises:
            ConfigError: the layers differ in more than the values of their parameters.
        """
        period = positive(period, "Scan.from_chain", "period")
        if not isinstance(chain, Chain) or len(chain) % period:
            raise ConfigError(f"Scan.from_chain: expected a chain whose length is a multiple of period={period}; got {chain!r:.80}.")
        groups = [chain[i : i + period] if period > 1 else chain[i] for i in range(0, len(chain), period)]
        for i, group in enumerate(groups[1:], start=1):
            if not _alike(groups[0], group):
                raise ConfigError(f"Scan.from_chain: layer {i} is built differently from layer 0. Set period= to where the pattern repeats, or keep the Chain.")
        made = cls(copy.deepcopy(groups[0]), len(groups))
        made.layers.fill(groups)
        return made.train(chain.training)

    def to_chain(self) -> Chain:
        """The chain of the layers, holding copies of the parameters."""
        return Chain([self.layers.layer(i) for i in range(self.repeats)])

    def _order(self, inverse: bool) -> range:
        return range(self.repeats)[::-1] if inverse else range(self.repeats)

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        total, method = zeros_log_det(value, self.in_shape), "inverse" if inverse else "__call__"
        rolled = _scan_operator() if self._rolls() else None
        if rolled is not None:
            return self._rolled(rolled, value, total, context, inverse)
        for i in self._order(inverse):
            value, log_det = self.layers.run(self.layers.at(i), method, value, context, generator=generator)
            if not self.traits.volume_preserving:
                total = total + log_det
        return value, total

    def _rolls(self) -> bool:
        """Whether to hand the loop to the compiler; its operator neither vectorises nor draws, and wants something to run over."""
        plain = not torch._C._are_functorch_transforms_active() and not self.traits.stochastic
        return torch.compiler.is_compiling() and plain and bool(self.layers.names)

    def _rolled(self, scan: Callable[..., Any], value: Tensor, total: Tensor, context: Context, inverse: bool) -> tuple[Tensor, Tensor]:
        method = "inverse" if inverse else "__call__"

        def step(carry: tuple[Tensor, Tensor], tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], Tensor]:
            value, log_det = self.layers.run(tensors, method, carry[0], context)
            # the operator wants fresh tensors of one layout from step to step, and something to collect
            return (value.contiguous().clone(), carry[1] + log_det), log_det.new_zeros(())

        (value, total), _ = scan(step, (value.contiguous().clone(), total), self.layers.stacks(), reverse=inverse)
        return value, total

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        total, inside = zeros_log_det(value, self.in_shape), None
        for i in self._order(inverse):
            value, log_det, within = self.layers.run(self.layers.at(i), "masked", value, context, inverse=inverse, generator=generator)
            total = total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        return value, total, inside

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        for i in self._order(inverse):  # the layer writes into views of the stacks
            value = self.layers.run(self.layers.at(i), "initialize", value, context, inverse=inverse, generator=generator)
        return value

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        total = zeros_log_det(value, self.in_shape)
        for i in self._order(inverse):
            method = "pull_score" if inverse else "push_score"
            value, log_det, score = self.layers.run(self.layers.at(i), method, value, score, context, generator=generator)
            total = total + log_det
        return value, total, score

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Scan]]:
        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,), "activation": "tanh", "context_features": 2}
        layer = {"name": "chain", "transforms": [coupling, {"name": "permutation", "order": (1, 2, 0)}]}
        yield "coupling_conditional", cls(build(layer, Bijector), 3)
        yield "affine", cls(build({"name": "affine", "shape": (2,)}, Bijector), 2)
        yield "act_norm_image", cls(build({"name": "act_norm", "shape": (2, None, None)}, Bijector), 2)


def _scan_operator() -> Callable[..., Any] | None:
    """torch's scan, a prototype that may move; without it the loop is unrolled."""
    try:
        from torch._higher_order_ops import scan
    except ImportError:
        return None
    return scan


def _alike(first: Bijector, second: Bijector) -> bool:
    """Whether two maps have the same description."""
    mine: dict[str, Tensor] = {}
    yours: dict[str, Tensor] = {}
    if describe(first, mine) != describe(second, yours) or mine.keys() != yours.keys():
        return False
    return all(torch.equal(tensor, yours[key]) for key, tensor in mine.items())
