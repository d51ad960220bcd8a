"""The gradient field of OT-Flow's potential."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.continuous._activations import log_cosh
from flowkit.continuous._calls import check_call, time_like
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, positive, whole_number
from flowkit.core.vector_field import VectorField


class _Pass(NamedTuple):
    """What one pass through the residual layers leaves: tanh of every layer's a_k, and the gradients z_k with respect to u_k, (*B, m) each."""

    tanhs: list[Tensor]
    gradients: list[Tensor]
    quadratic: Tensor  # A s, (*B, r)


@FIELDS.register("ot_potential_field", "ot_potential")
class OTPotentialField(VectorField):
    """v = -grad Phi of a potential with a quadratic and a residual part; gradient and Laplacian in closed form.

        Phi(s) = w' N(s) + |A s|^2 / 2 + b' s,  s = (x, t)
        N = u_M:  u_0 = act(K_0 s + b_0),  u_k = u_{k-1} + h act(K_k u_{k-1} + b_k),  h = 1 / M,  act(a) = log(2 cosh a)

    1. Gradient, by back-substitution with act' = tanh:  z_M = w,  z_{k-1} = z_k + h K_k' (tanh(a_k) * z_k),
       grad Phi = K_0' (tanh(a_0) * z_0) + A' A s + b.
    2. Laplacian, with act'' = 1 - tanh^2 and J_k = da_k/dx carried forward:
       tr d2Phi/dx2 = sum_i act''(a_0i) z_0i |K_0i|^2 + h sum_k sum_i act''(a_ki) z_ki |J_ki|^2 + |A_x|^2: O(m^2 d) for a sample and layer.

    Trajectories that move at least cost obey dPhi/dt = |grad Phi|^2 / 2 (Hamilton-Jacobi-Bellman), whichever way the time runs.

    Args:
        features: d.
        width: m.
        layers: M + 1, at least 2.
        rank: rows of A, at most d + 1 of them are used.
        context_features: size of the context's last axis; it enters the opening layer.

    Shapes: t () or (*B), x (*B, d), context (*B, context_features) -> (*B, d).

    Reference: Onken et al. (2021), OT-Flow: Fast and Accurate Continuous Normalizing Flows via Optimal Transport, arXiv:2006.00104.
    """

    def __init__(self, features: int, width: int = 32, layers: int = 2, rank: int = 10, *, context_features: int = 0) -> None:
        super().__init__()
        self.features, self.width = positive(features, "OTPotentialField", "features"), positive(width, "OTPotentialField", "width")
        self.layers, self.rank = whole_number(layers, "OTPotentialField", "layers", 2), positive(rank, "OTPotentialField", "rank")
        self.context_features = whole_number(context_features, "OTPotentialField", "context_features", 0)
        self.event_shape, self.context_shape = (self.features,), (self.context_features,) if self.context_features else None
        joined = nn.Linear(self.features + 1, self.width)
        self.opening = nn.Linear(self.features, self.width)
        self.opening.weight.data, self.opening.bias.data = joined.weight.data[:, :-1].clone(), joined.bias.data
        self.time = nn.Parameter(joined.weight.data[:, -1].clone())
        self.context_layer = nn.Linear(self.context_features, self.width, bias=False) if self.context_features else None
        self.residual = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(self.layers - 1))
        self.weight = nn.Parameter(torch.ones(self.width))
        factor = nn.init.xavier_uniform_(torch.empty(min(self.rank, self.features + 1), self.features + 1))
        self.factor, self.factor_time = nn.Parameter(factor[:, :-1].clone()), nn.Parameter(factor[:, -1].clone())
        self.slope = nn.Parameter(torch.zeros(self.features + 1))

    def potential(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """Phi(t, x), up to a constant: (*B)."""
        time, u = time_like(t, x), log_cosh(self._open(t, x, context))
        for layer in self._residual():
            u = u + log_cosh(functional.linear(u, layer.weight, layer.bias)) / len(self.residual)
        linear = x @ self.slope[:-1] + self.slope[-1] * time
        return u @ self.weight + 0.5 * self._quadratic(t, x).square().sum(-1) + linear

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        return self._velocity(self._sweep(t, x, context))

    def divergence(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:  # type: ignore[override]
        """-Laplacian of Phi in x, exact: (*B)."""
        return -self._laplacian(self._sweep(t, x, context))

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Both from one pass: (*B, d) and (*B)."""
        swept = self._sweep(t, x, context)
        return self._velocity(swept), -self._laplacian(swept)

    def potential_rate(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """dPhi/dt at fixed x, for the Hamilton-Jacobi-Bellman residual |dPhi/dt - |v|^2 / 2|: (*B)."""
        return self._rate(self._sweep(t, x, context))

    def velocity_divergence_and_rate(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity, its divergence and dPhi/dt from one pass: (*B, d), (*B) and (*B)."""
        swept = self._sweep(t, x, context)
        return self._velocity(swept), -self._laplacian(swept), self._rate(swept)

    def _residual(self) -> list[Any]:
        return list(self.residual)

    def _open(self, t: Tensor, x: Tensor, context: Context) -> Tensor:
        check_call(self, x, context)
        time, opening = time_like(t, x), self.opening
        if time.dim() == 0:
            a = functional.linear(x, opening.weight, torch.addcmul(opening.bias, self.time, time))
        else:
            a = torch.addcmul(functional.linear(x, opening.weight, opening.bias), time.unsqueeze(-1), self.time)
        return a if self.context_layer is None or not isinstance(context, Tensor) else a + self.context_layer(context.to(x.dtype))

    def _quadratic(self, t: Tensor, x: Tensor) -> Tensor:
        time = time_like(t, x)
        return functional.linear(x, self.factor) + (time if time.dim() == 0 else time.unsqueeze(-1)) * self.factor_time

    def _sweep(self, t: Tensor, x: Tensor, context: Context) -> _Pass:
        """Forward for the a_k, then back for the z_k."""
        residual, step = self._residual(), 1 / len(self.residual)
        a = self._open(t, x, context)
        u, tanhs = log_cosh(a), [torch.tanh(a)]
        for number, layer in enumerate(residual, 1):
            a = functional.linear(u, layer.weight, layer.bias)
            tanhs.append(torch.tanh(a))
            u = torch.add(u, log_cosh(a), alpha=step) if number < len(residual) else u
        gradients: list[Tensor] = [self.weight]
        for layer, tanh in zip(reversed(residual), reversed(tanhs[1:]), strict=True):
            gradients.append(torch.add(gradients[-1], (tanh * gradients[-1]) @ layer.weight, alpha=step))
        return _Pass(tanhs, gradients[::-1], self._quadratic(t, x))

    def _velocity(self, swept: _Pass) -> Tensor:
        residual = (swept.tanhs[0] * swept.gradients[0]) @ self.opening.weight
        return -(residual + functional.linear(swept.quadratic, self.factor.mT, self.slope[:-1]))

    def _rate(self, swept: _Pass) -> Tensor:
        return (swept.tanhs[0] * swept.gradients[0]) @ self.time + swept.quadratic @ self.factor_time + self.slope[-1]

    def _laplacian(self, swept: _Pass) -> Tensor:
        step, weight = 1 / len(self.residual), self.opening.weight
        tanh, gradient = swept.tanhs[0], swept.gradients[0]
        total = ((1 - tanh * tanh) * gradient) @ weight.square().sum(-1) + self.factor.square().sum()
        rows = tanh.unsqueeze(-2) * weight.mT  # (*B, d, m): du_0/dx, transposed
        for number, (layer, tanh, gradient) in enumerate(zip(self._residual(), swept.tanhs[1:], swept.gradients[1:], strict=True), 1):
            moved = rows @ layer.weight.mT
            total = total + step * ((1 - tanh * tanh) * gradient * moved.square().sum(-2)).sum(-1)
            if number < len(self.residual):
                rows = torch.addcmul(rows, moved, tanh.unsqueeze(-2), value=step)
        return total

    @classmethod
    def examples(cls) -> Iterator[tuple[str, OTPotentialField]]:
        yield "two_layers", cls(2, 8)
        yield "deep", cls(3, 6, 4, 2)
        yield "conditional", cls(2, 5, context_features=2)
