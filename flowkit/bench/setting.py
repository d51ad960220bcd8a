"""How a suite is to run: device, threads, rounds, sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flowkit.core.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Setting:
    """What the user asks for.

    Args:
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        threads: of torch and of JAX; default torch's own number.
        rounds: of every comparison; default the suite's.
        quick: sizes and rounds that only show that everything runs.
        op: for the suite ``ops``: this op alone, with all its examples.
    """

    device: str = "auto"
    threads: int | None = None
    rounds: int | None = None
    quick: bool = False
    op: str | None = None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ConfigError(f"bench: expected device to be one of {', '.join(DEVICES)}; got {self.device!r}. Use --device auto.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("bench: expected a CUDA device; torch sees none. Use --device cpu, or install torch for CUDA.")
        for name in ("threads", "rounds"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"bench: expected {name} >= 1; got {value!r}. Leave it out for the usual number.")
        object.__setattr__(self, "device", ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)
        object.__setattr__(self, "threads", self.threads or torch.get_num_threads())

    def rounds_of(self, usual: int) -> int:
        """Rounds, where a suite usually takes so many."""
        return self.rounds or (2 if self.quick else usual)
