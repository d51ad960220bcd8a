"""One normal for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, DomainError, ShapeError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import mask_event, positive, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._choice import choose
from flowkit.distributions._starts import known_shape
from flowkit.numerics.log_mixture import log_mixture


@DISTRIBUTIONS.register("class_conditional")
class ClassConditional(Distribution):
    """A learned diagonal normal for each class; the context is an int64 label.

    Label -1 means none: the density is then the mixture of all classes in their proportions, sum_c w_c p(x | c), at K times
    the cost, and a sample first draws its class. A temperature scales the spread around the class mean.

    Args:
        classes: number K of classes.
        shape: event shape, all sizes known.
        weights: proportions of the classes behind label -1, K numbers >= 0, scaled to sum to one; default equal ones.

    Raises:
        ShapeError: a label tensor that is not int64. DomainError: a label outside -1 ... K - 1 (eager on the CPU; else NaN).

    Example:
        >>> import torch
        >>> from flowkit.distributions import ClassConditional
        >>> base = ClassConditional(3, (2,))
        >>> base.log_prob(torch.zeros(5, 2), torch.tensor([0, 1, 2, 2, -1])).shape
        torch.Size([5])
    """

    context_shape = ()
    class_weights: Tensor

    def __init__(self, classes: int, shape: int | Sequence[int], *, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        classes = positive(classes, self.who, "classes")
        self.classes, self.shape, self.weights = classes, shape, weights
        sizes = known_shape(shape, self.who)
        self.event_shape = sizes
        read = torch.as_tensor([1.0] * classes if weights is None else list(weights))
        if read.shape != (classes,) or not bool((read >= 0).all() & torch.isfinite(read).all() & (read.sum() > 0)):
            raise ConfigError(f"{self.who}: expected {classes} weights >= 0 with a positive sum; got {weights}.")
        self.register_buffer("class_weights", read / read.sum(), persistent=False)
        self.means = nn.Parameter(torch.randn(classes, *sizes))
        self.log_scale = nn.Parameter(torch.zeros(classes, *sizes))

    def _labels(self, context: Any) -> tuple[Tensor, Tensor]:
        """Labels clamped to the classes, and which were out of range."""
        if context.dtype != torch.int64:
            raise ShapeError(f"{self.who}: expected int64 labels as context; got {context.dtype}. Convert with .long().")
        wrong = (context < -1) | (context >= self.classes)
        if may_raise(context) and bool(wrong.any()):
            raise DomainError(f"{self.who}: expected labels -1 ... {self.classes - 1}; got {int(context[wrong][0])}. Recode the classes from 0.")
        return context.clamp(0, self.classes - 1), wrong

    def _normal(self, x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        return sum_event(-0.5 * ((x - mean) * (-log_scale).exp()).square() - log_scale - HALF_LOG_2PI, len(self.event_shape))

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        labels, wrong = self._labels(context)
        log_prob = self._normal(x, self.means[labels], self.log_scale[labels])
        if not (may_raise(context) and bool((context >= 0).all())):
            log_prob = torch.where(context == -1, self._mixture(x), log_prob)
        return torch.where(wrong, torch.full_like(log_prob, torch.nan), log_prob)

    def _mixture(self, x: Tensor) -> Tensor:
        each = self._normal(x.unsqueeze(x.dim() - len(self.event_shape)), self.means, self.log_scale)
        return log_mixture(each + self.class_weights.to(each).log(), -1)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        labels, wrong = self._labels(context)
        drawn = choose(self.class_weights, shape, generator)
        labels = torch.where(context == -1, drawn, labels)
        noise = torch.randn((*shape, *self.means.shape[1:]), generator=generator, dtype=self.like.dtype, device=self.like.device)
        x = self.means[labels] + temperature * self.log_scale[labels].exp() * noise
        return torch.where(mask_event(wrong, len(self.event_shape)), torch.full_like(x, torch.nan), x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ClassConditional]]:
        yield "plane", cls(3, (2,))
        yield "line_weighted", cls(2, (1,), weights=(0.25, 0.75))
