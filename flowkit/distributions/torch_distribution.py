"""Any torch.distributions object as a base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution as TorchBase

from flowkit.core.distribution import Distribution
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import sum_event, whole_number
from flowkit.distributions._starts import unit_temperature
from flowkit.distributions._torch_parts import as_named, forked_rng, named_class, support_of
from flowkit.numerics.inverse_cdf import solve_quantile


@DISTRIBUTIONS.register("torch_distribution")
class TorchDistribution(Distribution):
    """A continuous ``torch.distributions`` law; its arguments are constants that follow ``.to()``; no temperature.

    A law that torch exports by name (``Gamma``, ``Laplace``, ``MultivariateNormal``, ... also inside ``Independent``) is
    kept as that name with its arguments, so it can be saved. Anything else (transformed, mixed, a user's class) is kept
    as the object it is: it works where it was built and cannot be saved. torch's samplers take no generator, so with
    ``generator=`` the draw runs on a fork of the global RNG seeded from it.

    Args:
        distribution: the object, or the name of a class of ``torch.distributions``.
        arguments: the named class's arguments, numbers or tensors; only with a name.
        event_rank: number of trailing axes that form one event, batch axes included; default the law's own. All batch
            axes must be taken into the event.

    Raises:
        UnknownNameError, ConfigError: no such class, arguments it refuses, a discrete law, batch axes left over.

    Example:
        >>> import torch
        >>> from flowkit.distributions import TorchDistribution
        >>> base = TorchDistribution(torch.distributions.Gamma(torch.ones(3), torch.ones(3)), event_rank=1)
        >>> base.event_shape, base.log_prob(torch.ones(3)).item()
        ((3,), -3.0)
    """

    def __init__(
        self,
        distribution: str | TorchBase,
        *,
        arguments: Mapping[str, float | Tensor] | None = None,
        event_rank: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(distribution, TorchBase):
            if arguments is not None:
                raise ConfigError(f"{self.who}: arguments= goes with a name; got {type(distribution).__name__}, an object. Drop it.")
            distribution, arguments, event_rank = as_named(distribution, event_rank)
        event_rank = None if event_rank is None else whole_number(event_rank, self.who, "event_rank", 0)
        self.distribution, self.arguments, self.event_rank = distribution, arguments, event_rank
        if isinstance(distribution, str):
            self._class = named_class(distribution, self.who)
            for name, value in (arguments or {}).items():
                read = torch.as_tensor(value).detach()
                self.register_buffer(f"argument_{name}", read if read.is_floating_point() else read.to(torch.get_default_dtype()), persistent=False)
                self.like = self.like.to(read.device)
        made = self._checked()
        self.reparametrized = bool(made.has_rsample)
        shape = (*made.batch_shape, *made.event_shape)
        rank = len(made.event_shape) if event_rank is None else event_rank
        if rank != len(shape):
            raise ConfigError(
                f"{self.who}: expected an event of all {len(shape)} axes; {made} has batch shape {tuple(made.batch_shape)}, "
                f"event_rank={event_rank}. Pass event_rank={len(shape)}."
            )
        self.event_shape = tuple(shape)
        self._support = support_of(made, tuple(shape))

    def _checked(self) -> TorchBase:
        """The law with torch's own validation of its arguments."""
        try:
            made = self._at(self.like.dtype, validate=True)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.who}: torch refuses {self.distribution} with {sorted(self.arguments or {})}: {' '.join(str(error).split())}") from None
        try:
            discrete = bool(made.support.is_discrete)  # type: ignore[union-attr]
        except NotImplementedError:
            discrete = False
        if discrete:
            raise ConfigError(f"{self.who}: expected a continuous law; got {type(made).__name__}, a discrete one. Use a continuous relaxation.")
        return made

    def _at(self, dtype: torch.dtype, validate: bool = False) -> TorchBase:
        """The law with its arguments in a dtype, on this module's device."""
        if not isinstance(self.distribution, str):
            return self.distribution
        dtype = torch.promote_types(dtype, torch.float32)
        arguments = {name: getattr(self, f"argument_{name}").to(dtype) for name in self.arguments or {}}
        return self._class(**arguments, validate_args=validate)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        made = self._at(x.dtype)
        value = made.log_prob(x.to(torch.promote_types(x.dtype, torch.float32)))
        return sum_event(value, len(made.batch_shape))

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        unit_temperature(temperature, self.who)
        made = self._at(self.like.dtype)
        with forked_rng(generator, self.like.device):
            x = made.rsample(torch.Size(shape)) if self.reparametrized else made.sample(torch.Size(shape))
        return x.to(self.like.dtype)

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of each coordinate, where torch has one: (*B, *event) -> (*B, *event)."""
        try:
            return self._at(x.dtype).cdf(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)
        except NotImplementedError:
            raise ConfigError(f"{self.who}.cdf: torch has no distribution function for {self.distribution}. Use another law.") from None

    @property
    def iterative_icdf(self) -> bool:
        """Whether quantiles are found by root finding: torch has none for this law."""
        try:
            self._at(torch.float32).icdf(torch.full_like(self.like, 0.5, dtype=torch.float32))
        except NotImplementedError:
            return True
        return False

    def icdf(self, p: Tensor) -> Tensor:
        """Quantile of each coordinate, by root finding where torch has none: probabilities (*B, *event) -> (*B, *event)."""
        if not self.iterative_icdf:
            return self._at(p.dtype).icdf(p.to(torch.promote_types(p.dtype, torch.float32))).to(p.dtype)
        low, high = (self._support.low_buffer, self._support.high_buffer) if isinstance(self._support, Box) else (-torch.inf, torch.inf)
        return solve_quantile(self.cdf, p, low=low, high=high)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TorchDistribution]]:
        yield "gamma_line", cls("Gamma", arguments={"concentration": torch.tensor([2.0]), "rate": torch.tensor([1.0])}, event_rank=1)
        yield "laplace_plane", cls("Laplace", arguments={"loc": torch.tensor([0.0, 1.0]), "scale": torch.tensor([1.0, 0.5])}, event_rank=1)
