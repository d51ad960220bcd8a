"""Written by ``make stubs``."""

from flowkit.core.conditioned import Conditioned as Conditioned
from flowkit.core.flow import Flow as Flow
from flowkit.flows.average_velocity_flow import AverageVelocityFlow as AverageVelocityFlow
from flowkit.flows.bayesian import Bayesian as Bayesian
from flowkit.flows.bernstein_flow import BernsteinFlow as BernsteinFlow
from flowkit.flows.bnaf import BNAF as BNAF
from flowkit.flows.continuous_flow import ContinuousFlow as ContinuousFlow
from flowkit.flows.discrete_flow import DiscreteFlow as DiscreteFlow
from flowkit.flows.gaussianization import Gaussianization as Gaussianization
from flowkit.flows.iaf import IAF as IAF
from flowkit.flows.interpolant_flow import InterpolantFlow as InterpolantFlow
from flowkit.flows.maf import MAF as MAF
from flowkit.flows.neural_autoregressive_flow import NeuralAutoregressiveFlow as NeuralAutoregressiveFlow
from flowkit.flows.neural_spline_flow import NeuralSplineFlow as NeuralSplineFlow
from flowkit.flows.nice import NICE as NICE
from flowkit.flows.planar_flow import PlanarFlow as PlanarFlow
from flowkit.flows.real_nvp import RealNVP as RealNVP
from flowkit.flows.reflected_flow import ReflectedFlow as ReflectedFlow
from flowkit.flows.residual_flow import ResidualFlow as ResidualFlow
from flowkit.flows.riemannian_flow import RiemannianFlow as RiemannianFlow
from flowkit.flows.sos_flow import SOSFlow as SOSFlow
from flowkit.flows.sylvester_flow import SylvesterFlow as SylvesterFlow
from flowkit.flows.umnn_flow import UMNNFlow as UMNNFlow
