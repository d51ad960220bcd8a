"""Volume-preserving affine coupling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.bijectors.coupling import Coupling
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive_number
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.activations import soft_bounded


@BIJECTORS.register("gin_coupling", "gin")
class GINCoupling(Coupling):
    """Affine coupling that keeps volumes: x_t = z_t exp(s - mean(s)) + t, s and t from net(z_c, context), x_c = z_c.

    s = bound tanh(raw / bound), so no scale overflows; log_det is exactly zero. A single mapped coordinate is only shifted.
    Both directions cost one pass of the conditioner.

    Args:
        features, hidden, mask, context_features, net, activation, conditioner: see ``Coupling``.
        bound: largest |s|.

    Reference: Sorrenson et al. (2020), Disentanglement by Nonlinear ICA with General Incompressible-flow Networks (GIN),
    arXiv:2001.04872.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import GINCoupling
        >>> GINCoupling(4, hidden=(8,))(torch.ones(4))[1].item()
        0.0
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64),
        mask: Sequence[bool] | Tensor | None = None,
        *,
        context_features: int = 0,
        net: str = "mlp",
        activation: str = "relu",
        conditioner: nn.Module | None = None,
        bound: float = 5.0,
    ) -> None:
        univariate = _CentredAffine(bound)
        super().__init__(features, univariate, hidden, mask, context_features=context_features, net=net, activation=activation, conditioner=conditioner)
        self.bound = bound

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GINCoupling]]:
        yield "plain", cls(4, (8,), activation="tanh")
        yield "conditional", cls(4, (8, 8), (True, False, True, True), context_features=2, activation="tanh")
        yield "single_conditional", cls(1, (8,), context_features=2)


class _CentredAffine(Univariate):
    """The affine scalar map, its log-scales centred over the coordinates: not elementwise, but only their sum is asked for."""

    parameter_count = 2
    traits = Traits(volume_preserving=True)

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = positive_number(bound, "GINCoupling", "bound")

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        log_scale = soft_bounded(raw, self.bound)
        return shift, log_scale - log_scale.mean(-1, keepdim=True)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._split(params)
        return z * log_scale.exp() + shift, torch.zeros_like(z)

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._split(params)
        return (x - shift) * (-log_scale).exp(), torch.zeros_like(x)

    def carry_score(self, value: Tensor, params: Tensor, score: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out, none = (self.untransform if inverse else self.transform)(value, params)
        log_scale = self._split(params.detach())[1]
        carried = score * (log_scale if inverse else -log_scale).exp()
        (by_value,) = torch.autograd.grad(out, params, carried, retain_graph=True)
        return out, none, carried, by_value
