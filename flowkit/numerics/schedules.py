"""Schedules of affine probability paths x_t = alpha(t) x1 + sigma(t) x0, and what networks can predict along them.

Time runs from noise x0 at 0 to data x1 at 1. Every rate of change is in closed form; near both ends nothing cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, UnknownNameError, nearest
from flowkit.core.shapes import positive_number

Quantity = Literal["velocity", "data", "noise", "score"]
_ALIASES = {"cond_ot": "linear", "cosine": "trig", "gaussian": "target_ot"}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "trig": (),
    "vp": ("beta_min", "beta_max"),
    "linear_vp": (),
    "polynomial": ("power",),
    "target_ot": ("smallest",),
}


class Coefficients(NamedTuple):
    """Of x_t = alpha x1 + sigma x0: both factors and their rates of change, each shaped as the time."""

    alpha: Tensor
    sigma: Tensor
    alpha_rate: Tensor
    sigma_rate: Tensor


@dataclass(frozen=True)
class Schedule:
    """How much data and how much noise there is at each time.

        "linear"     ("cond_ot")   alpha = t,              sigma = 1 - t
        "trig"       ("cosine")    alpha = sin(pi t / 2),  sigma = cos(pi t / 2)
        "vp"                       alpha = exp(-T / 2),    sigma = sqrt(1 - exp(-T)),  T = (1 - t)^2 (beta_max - beta_min) / 2 + (1 - t) beta_min
        "linear_vp"                alpha = t,              sigma = sqrt(1 - t^2)
        "polynomial"               alpha = t^power,        sigma = 1 - t^power
        "target_ot"  ("gaussian")  alpha = t,              sigma = 1 - (1 - smallest) t

    The rate of sigma is infinite at t = 1 for "vp" and "linear_vp"; they are evaluated no nearer to it than ``margin``.

    Args:
        name: as above; power, beta_min, beta_max, smallest: numbers > 0 (smallest may be 0), used where they appear.

    Example:
        >>> import torch
        >>> from flowkit.numerics.schedules import Schedule
        >>> Schedule.of("linear", "doc").coefficients(torch.tensor(0.25)).sigma
        tensor(0.7500)

    Reference: Lipman et al. (2023), arXiv:2210.02747 (target_ot); Song et al. (2021), arXiv:2011.13456 (vp); Albergo and Vanden-Eijnden (2023),
        arXiv:2209.15571 (trig).
    """

    name: str = "linear"
    power: float = 2.0
    beta_min: float = 0.1
    beta_max: float = 20.0
    smallest: float = 0.0

    @classmethod
    def of(cls, path: str | Mapping[str, Any], who: str, **more: float) -> Schedule:
        """The schedule that a name, or ``{name: ..., **options}``, describes.

        Raises:
            UnknownNameError, ConfigError: the name or an option is not known.
        """
        name, options = described(path, "path", who)
        name = _ALIASES.get(name, name)
        if name not in _OPTIONS:
            raise UnknownNameError(f"{who}: no path named {name!r}. {nearest(name, (*_OPTIONS, *_ALIASES))}")
        options = {key: value for key, value in more.items() if key in _OPTIONS[name]} | options
        unknown = set(options) - set(_OPTIONS[name])
        if unknown:
            raise ConfigError(f"{who}: path '{name}' has no option {sorted(unknown)[0]!r}. It takes: {', '.join(_OPTIONS[name]) or 'none'}.")
        checked: dict[str, Any] = {key: value if key == "smallest" and value == 0 else positive_number(value, who, key) for key, value in options.items()}
        made = replace(cls(name), **checked)
        if made.beta_max < made.beta_min or made.smallest >= 1:
            raise ConfigError(f"{who}: expected beta_min <= beta_max and smallest < 1; got {asdict(made)}.")
        return made

    @property
    def steep(self) -> bool:
        """Whether the rate of sigma is infinite at t = 1."""
        return self.name in ("vp", "linear_vp")

    def times(self, t: Tensor) -> Tensor:
        """The times at which the rates are finite: kept off t = 1 where the schedule is steep there."""
        return t.clamp(max=1 - margin(t)) if self.steep else t

    def coefficients(self, t: Tensor) -> Coefficients:
        """Both factors and their rates at t (*S), each (*S)."""
        return getattr(self, f"_{self.name}")(self.times(t))  # type: ignore[no-any-return]

    def time_at(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The time in [0, 1] at which alpha and sigma have the same ratio as those given: (*S), (*S) -> (*S)."""
        return getattr(self, f"_time_{self.name}")(alpha, sigma).clamp(0, 1)  # type: ignore[no-any-return]

    def _linear(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def _time_linear(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha / (alpha + sigma)

    def _trig(self, t: Tensor) -> Coefficients:
        quarter = math.pi / 2
        alpha, sigma = torch.sin(quarter * t), torch.sin(quarter * (1 - t))  # the cosine as a sine, small numbers keep all digits
        return Coefficients(alpha, sigma, quarter * sigma, -quarter * alpha)

    def _time_trig(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.atan2(alpha, sigma) * (2 / math.pi)

    def _vp(self, t: Tensor) -> Coefficients:
        left, span = 1 - t, self.beta_max - self.beta_min
        total, rate = left * (0.5 * span * left + self.beta_min), span * left + self.beta_min  # T and -dT/dt
        alpha, sigma = torch.exp(-0.5 * total), torch.sqrt(-torch.expm1(-total))
        return Coefficients(alpha, sigma, 0.5 * rate * alpha, -0.5 * rate * alpha.square() / sigma)

    def _time_vp(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        total, span = torch.log1p((sigma / alpha).square()), self.beta_max - self.beta_min
        return 1 - torch.where(total.isinf(), torch.inf, 2 * total / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * span * total)))

    def _linear_vp(self, t: Tensor) -> Coefficients:
        sigma = torch.sqrt((1 - t) * (1 + t))
        return Coefficients(t, sigma, torch.ones_like(t), -t / sigma)

    def _time_linear_vp(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha / torch.hypot(alpha, sigma)

    def _polynomial(self, t: Tensor) -> Coefficients:
        alpha, rate = t**self.power, self.power * t ** (self.power - 1)
        return Coefficients(alpha, -torch.expm1(self.power * torch.log(t)), rate, -rate)

    def _time_polynomial(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / (alpha + sigma)) ** (1 / self.power)

    def _target_ot(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, (1 - t) + self.smallest * t, one, (self.smallest - 1) * one)

    def _time_target_ot(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha / (sigma + (1 - self.smallest) * alpha)


def margin(t: Tensor) -> float:
    """How near the ends of time a rate that is infinite there is evaluated: 1e-9 in float64, 1e-5 in float32."""
    return 1e-9 if t.dtype == torch.float64 else max(1e-5, 8 * torch.finfo(t.dtype).eps)


def described(value: str | Mapping[str, Any], what: str, who: str) -> tuple[str, dict[str, Any]]:
    """A name and options from a name or from ``{name: ..., **options}``.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return str(value["name"]), {str(key): item for key, item in value.items() if key != "name"}
    raise ConfigError(f"{who}: expected {what} to be a name, or {{'name': ..., option: ...}}; got {value!r}.")


def velocity_weights(quantity: Quantity, at: Coefficients) -> tuple[Tensor, Tensor]:
    """p and q of velocity = p x + q quantity, for what a network predicts at x = alpha x1 + sigma x0.

    With D = alpha sigma' - sigma alpha', from x1 = data, x0 = noise and score = -noise / sigma (x0 normal, independent of x1):

        velocity: 0, 1      data: sigma'/sigma, -D/sigma      noise: alpha'/alpha, D/alpha      score: alpha'/alpha, -sigma D/alpha

    Infinite at t = 1 for data, at t = 0 for noise and score.
    """
    if quantity == "velocity":
        return torch.zeros_like(at.alpha), torch.ones_like(at.alpha)
    turning = at.alpha * at.sigma_rate - at.sigma * at.alpha_rate
    if quantity == "data":
        return at.sigma_rate / at.sigma, -turning / at.sigma
    return at.alpha_rate / at.alpha, turning / at.alpha * (1 if quantity == "noise" else -at.sigma)


def convert(value: Tensor, x: Tensor, source: Quantity, target: Quantity, at: Coefficients) -> Tensor:
    """One predicted quantity as another; the coefficients broadcast against x.

    Example:
        >>> import torch
        >>> from flowkit.numerics.schedules import Schedule, convert
        >>> at = Schedule("linear").coefficients(torch.tensor(0.5))
        >>> convert(torch.tensor(2.0), torch.tensor(3.0), "data", "noise", at)  # x = (x1 + x0) / 2
        tensor(4.)
    """
    if source == target:
        return value
    (p, q), (other_p, other_q) = velocity_weights(source, at), velocity_weights(target, at)
    return ((p - other_p) * x + q * value) / other_q
