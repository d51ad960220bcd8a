"""The public conformance kit: what flowkit's own classes are held to, for classes of your own."""

from flowkit.testing._case import Case
from flowkit.testing._suite import CheckReport, ConformanceError
from flowkit.testing.bijectors import check_bijector

__all__ = ["Case", "CheckReport", "ConformanceError", "check_bijector"]
