"""Written by ``make stubs``."""

from flowkit.nets.class_embedding import ClassEmbedding as ClassEmbedding
from flowkit.nets.constant import Constant as Constant
from flowkit.nets.masked_mlp import MaskedMLP as MaskedMLP
from flowkit.nets.mlp import MLP as MLP
from flowkit.nets.residual_mlp import ResidualMLP as ResidualMLP
