"""Written by ``make stubs``."""

from flowkit.continuous.average_velocity_field import AverageVelocityField as AverageVelocityField
from flowkit.continuous.concat_squash_field import ConcatSquashField as ConcatSquashField
from flowkit.continuous.dit_field import DiTField as DiTField
from flowkit.continuous.egnn_field import EGNNField as EGNNField
from flowkit.continuous.gradient_field import GradientField as GradientField
from flowkit.continuous.guided_field import GuidedField as GuidedField
from flowkit.continuous.mlp_field import MLPField as MLPField
from flowkit.continuous.ot_potential_field import OTPotentialField as OTPotentialField
from flowkit.continuous.prediction_field import PredictionField as PredictionField
from flowkit.continuous.rescheduled_field import RescheduledField as RescheduledField
from flowkit.continuous.tangent_field import TangentField as TangentField
from flowkit.continuous.unet_field import UNetField as UNetField
