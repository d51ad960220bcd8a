"""Written by ``make stubs``."""

from flowkit.objectives.alpha_divergence import AlphaDivergence as AlphaDivergence
from flowkit.objectives.consistency_training import ConsistencyTraining as ConsistencyTraining
from flowkit.objectives.continuous_likelihood import ContinuousLikelihood as ContinuousLikelihood
from flowkit.objectives.detailed_balance import DetailedBalance as DetailedBalance
from flowkit.objectives.discrete_flow_matching import DiscreteFlowMatching as DiscreteFlowMatching
from flowkit.objectives.evidence_lower_bound import EvidenceLowerBound as EvidenceLowerBound
from flowkit.objectives.fab import FAB as FAB
from flowkit.objectives.flow_matching import FlowMatching as FlowMatching
from flowkit.objectives.forward_kl import ForwardKL as ForwardKL
from flowkit.objectives.importance_weighted import ImportanceWeighted as ImportanceWeighted
from flowkit.objectives.log_variance import LogVariance as LogVariance
from flowkit.objectives.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from flowkit.objectives.mean_flow import MeanFlow as MeanFlow
from flowkit.objectives.path_integral import PathIntegral as PathIntegral
from flowkit.objectives.reflected_flow_matching import ReflectedFlowMatching as ReflectedFlowMatching
from flowkit.objectives.reflow import Reflow as Reflow
from flowkit.objectives.reverse_kl import ReverseKL as ReverseKL
from flowkit.objectives.riemannian_flow_matching import RiemannianFlowMatching as RiemannianFlowMatching
from flowkit.objectives.stochastic_interpolant import StochasticInterpolant as StochasticInterpolant
from flowkit.objectives.subtrajectory_balance import SubtrajectoryBalance as SubtrajectoryBalance
from flowkit.objectives.temporal_optimization import TemporalOptimization as TemporalOptimization
from flowkit.objectives.trajectory_balance import TrajectoryBalance as TrajectoryBalance
