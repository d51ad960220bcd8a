"""Neal's funnel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event, sample_shape, whole_number
from flowkit.core.target import Target


@TARGETS.register("funnel")
class Funnel(Target):
    """x_0 ~ N(0, s^2) and x_i | x_0 ~ N(0, exp(x_0)), i = 1 .. dim - 1: s^2 = 9 (``hard``) or 1 (``easy``). Normalised.

    Papers on samplers use both variances under one name; results are not comparable between them.

    Numerical limit: below x_0 = ``FLOOR`` = -80 the variance of the others stays at e^-80, so that values do not overflow in
    float32. That is 27 standard deviations out.

    Args:
        dim: number of coordinates, >= 2.
        variant: ``hard`` or ``easy``.

    Example:
        >>> import torch
        >>> from flowkit.targets import Funnel
        >>> x = Funnel(10).sample(20_000, torch.Generator().manual_seed(0))
        >>> abs(x[:, 0].std().item() - 3) < 0.05
        True

    Reference: Neal (2003), Slice sampling, Annals of Statistics 31, 705, section 8; variance 1 in Zhang, Chen (2022), Path integral
    sampler, arXiv:2111.15141.
    """

    VARIANCES: ClassVar[dict[str, float]] = {"hard": 9.0, "easy": 1.0}
    FLOOR: ClassVar[float] = -80.0
    log_normalizer = 0.0
    can_sample = True
    like: Tensor

    def __init__(self, dim: int = 10, variant: Literal["hard", "easy"] = "hard") -> None:
        super().__init__()
        dim = whole_number(dim, "Funnel", "dim", 2)
        if not isinstance(variant, str) or variant not in self.VARIANCES:
            raise ConfigError(f"Funnel: expected variant 'hard' (variance 9) or 'easy' (variance 1); got {variant!r}.")
        self.dim, self.variant = dim, variant
        self.event_shape: tuple[int, ...] = (dim,)
        self.invariances = frozenset({"neck_signs", "neck_order"} if dim > 2 else {"neck_signs"})
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def variance(self) -> float:
        """s^2."""
        return self.VARIANCES[self.variant]

    def log_density(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "Funnel.log_density")
        mouth, neck = x[..., 0], x[..., 1:]
        log_variance = mouth.clamp(min=self.FLOOR)
        quadratic = mouth.square() / self.variance + (neck * (-0.5 * log_variance).exp().unsqueeze(-1)).square().sum(-1)
        constant = self.dim * math.log(2 * math.pi) + math.log(self.variance)
        return -0.5 * (quadratic + (self.dim - 1) * log_variance + constant)

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        size = (*sample_shape(n, "Funnel.sample"), self.dim)
        noise = torch.randn(size, generator=generator, dtype=self.like.dtype, device=self.like.device)
        mouth = math.sqrt(self.variance) * noise[..., :1]
        return torch.cat([mouth, (0.5 * mouth).exp() * noise[..., 1:]], dim=-1)

    def symmetry(self, name: str, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        mouth, neck = x[..., :1], x[..., 1:]
        if name == "neck_order":
            neck = neck.index_select(-1, torch.randperm(self.dim - 1, generator=generator, device=x.device))
        elif name == "neck_signs":
            neck = neck * (1 - 2 * torch.randint(2, (self.dim - 1,), generator=generator, device=x.device).to(x.dtype))
        else:
            return None
        return torch.cat([mouth, neck], dim=-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Funnel]]:
        yield "hard", cls(4)
        yield "easy", cls(2, "easy")
