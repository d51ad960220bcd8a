"""Written by ``make stubs``."""

from flowkit.nets.circular_conv_net import CircularConvNet as CircularConvNet
from flowkit.nets.class_embedding import ClassEmbedding as ClassEmbedding
from flowkit.nets.constant import Constant as Constant
from flowkit.nets.conv_net import ConvNet as ConvNet
from flowkit.nets.dit import DiT as DiT
from flowkit.nets.egnn import EGNN as EGNN
from flowkit.nets.fourier_mlp import FourierMLP as FourierMLP
from flowkit.nets.gated_residual_mlp import GatedResidualMLP as GatedResidualMLP
from flowkit.nets.lipschitz_conv import LipschitzConv as LipschitzConv
from flowkit.nets.lipschitz_dense_mlp import LipschitzDenseMLP as LipschitzDenseMLP
from flowkit.nets.lipschitz_mlp import LipschitzMLP as LipschitzMLP
from flowkit.nets.masked_layers import MaskedLayers as MaskedLayers
from flowkit.nets.masked_mlp import MaskedMLP as MaskedMLP
from flowkit.nets.masked_residual_mlp import MaskedResidualMLP as MaskedResidualMLP
from flowkit.nets.mlp import MLP as MLP
from flowkit.nets.pixel_cnn import PixelCNN as PixelCNN
from flowkit.nets.residual_mlp import ResidualMLP as ResidualMLP
from flowkit.nets.token_mlp import TokenMLP as TokenMLP
from flowkit.nets.token_transformer import TokenTransformer as TokenTransformer
from flowkit.nets.unet import UNet as UNet
