"""Coupling, global affine map and permutation in one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._composed import Composed
from flowkit.bijectors._matrices import random_rotation
from flowkit.bijectors._scores import carry_orthogonal
from flowkit.bijectors.act_norm import ActNorm
from flowkit.bijectors.coupling import Coupling
from flowkit.bijectors.householder import Householder
from flowkit.bijectors.permutation import Permutation
from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, whole_number, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.numerics.precision import full_precision

MIXINGS = ("hard", "soft", "householder")


@BIJECTORS.register("all_in_one_block")
class AllInOneBlock(Composed):
    """x = R (s * coupling(z; context) + t): affine coupling with soft-clamped scale, global affine map, mixing R.

    The coupling's log-scales are clamp * tanh(raw / clamp); it maps the last ceil(D / 2) features given the first ones.
    The global map is an ``ActNorm``, so ``initialize`` sets it from the first batch. ``forward`` and inverse each cost
    one pass of the net; a soft mixing adds O(D^2) a sample and O(D^3) a call.

    Args:
        features: D.
        hidden: widths of the net's hidden layers.
        clamp: largest |log-scale| of the coupling.
        mixing: "hard", a fixed random permutation; "soft", a fixed random rotation; "householder", D learned reflections
            after a fixed permutation.
        seed: of the fixed part, so that blocks of a flow differ.
        context_features: size of the context's last axis.
        net, activation: of the coupling.

    Reference: Ardizzone et al. (2018 to 2022), FrEIA, AllInOneBlock; Ardizzone et al. (2019), arXiv:1907.02392, section 3.2.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64),
        *,
        clamp: float = 2.0,
        mixing: Literal["hard", "soft", "householder"] = "hard",
        seed: int = 0,
        context_features: int = 0,
        net: str = "mlp",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.hidden, self.clamp = positive(features, "AllInOneBlock", "features"), positive_sizes(hidden, self.who, "hidden"), clamp
        seed = whole_number(seed, self.who, "seed", 0)
        self.mixing, self.seed, self.context_features, self.net, self.activation = mixing, seed, context_features, net, activation
        if mixing not in MIXINGS:
            raise ConfigError(f"AllInOneBlock: expected mixing to be one of {', '.join(MIXINGS)}; got {mixing!r}.")
        affine = build({"name": "affine", "bound": clamp}, Univariate)
        parts: list[Bijector] = [Coupling(self.features, affine, self.hidden, context_features=context_features, net=net, activation=activation)]
        parts += [ActNorm((self.features,)), _FixedRotation(self.features, seed) if mixing == "soft" else Permutation.random(self.features, seed=seed)]
        if mixing == "householder" and self.features > 1:  # of one feature it would only be a sign
            parts.append(Householder(self.features, self.features))
        self._compose(parts)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, AllInOneBlock]]:
        yield "soft", cls(3, (8,), mixing="soft")
        yield "conditional", cls(4, (8,), context_features=2, activation="tanh")
        yield "householder", cls(3, (8,), mixing="householder", activation="tanh")


class _FixedRotation(Bijector):
    """x = R z, R a rotation drawn uniformly from a seed."""

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    rotation: Tensor

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        self.features, self.seed = features, seed
        self.in_shape = self.out_shape = (features,)
        rotation = random_rotation(features, torch.Generator().manual_seed(seed), torch.float64)
        self.register_buffer("rotation", rotation.to(torch.get_default_dtype()))  # saved: QR differs between machines

    def _matrix(self, like: Tensor) -> Tensor:
        """The rotation in the dtype of the call (float32 at least).

        Moved to a wider dtype the buffer is orthogonal only to the precision it came from; a step of Newton and Schulz
        squares that error, and two bring bfloat16 to float32.
        """
        matrix = self.rotation.to(torch.promote_types(like.dtype, torch.float32))
        for _ in range(2):
            matrix = 1.5 * matrix - 0.5 * matrix @ (matrix.mT @ matrix)
        return matrix

    def _run(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        with full_precision(value):
            matrix = self._matrix(value)
            turned = value.to(matrix.dtype) @ (matrix if inverse else matrix.mT)
        return turned.to(value.dtype), zeros_log_det(value, self.in_shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, inverse=True)

    _carry = carry_orthogonal
