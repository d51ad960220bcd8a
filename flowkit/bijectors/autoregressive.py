"""Masked autoregressive layers over any univariate map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._conditioning import check_conditioner, check_univariate, grouped, start_at, traits_over, univariate_domain
from flowkit.bijectors._fused_layer import Places, fused_layer, op_of
from flowkit.bijectors._scores import entry, left
from flowkit.core.build import build
from flowkit.core.checks import checks_finite
from flowkit.core.entry import separated
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS, NETS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Jacobian
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.kernels.steps import Run
from flowkit.nets import Constant, MaskedMLP

SOLVED_LEVELS = 16  # the most for which a score is solved for, not found by a second pass


@BIJECTORS.register("autoregressive")
class Autoregressive(Bijector):
    """x_i = u(z_i; net_i(z_<i, context)): forward in one pass, inverse group by group at about the cost of one pass.

    Coordinates are grouped in ``passes`` groups of the order; a coordinate sees all groups before its own. ``passes=D``
    is fully autoregressive, ``passes=2`` a coupling. With ``adjacency`` coordinate i sees exactly the j with
    ``adjacency[i][j]``, and the inverse goes by the levels of that graph.

    The inverse evaluates every unit of the masked net once, when the last coordinate it sees is solved, so it multiplies no
    more than one pass does, in as many small steps as there are groups. In float32 its sums are not those of ``forward`` to the last bit.
    A net that can only be called, or that has hooks, takes a whole pass for each group.

    Args:
        features: D.
        univariate: the scalar map.
        hidden: widths of the masked net's hidden layers.
        passes: number of groups, 1 to D; default D.
        adjacency: (D, D) booleans without a cycle; excludes ``passes`` and ``order``.
        order: position of every coordinate in the order, a permutation of 0 .. D - 1; default as given.
        context_features: size of the context's last axis.
        activation: of the masked net.
        conditioner: a masked net of your own, (x (*B, D), context) -> (*B, D * parameter_count), in place of the one made here. It must
            obey the order; where it has a method ``dependence()``, (outputs, D) booleans, that is checked. ``MaskedMLP``, ``MaskedLayers``
            and ``MaskedResidualMLP`` are inverted unit by unit; any net with their methods ``arrange_steps`` and ``start_steps`` is.

    Reference: Papamakarios et al. (2017), Masked Autoregressive Flow, arXiv:1705.07057, section 3;
    Wehenkel and Louppe (2021), Graphical Normalizing Flows, arXiv:2006.02548, for the adjacency.
    """

    by_level: Tensor
    as_given: Tensor

    def __init__(
        self,
        features: int,
        univariate: Univariate,
        hidden: Sequence[int] = (64, 64),
        passes: int | None = None,
        adjacency: Sequence[Sequence[bool]] | Tensor | None = None,
        *,
        order: Sequence[int] | None = None,
        context_features: int = 0,
        activation: str = "relu",
        conditioner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        features = self.features = positive(features, "Autoregressive", "features")
        passes = None if passes is None else whole_number(passes, "Autoregressive", "passes", 1, features + 1)
        self.hidden, self.passes, self.adjacency, self.order = positive_sizes(hidden, self.who, "hidden"), passes, adjacency, order
        self.context_features, self.activation = context_features, activation
        self.in_shape = self.out_shape = (features,)
        self.context_shape = (context_features,) if context_features else None
        self.univariate = check_univariate(univariate, self.who)
        self._univariate = univariate.select(range(features))
        allowed = _allowed(features, passes, adjacency, order)
        self._levels = _levels(allowed)
        self._by_level = nn.ModuleList(univariate.select(index) for index in self._levels)
        self._places = Places(tuple(range(features)), tuple(range(features)))
        self.conditioner = conditioner
        self.net = _network(self, allowed)
        net: Any = self.net if conditioner is None else conditioner
        self._arranged = net.arrange_steps(self._levels) if hasattr(net, "arrange_steps") else ""
        self._domain = univariate_domain(self._univariate, list(range(features)), features)
        self._codomain = univariate_domain(self._univariate, list(range(features)), features)
        order_of_levels = torch.tensor([i for index in self._levels for i in index])
        self.register_buffer("by_level", order_of_levels, persistent=False)
        self.register_buffer("as_given", order_of_levels.argsort(), persistent=False)
        ordered = bool((allowed == allowed.tril(-1)).all())
        jacobian: Jacobian = "diagonal" if not bool(allowed.any()) else "triangular" if ordered else "dense"
        # a step of the score's solution costs a product with the net's Jacobian: as much as all of the inverse, which goes unit by unit
        self.traits = traits_over(univariate, jacobian, activation, sequential=True).but(score="solve" if len(self._levels) <= SOLVED_LEVELS else "two_pass")

    @property
    def _active_net(self) -> Any:
        return self.net if self.conditioner is None else self.conditioner

    def _params(self, value: Tensor, context: Any) -> Tensor:
        return grouped(self._active_net(value, context), self.features, self._univariate.parameter_count, value, "Autoregressive")

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        whole = fused_layer(self._univariate, self._active_net, z, context, self._places, inverse=False)
        if whole is not None:
            return whole
        return self._univariate.transform_event(z, self._params(z, context), 1)

    def masked_normal(self, value: Tensor, context: Any = None, *, inverse: bool, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        if inverse or checks_finite():
            return super().masked_normal(value, context, inverse=inverse, generator=generator)
        value, context = self._prepare(value, context, inverse)
        inside, z = separated(self._domain, value)
        whole = fused_layer(self._univariate, self._active_net, z, context, self._places, inverse=False, base="normal")
        if whole is not None:
            return whole[1], inside
        return self._univariate.transform_event(z, self._params(z, context), 1, "normal")[1], inside

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        net = self._active_net
        run = net.start_steps(self._arranged, x, context) if self._arranged and hasattr(net, "start_steps") else None
        if run is None:
            run = _WholePasses(self, x, context)
        elif isinstance(run, Run) and (found := op_of(self._univariate, inverse=True)) is not None and found[0].stepped is not None:
            whole = found[0].stepped.attempt(x, run.stack, *found[1])
            if whole is not None:
                return whole  # type: ignore[no-any-return]
        columns = x.movedim(-1, 0).index_select(0, self.by_level).split([len(index) for index in self._levels])
        solved, values, slopes = None, [], []
        for column, univariate in zip(columns, self._by_level, strict=True):
            assert isinstance(univariate, Univariate)
            params = run.next(solved).to(x.dtype)
            solved, log_slope = univariate.untransform(column.movedim(0, -1), params)
            values.append(solved)
            slopes.append(log_slope)
        return torch.cat(values, dim=-1).index_select(-1, self.as_given), sum_event(torch.cat(slopes, dim=-1), 1)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse or self.traits.score == "two_pass":
            return super()._carry(value, score, context, generator, inverse)
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            entered = entry(value, recording)
            x, log_slope = self._univariate.transform(entered, self._params(entered, context))
            carried = solve_score(x, log_slope, entered, score, len(self._levels))
            log_det = sum_event(log_slope, 1)
        return left(x, log_det, carried, recording)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Autoregressive]]:
        affine = build({"name": "affine"}, Univariate)
        spline = build({"name": "rational_quadratic_spline", "bins": 4}, Univariate)
        yield "spline", cls(3, spline, (12,))
        yield "affine_grouped_conditional", cls(4, affine, (12, 12), 2, context_features=2, activation="tanh")
        yield "graph", cls(3, affine, (12,), adjacency=[[False, False, True], [True, False, True], [False, False, False]], activation="tanh")
        yield "reversed", cls(3, affine, (12,), order=(2, 1, 0), activation="tanh")
        yield "single", cls(1, spline)
        masks = [torch.ones(4, 2, dtype=torch.bool) & torch.tensor([True, False]), torch.tensor([[False], [False], [True], [True]]).expand(4, 4)]
        yield "own_net", cls(2, affine, conditioner=build({"name": "masked_layers", "masks": masks, "activation": "tanh"}, NETS))
        mixed = build({"name": "rational_quadratic_spline", "bins": 3, "bound": 2.0, "ends": ["linear", "bounded", "circular"]}, Univariate)
        yield "mixed_ends", cls(3, mixed, (12,))


def solve_score(x: Tensor, log_slope: Tensor, z: Tensor, score: Tensor, levels: int) -> Tensor:
    """The score s' behind a triangular map, s = J' s' + grad sum log_slope, from products with J' alone.

    J = diag(slope) + N with N^levels = 0, so ``levels`` steps s' <- s' + (s - J' s' - grad) / slope end at the solution.

    Args:
        x, log_slope: (*B, D), what the map makes of z, in its graph; slope is the diagonal of J.
        z, score: (*B, D).
    """
    with torch.no_grad():
        inverse_slope = torch.exp(-log_slope).to(score.dtype)
        carried, ones = score * inverse_slope, torch.ones_like(log_slope)
    for _ in range(levels):
        (pulled,) = torch.autograd.grad((x, log_slope), z, (carried, ones), retain_graph=True)
        carried = carried + (score - pulled) * inverse_slope
    return carried


class _WholePasses:
    """What ``start_steps`` of a net gives, for a net that has none: a whole pass for each level."""

    def __init__(self, layer: Autoregressive, x: Tensor, context: Any) -> None:
        self._layer, self._context, self._level = layer, context, 0
        self._z = torch.zeros_like(x)  # coordinates not solved yet stay at zero, a point every univariate and net can be evaluated at

    def next(self, solved: Tensor | None) -> Tensor:
        sizes = [len(index) for index in self._layer._levels]
        start = sum(sizes[: self._level])
        if solved is not None:
            before = self._layer.by_level[start - sizes[self._level - 1] : start]
            self._z = self._z.index_copy(self._z.dim() - 1, before, solved)
        chosen = self._layer.by_level[start : start + sizes[self._level]]
        self._level += 1
        return self._layer._params(self._z, self._context).index_select(-2, chosen)


def _network(layer: Autoregressive, allowed: Tensor) -> nn.Module | None:
    """The masked net that starts where the univariate is the identity; None where the user brought one, once it is checked."""
    count = layer._univariate.parameter_count
    if layer.conditioner is None:
        if not bool(allowed.any()) and not layer.context_features:
            net: nn.Module = Constant(layer.features * count)
        else:
            net = MaskedMLP(allowed, count, layer.hidden, context_features=layer.context_features, activation=layer.activation)
        return start_at(net, layer._univariate, layer.features, "Autoregressive")
    check_conditioner(layer.conditioner, layer.features * count, "Autoregressive")
    dependence = getattr(layer.conditioner, "dependence", None)
    if dependence is not None:
        used = dependence().unflatten(0, (layer.features, count)).any(1)
        wrong = (used & ~allowed.to(used.device)).nonzero().tolist()
        if wrong:
            i, j = wrong[0]
            raise ConfigError(f"Autoregressive: the parameters of coordinate {i} would depend on coordinate {j}, which the order does not allow.")
    return None


def _allowed(features: int, passes: int | None, adjacency: Any, order: Sequence[int] | None) -> Tensor:
    """(D, D) booleans: whether the parameters of i may depend on coordinate j."""
    if adjacency is not None:
        if passes is not None or order is not None:
            raise ConfigError("Autoregressive: adjacency already says who sees whom; drop passes and order.")
        allowed = _numbers(adjacency, "adjacency").bool()
        if allowed.shape != (features, features):
            raise ShapeError(f"Autoregressive: expected adjacency of shape ({features}, {features}); got {tuple(allowed.shape)}.")
        return allowed
    position = torch.arange(features) if order is None else _numbers(order, "order")
    if position.dim() != 1 or sorted(position.tolist()) != list(range(features)):
        raise ConfigError(f"Autoregressive: expected order to be a permutation of 0 .. {features - 1}; got {order}.")
    count = features if passes is None else passes
    group = position * count // features
    return group[:, None] > group[None, :]


def _numbers(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"Autoregressive: expected {name} to be numbers in rows of one length; got {value!r}.") from None


def _levels(allowed: Tensor) -> list[list[int]]:
    """Coordinates by the pass that solves them: each after everything it sees."""
    waiting, levels, solved = set(range(len(allowed))), [], torch.zeros(len(allowed), dtype=torch.bool)
    while waiting:
        ready = [i for i in sorted(waiting) if not bool((allowed[i] & ~solved).any())]
        if not ready:
            raise ConfigError(f"Autoregressive: adjacency has a cycle among coordinates {sorted(waiting)}; expected a directed acyclic graph.")
        levels.append(ready)
        waiting -= set(ready)
        solved[ready] = True
    return levels
