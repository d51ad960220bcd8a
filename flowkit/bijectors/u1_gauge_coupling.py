"""Gauge-equivariant coupling layers of U(1) lattice fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.bijectors._conditioning import check_univariate
from flowkit.bijectors._scores import entry, left
from flowkit.core.build import build
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate
from flowkit.nets import CircularConvNet
from flowkit.nets.circular_conv_net import check_kernel

TURN = 2 * math.pi
STRIPES = 4  # the pattern's period: one stripe of plaquettes is mapped, two condition, one follows


class _Plaquettes(NamedTuple):
    """Links with the mapped stripe first, and what the mapped plaquettes and the conditioning ones give.

    Args:
        links: (*B, 2, G, 4, T), the mapped direction first, G groups of four stripes of T sites.
        active: mapped plaquettes in [0, 2 pi) (*B, G, T); params: of the univariate (*B, G, T, n); shift: (*B, G, T).
    """

    links: Tensor
    active: Tensor
    params: Tensor
    shift: Tensor


@BIJECTORS.register("u1_gauge_coupling")
class U1GaugeCoupling(Bijector):
    """Links theta (2, L, L) in [0, 2 pi) of a periodic lattice: every fourth line of links along one direction is mapped, by its plaquettes.

    1. P is the sum of the angles around a plaquette that the mapped link starts, in the sense in which that link has a plus sign.
    2. P' = u(P; s) + t mod 2 pi, where (s, t) come from cos and sin of the two next stripes of plaquettes, which hold no mapped link.
    3. theta' = theta + P' - P mod 2 pi, and log_det = sum of log u'(P).

    The plaquettes on the link's other side follow. P does not change under theta_mu(x) -> theta_mu(x) + a(x) - a(x + mu), so the map
    commutes with every gauge transformation. Directions 0, 1 by turns and offsets 0 .. 3 map every link once in eight layers.

    The net of convolutions sees each four stripes as one row, with cos and sin of two stripes as its channels: shifts by four sites
    across the lines, and by any number along them, go through. Forward is closed; the inverse solves u, by the default univariate
    iteratively with exact gradients.

    Args:
        size: L, a multiple of 4.
        components: of the default univariate, the ``non_compact_projection`` mixture.
        hidden: channels of the net's hidden layers.
        direction: 0 or 1, of the mapped links.
        offset: 0 to 3, place of the first mapped line.
        activation: of the net.
        kernel: odd size of the net's convolutions, which run over L / 4 stripes of L sites: at most L / 2 + 1.
        univariate: a map of the circle [0, 2 pi], such as a spline with circular ends, in place of the default.

    Raises:
        ConfigError: L is not a multiple of 4; the kernel is too large.

    Reference: Kanwar et al. (2020), Equivariant flow-based sampling for lattice gauge theory, arXiv:2003.06413.
    """

    def __init__(
        self,
        size: int,
        components: int = 6,
        hidden: Sequence[int] = (8, 8),
        *,
        direction: int = 0,
        offset: int = 0,
        activation: str = "leaky_relu",
        kernel: int = 3,
        univariate: Univariate | None = None,
    ) -> None:
        super().__init__()
        self.size, self.components = positive(size, self.who, "size"), positive(components, self.who, "components")
        self.hidden = positive_sizes(hidden, self.who, "hidden")
        if self.size % STRIPES:
            raise ConfigError(f"{self.who}: expected a size that is a multiple of {STRIPES}, the period of its stripes; got {size}. Use 4, 8, 12, ...")
        self.direction, self.offset = whole_number(direction, self.who, "direction", 0, 2), whole_number(offset, self.who, "offset", 0, STRIPES)
        self.activation, self.kernel, self.univariate = activation, positive(kernel, self.who, "kernel"), univariate
        check_kernel(self.kernel, (self.size // STRIPES, self.size), self.who)
        self._univariate = _of_the_circle(univariate, self.components, self.who)
        count = self._univariate.parameter_count
        self._net = CircularConvNet(4, 1 + count, self.hidden, activation=activation, kernel=self.kernel)
        assert isinstance(self._net.last.bias, Tensor)
        with torch.no_grad():
            self._net.last.bias[1:].copy_(self._univariate.initial_parameters())
        self.in_shape = self.out_shape = (2, self.size, self.size)
        self._domain, self._codomain = Box(0.0, TURN, self.in_shape), Box(0.0, TURN, self.in_shape)
        declared = self._univariate.traits
        self.traits = Traits(
            inverse=declared.inverse, score="closed", smooth=False, compiles=declared.compiles, vmaps=declared.vmaps, tolerance=declared.tolerance
        )

    # -- plaquettes ---------------------------------------------------------------------------------------------

    def _read(self, links: Tensor) -> _Plaquettes:
        """The plaquettes and, by one call of the net, the parameters of their map."""
        lines = links.flip(-3) if self.direction else links.mT  # mapped direction first; lines along the last axis
        lines = torch.roll(lines, -self.offset, -2) if self.offset else lines
        lines = lines.unflatten(-2, (-1, STRIPES))
        along, across = lines.select(-4, 0), lines.select(-4, 1).narrow(-2, 0, STRIPES - 1)
        angles = along.narrow(-2, 0, STRIPES - 1) - along.narrow(-2, 1, STRIPES - 1) + torch.roll(across, -1, -1) - across
        frozen = angles.narrow(-2, 1, 2).transpose(-3, -2)  # (*B, 2, G, T)
        found = self._net(torch.cat([frozen.cos(), frozen.sin()], dim=-3)).to(links.dtype)  # autocast may have run it in bf16
        return _Plaquettes(lines, _wrapped(angles.select(-2, 0)), found.narrow(-3, 1, found.shape[-3] - 1).movedim(-3, -1), found.select(-3, 0))

    def _write(self, lines: Tensor, mapped: Tensor) -> Tensor:
        """Links with the mapped lines (*B, G, T) put in their places."""
        along = torch.select_scatter(lines.select(-4, 0), mapped, -2, 0)
        lines = torch.select_scatter(lines, along, -4, 0).flatten(-3, -2)
        lines = torch.roll(lines, self.offset, -2) if self.offset else lines
        return lines.flip(-3) if self.direction else lines.mT

    def _link(self, lines: Tensor, change: Tensor) -> Tensor:
        """The mapped links after a change of their plaquettes."""
        return _wrapped(lines.select(-4, 0).select(-2, 0) + change)

    # -- calls --------------------------------------------------------------------------------------------------

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        lines, active, params, shift = self._read(z)
        out, log_slope = self._univariate.transform(active, params)
        return self._write(lines, self._link(lines, out + shift - active)), sum_event(log_slope, 2)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        lines, active, params, shift = self._read(x)
        out, log_slope = self._univariate.untransform(_wrapped(active - shift), params)
        return self._write(lines, self._link(lines, out - active)), sum_event(log_slope, 2)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One call and the score behind it, with one product by the net's Jacobian; forward never solves for the inverse.

        1. On the mapped links d theta'/d theta = u', so their score is s' = (s - dl/dP) / u', l = log u'.
        2. The other links c enter by P and by (params, t). At fixed theta, d/dc (s' theta' + l) has the factors s - s' before dP/dc,
           s' before dt/dc and, from the univariate, those before dparams/dc.
        3. The inverse takes t off first, from P': the factors are s' - s before dP'/dc and -s' before dt/dc, s' the score given.
        """
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            entered = entry(value, recording)
            lines, active, params, shift = self._read(entered)
            own = self._mapped_part(score)
            argument = _wrapped(active - shift) if inverse else active
            out, log_slope, carried, by_params = self._univariate.carry_score(argument, params, own, inverse=inverse)
            moved = self._link(lines, out - active if inverse else out + shift - active)
            out, log_det = self._write(lines, moved), sum_event(log_slope, 2)
        cotangents = [own - carried, by_params, -own if inverse else carried]
        (correction,) = torch.autograd.grad([active, params, shift], entered, cotangents, retain_graph=True)
        after = self._place(score - correction, carried)
        return left(out, log_det, after, recording)

    def _mapped_part(self, value: Tensor) -> Tensor:
        """The mapped lines (*B, G, T) of a field (*B, 2, L, L)."""
        first = value.select(-3, self.direction)
        lines = first if self.direction else first.mT
        return lines.unflatten(-2, (-1, STRIPES)).select(-2, self.offset)

    def _place(self, value: Tensor, mapped: Tensor) -> Tensor:
        """A field (*B, 2, L, L) that is a fresh tensor, with its mapped lines written over."""
        self._mapped_part(value).copy_(mapped)
        return value

    @classmethod
    def examples(cls) -> Iterator[tuple[str, U1GaugeCoupling]]:
        yield "mixture", cls(4, 3, (4,), activation="tanh")
        spline = {"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, TURN), "ends": "circular"}
        yield "spline_across", cls(4, hidden=(4,), direction=1, offset=3, activation="tanh", univariate=build(spline, Univariate))


def _wrapped(angle: Tensor) -> Tensor:
    """The angle in [0, 2 pi); rounding may leave 2 pi itself or a little less than 0, which are written 0."""
    inside = angle - TURN * torch.floor(angle / TURN).detach()
    with torch.no_grad():
        beyond = TURN * (inside >= TURN).to(inside.dtype) + inside.clamp(max=0.0)
    return inside - beyond


def _of_the_circle(univariate: Univariate | None, components: int, who: str) -> Univariate:
    """The scalar map, known to take [0, 2 pi] to itself."""
    if univariate is None:
        return build({"name": "non_compact_projection", "components": components}, Univariate)
    if not (check_univariate(univariate, who).low == 0.0 and abs(univariate.high - TURN) < 1e-6):
        raise ConfigError(
            f"{who}: expected a univariate of the interval [0, 2 pi]; got one of [{univariate.low}, {univariate.high}]. "
            "Pass e.g. RationalQuadraticSpline(8, bound=(0.0, 2 * math.pi), ends='circular')."
        )
    return univariate
