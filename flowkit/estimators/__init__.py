"""scikit-learn estimators; importing this package imports scikit-learn."""

from flowkit.estimators.flow_density import FlowDensity

__all__ = ["FlowDensity"]
