"""flowkit: normalizing flows for PyTorch."""

from flowkit import bijectors, distributions, flows, univariates
from flowkit.core.checks import checks
from flowkit.core.flow import Flow

__all__ = ["Flow", "bijectors", "checks", "distributions", "flows", "univariates"]
