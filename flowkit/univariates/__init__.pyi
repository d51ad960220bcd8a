"""Written by ``make stubs``."""

from flowkit.univariates.affine import Affine as Affine
from flowkit.univariates.rational_quadratic_spline import RationalQuadraticSpline as RationalQuadraticSpline
from flowkit.univariates.shift import Shift as Shift
