"""What importing parameters from any library needs: activations by name, layers copied, perceptrons rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.nets import MLP

_MODULES: dict[type[nn.Module], tuple[str, dict[str, Any]]] = {
    nn.ReLU: ("relu", {}),
    nn.SiLU: ("silu", {}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.ELU: ("elu", {"alpha": 1.0}),
    nn.Tanh: ("tanh", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
}
_FUNCTIONS: dict[Callable[..., Tensor], str] = {
    functional.relu: "relu",
    torch.relu: "relu",
    functional.silu: "silu",
    functional.gelu: "gelu",
    functional.elu: "elu",
    functional.tanh: "tanh",
    torch.tanh: "tanh",
    functional.leaky_relu: "leaky_relu",
}


_HARMLESS = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__abstractmethods__", "_abc_impl", "__repr__", "extra_repr"}


def activation_name(who: str, activation: Any) -> str:
    """The name flowkit gives an activation, a module or a function of torch."""
    if type(activation) in _MODULES:
        name, options = _MODULES[type(activation)]
        if all(getattr(activation, key) == value for key, value in options.items()):
            return name
    elif not isinstance(activation, nn.Module) and activation in _FUNCTIONS:
        return _FUNCTIONS[activation]
    shown = repr(activation) if isinstance(activation, nn.Module) else getattr(activation, "__name__", repr(activation))
    raise ConfigError(f"{who}: the activation {shown} is not supported. Supported are torch's {', '.join(sorted({n for n, _ in _MODULES.values()}))}.")


def one_activation(who: str, activations: Iterable[Any], default: str = "relu") -> str:
    """The one name of several activations; ``default`` for none."""
    names = sorted({activation_name(who, activation) for activation in activations})
    if len(names) > 1:
        raise ConfigError(f"{who}: a network with several activations ({', '.join(names)}) is not supported; use one.")
    return names[0] if names else default


def unsupported(who: str, thing: Any, supported: Iterable[str]) -> ConfigError:
    """The error for a class that cannot be imported."""
    return ConfigError(f"{who}: {type(thing).__module__}.{type(thing).__qualname__} is not supported. Supported: {', '.join(supported)}.")


def is_plain(thing: Any, cls: type) -> bool:
    """Whether this is an instance of the class, or of a subclass that changes only how it is constructed."""
    if not isinstance(thing, cls):
        return False
    between = type(thing).__mro__[: type(thing).__mro__.index(cls)]
    return not any(hasattr(cls, name) and name not in _HARMLESS for sub in between for name in vars(sub))


def put(target: nn.Parameter | Tensor | None, value: Tensor) -> None:
    """Give a parameter or buffer a copy of a value, its dtype and device too."""
    assert target is not None and target.shape == value.shape, (None if target is None else target.shape, value.shape)
    target.data = value.detach().clone()


def put_linear(target: nn.Module, source: Any, index: Tensor | None = None, factor: Tensor | None = None) -> None:
    """Copy weight and bias of a linear layer; ``index``: which row of the source each row is, ``factor``: what multiplies each row then."""
    weight, bias = source.weight.detach(), source.bias.detach() if source.bias is not None else source.weight.new_zeros(source.weight.shape[0])
    if index is not None:
        weight, bias = weight[index.to(weight.device)], bias[index.to(weight.device)]
    if factor is not None:
        weight, bias = weight * factor.to(weight).unsqueeze(-1), bias * factor.to(bias)
    put(target.weight, weight)  # type: ignore[arg-type]
    put(target.bias, bias)  # type: ignore[arg-type]


def perceptron(linears: Sequence[Any], activation: str, context_features: int = 0) -> MLP:
    """An ``MLP`` with the parameters of linear layers that have one activation in between."""
    wide = linears[0].weight.shape[1]
    hidden = tuple(layer.weight.shape[0] for layer in linears[:-1])
    net = MLP(wide - context_features, linears[-1].weight.shape[0], hidden, context_features=context_features, activation=activation)
    for target, source in zip([layer for layer in net.layers if isinstance(layer, nn.Linear)], linears[:-1], strict=True):
        put_linear(target, source)
    put_linear(net.last, linears[-1])
    return net


def plain_perceptron(who: str, layers: Sequence[Any], linear: type, context_features: int = 0) -> MLP | None:
    """Layers linear, activation, linear, ..., linear as an ``MLP``; None where they are anything else."""
    if len(layers) % 2 == 0 or any(type(layer) is not linear for layer in layers[::2]) or any(type(layer) is linear for layer in layers[1::2]):
        return None
    return perceptron(layers[::2], one_activation(who, layers[1::2]), context_features)


def like_source(module: nn.Module, source: nn.Module) -> None:
    """Give a module the dtype, device and mode of another."""
    first = next((value for value in (*source.parameters(), *source.buffers()) if value.is_floating_point()), None)
    if first is not None:
        module.to(device=first.device, dtype=first.dtype)
    module.train(source.training)
