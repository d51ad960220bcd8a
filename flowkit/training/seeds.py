"""Seeds for every draw, derived from (seed, rank, step) and what is drawn."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed that depends on all of its arguments; the same on every machine."""
    packed = struct.pack(f"<{1 + len(counters)}q", seed, *counters) + stream.encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def fresh_seed() -> int:
    """A seed drawn from torch's default generator, so that ``torch.manual_seed`` governs runs without ``seed=``."""
    return int(torch.randint(0, 2**62, ()).item())


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Leave torch's global state as it was found: default generators, and the validation flag that compiling switches off."""
    validate = torch.distributions.Distribution._validate_args
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices, device_type="cuda"):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)


def reseed(device: torch.device, seed: int) -> None:
    """Seed the default generators of the CPU and of ``device`` alone: torch.manual_seed looks for every kind of device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def generator(device: torch.device, seed: int) -> torch.Generator:
    """A new generator on a device."""
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)
