"""The networks of nflows rebuilt as flowkit's, parameter by parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nflows.nn.nets import MLP as NflowsMLP
from nflows.nn.nets import ResidualNet
from nflows.transforms.made import MADE, MaskedFeedforwardBlock, MaskedLinear, MaskedResidualBlock
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import registered_name
from flowkit.interop._parts import is_plain, one_activation, perceptron, plain_perceptron, put_linear, unsupported
from flowkit.nets import MLP, GatedResidualMLP, MaskedLayers, MaskedResidualMLP


def conditioner_net(who: str, net: Any, in_features: int) -> MLP | GatedResidualMLP:
    """The network of a coupling layer. Its context size is what its first layer reads beyond ``in_features``."""
    if is_plain(net, ResidualNet):
        return _residual(who, net)
    if isinstance(net, NflowsMLP):  # used through a subclass that takes a context; what its forward does is compared afterwards
        _check_mlp(who, net)
        linears = _linears(net)
        return perceptron(linears, one_activation(who, [net._activation]), linears[0].in_features - in_features)
    raise unsupported(who, net, ("nflows.nn.nets.ResidualNet", "nflows.nn.nets.MLP"))


def embedding(who: str, net: Any) -> nn.Module | None:
    """A network of the context alone: None for the identity; a registered network is kept as it is."""
    if type(net) is nn.Identity:
        return None
    if registered_name(type(net)) is not None:
        return net
    if is_plain(net, NflowsMLP):
        if len(net._in_shape) != 1 or len(net._out_shape) != 1:
            raise ConfigError(f"{who}: an MLP between tensors of shape {tuple(net._in_shape)} and {tuple(net._out_shape)} is not supported; only vectors are.")
        _check_mlp(who, net)
        return perceptron(_linears(net), one_activation(who, [net._activation]))
    if type(net) is nn.Linear:
        return perceptron([net], "relu")
    made = plain_perceptron(who, list(net), nn.Linear) if type(net) is nn.Sequential else None
    if made is None:
        names = ("nn.Identity", "nn.Linear", "nn.Sequential of nn.Linear and one activation", "nflows.nn.nets.MLP", "any class registered with @NETS.register")
        raise unsupported(who, net, names)
    return made


def masked_net(who: str, net: MADE, index: Tensor, factor: Tensor | None) -> MaskedLayers | MaskedResidualMLP:
    """The masked network of an autoregressive layer; ``index`` and ``factor`` as for ``put_linear``, for the output layer."""
    if not is_plain(net, MADE):
        raise unsupported(who, net, ("nflows.transforms.made.MADE",))
    kind = MaskedResidualBlock if net.use_residual_blocks else MaskedFeedforwardBlock
    blocks = list(net.blocks)
    if not all(is_plain(block, kind) for block in blocks):
        raise unsupported(who, next(block for block in blocks if not is_plain(block, kind)), (kind.__name__,))
    _check_blocks(who, blocks)
    activation = one_activation(who, [net.activation, *(block.activation for block in blocks)])
    context = [layer for layer in (getattr(part, "context_layer", None) for part in (net, *blocks)) if layer is not None]
    size = context[0].in_features if context else 0
    dropout = _dropout(who, blocks)
    inner = [layer for block in blocks for layer in (block.linear_layers if net.use_residual_blocks else [block.linear])]
    layers = [net.initial_layer, *inner, net.final_layer]
    if not all(type(layer) is MaskedLinear for layer in layers):
        raise unsupported(who, next(layer for layer in layers if type(layer) is not MaskedLinear), ("nflows.transforms.made.MaskedLinear",))
    masks = [layer.mask.bool() for layer in layers[:-1]] + [layers[-1].mask.bool()[index.to(layers[-1].mask.device)]]
    masks = [mask.cpu() for mask in masks]
    made: Any
    if net.use_residual_blocks:
        made = MaskedResidualMLP(masks, context_features=size, activation=activation, dropout=dropout)
        targets = [made.first, *(layer for pair in zip(made.inward, made.outward, strict=True) for layer in pair), made.last]
        for target, source in zip(made.context_layers, context, strict=True):
            put_linear(target, source)
    else:
        made = MaskedLayers(masks, context_features=size, context="added", activation=activation, dropout=dropout)
        targets = list(made.layers)
        if size:
            put_linear(made.context_layer, context[0])
    for target, source in zip(targets[:-1], layers[:-1], strict=True):
        put_linear(target, source)
    put_linear(targets[-1], layers[-1], index, factor)
    return made


def _residual(who: str, net: ResidualNet) -> GatedResidualMLP:
    blocks, size = list(net.blocks), net.context_features or 0
    if not blocks:
        raise ConfigError(f"{who}: a ResidualNet with num_blocks=0 is not supported; use num_blocks >= 1.")
    _check_blocks(who, blocks)
    activation = one_activation(who, [block.activation for block in blocks])
    made = GatedResidualMLP(
        net.initial_layer.in_features - size,
        net.final_layer.out_features,
        (net.hidden_features,) * len(blocks),
        context_features=size,
        activation=activation,
        dropout=_dropout(who, blocks),
    )
    put_linear(made.first, net.initial_layer)
    put_linear(made.last, net.final_layer)
    for number, block in enumerate(blocks):
        put_linear(made.inward[number], block.linear_layers[0])
        put_linear(made.outward[number], block.linear_layers[1])
        if size:
            put_linear(made.gates[number], block.context_layer)
    return made


def _check_blocks(who: str, blocks: Sequence[Any]) -> None:
    for block in blocks:
        if getattr(block, "use_batch_norm", False) or getattr(block, "batch_norm", None) is not None:
            raise ConfigError(f"{who}: batch normalisation inside a network (use_batch_norm=True) is not supported; build the source without it.")


def _dropout(who: str, blocks: Sequence[Any]) -> float:
    shares = {float(block.dropout.p) for block in blocks}
    if len(shares) > 1:
        raise ConfigError(f"{who}: a network with several dropout probabilities {sorted(shares)} is not supported; use one.")
    return shares.pop() if shares else 0.0


def _check_mlp(who: str, net: NflowsMLP) -> None:
    if net._activate_output:
        raise ConfigError(f"{who}: an MLP with activate_output=True is not supported; leave the output linear.")


def _linears(net: NflowsMLP) -> list[Any]:
    return [net._input_layer, *net._hidden_layers, net._output_layer]


def output_rows(groups: int, blocks: Sequence[int]) -> Tensor:
    """Row order that turns outputs block by block, one row per coordinate in each, into coordinate by coordinate: blocks in that order."""
    return torch.stack([block * groups + torch.arange(groups) for block in blocks], dim=1).flatten()
