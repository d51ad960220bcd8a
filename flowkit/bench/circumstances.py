"""Where and with what a benchmark ran."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from flowkit.bench.setting import Setting
from flowkit.core.version import __version__

PACKAGES = ("torch", "nflows", "normflows", "zuko", "FrEIA", "flowjax", "torchdiffeq", "diffrax", "jax", "jaxlib", "equinox", "triton")


def circumstances(setting: Setting, command: str) -> dict[str, Any]:
    """Machine, versions, threads, command, date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "flowkit": __version__,
        "python": platform.python_version(),
        "versions": versions,
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device_name(setting.device),
        "threads": setting.threads,
        "command": command,
        "date": str(datetime.date.today()),
        "quick": setting.quick,
    }


def device_name(device: str) -> str:
    """The processor's or the GPU's own name."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def processor() -> str:
    """The processor's own name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
