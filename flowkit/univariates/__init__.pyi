"""Written by ``make stubs``."""

from flowkit.univariates.affine import Affine as Affine
from flowkit.univariates.bent_identity import BentIdentity as BentIdentity
from flowkit.univariates.bernstein import Bernstein as Bernstein
from flowkit.univariates.censored_logistic_mixture_cdf import CensoredLogisticMixtureCDF as CensoredLogisticMixtureCDF
from flowkit.univariates.cubic_spline import CubicSpline as CubicSpline
from flowkit.univariates.deep_sigmoidal import DeepSigmoidal as DeepSigmoidal
from flowkit.univariates.gaussian_mixture_cdf import GaussianMixtureCDF as GaussianMixtureCDF
from flowkit.univariates.leaky_relu import LeakyReLU as LeakyReLU
from flowkit.univariates.leaky_tanh import LeakyTanh as LeakyTanh
from flowkit.univariates.linear_rational_spline import LinearRationalSpline as LinearRationalSpline
from flowkit.univariates.linear_spline import LinearSpline as LinearSpline
from flowkit.univariates.logistic_mixture_cdf import LogisticMixtureCDF as LogisticMixtureCDF
from flowkit.univariates.monotone_integral import MonotoneIntegral as MonotoneIntegral
from flowkit.univariates.non_compact_projection import NonCompactProjection as NonCompactProjection
from flowkit.univariates.quadratic_spline import QuadraticSpline as QuadraticSpline
from flowkit.univariates.rational_quadratic_spline import RationalQuadraticSpline as RationalQuadraticSpline
from flowkit.univariates.shift import Shift as Shift
from flowkit.univariates.signed_power import SignedPower as SignedPower
from flowkit.univariates.sneaky_relu import SneakyReLU as SneakyReLU
from flowkit.univariates.soft_clipped_affine import SoftClippedAffine as SoftClippedAffine
from flowkit.univariates.soft_clipped_spline import SoftClippedSpline as SoftClippedSpline
from flowkit.univariates.sum_of_squares import SumOfSquares as SumOfSquares
