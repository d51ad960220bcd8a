"""Written by ``make stubs``."""

from flowkit.core.conditioned import Conditioned as Conditioned
from flowkit.core.flow import Flow as Flow
from flowkit.flows.iaf import IAF as IAF
from flowkit.flows.maf import MAF as MAF
from flowkit.flows.neural_spline_flow import NeuralSplineFlow as NeuralSplineFlow
from flowkit.flows.nice import NICE as NICE
from flowkit.flows.real_nvp import RealNVP as RealNVP
