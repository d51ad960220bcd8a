"""Written by ``make stubs``."""

from flowkit.distributions.class_conditional import ClassConditional as ClassConditional
from flowkit.distributions.diagonal_normal import DiagonalNormal as DiagonalNormal
from flowkit.distributions.empirical import Empirical as Empirical
from flowkit.distributions.full_normal import FullNormal as FullNormal
from flowkit.distributions.gaussian_mixture import GaussianMixture as GaussianMixture
from flowkit.distributions.generalized_normal import GeneralizedNormal as GeneralizedNormal
from flowkit.distributions.mean_free_normal import MeanFreeNormal as MeanFreeNormal
from flowkit.distributions.product import Product as Product
from flowkit.distributions.quantized import Quantized as Quantized
from flowkit.distributions.resampled import Resampled as Resampled
from flowkit.distributions.standard_normal import StandardNormal as StandardNormal
from flowkit.distributions.student_t import StudentT as StudentT
from flowkit.distributions.torch_distribution import TorchDistribution as TorchDistribution
from flowkit.distributions.truncated_normal import TruncatedNormal as TruncatedNormal
from flowkit.distributions.truncated_normal_on import TruncatedNormalOn as TruncatedNormalOn
from flowkit.distributions.uniform_box import UniformBox as UniformBox
from flowkit.distributions.uniform_on import UniformOn as UniformOn
from flowkit.distributions.von_mises import VonMises as VonMises
from flowkit.distributions.von_mises_fisher import VonMisesFisher as VonMisesFisher
