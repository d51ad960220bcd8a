"""Defects of normflows: objectives, precision, context, state."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import flowkit as fk
from _peer_defects.case import Defect, exactly
from _peer_defects.shared import randomized

POINTS = torch.linspace(-2.0, 2.0, 12).reshape(6, 2)


def _flows() -> Any:
    import normflows

    return normflows.flows


def _model(*, freeze: bool = False, target: Any = None) -> Any:
    import normflows as nf

    layers = [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 8, 2], init_zeros=False)) for _ in range(2)]
    if freeze:
        layers[0].requires_grad_(False)
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), layers, target)


def _ours() -> Any:
    return randomized(fk.flows.RealNVP(2, layers=2, hidden=(8,), standardize=False), 0.3)


class _Target:
    """Unnormalised log-density of a normal around (1, 1)."""

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x - 1).square().sum(-1)


def _precision(log_det: Any) -> str:
    return str(log_det(torch.randn(4, 2, dtype=torch.float64)).dtype)


def _largest_gradient(loss_and_module: Any) -> float:
    loss, module = loss_and_module
    loss.backward()
    return max(float(p.grad.abs().max()) for p in module.parameters() if p.grad is not None)


def _alpha_theirs() -> Any:
    model = _model(target=_Target())
    return model.reverse_alpha_div(64), model


def _alpha_ours() -> Any:
    flow = _ours()
    x, log_prob = flow.sample_and_log_prob(64)
    return (log_prob - _Target().log_prob(x)).mean(), flow


def _still_frozen(step_and_parameters: Any) -> int:
    """Frozen parameters that require gradients after one evaluation of the loss without its score term."""
    step, frozen = step_and_parameters
    step()
    return sum(parameter.requires_grad for parameter in frozen)


def _path_theirs() -> Any:
    model = _model(freeze=True, target=_Target())
    return lambda: model.reverse_kld(8, score_fn=False), list(model.flows[0].parameters())


def _path_ours() -> Any:
    flow = _ours()
    frozen = list(flow.parameters())[:4]
    for parameter in frozen:
        parameter.requires_grad_(False)

    def step() -> None:
        x = flow.rsample(8)
        (copy.deepcopy(flow).requires_grad_(False).log_prob(x) - _Target().log_prob(x)).mean().backward()

    return step, frozen


def _eval_initialises(layer: Any) -> Tensor:
    """Largest change of the parameters by an evaluation in eval mode."""
    layer.eval()
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    layer(7 * torch.randn(16, 2))
    return torch.stack([(a - b).abs().max() for a, b in zip(layer.parameters(), before, strict=True)]).max()


def _with_context(log_prob: Any) -> tuple[int, ...]:
    return tuple(log_prob(POINTS, torch.randn(6, 3)).shape)


def _context_theirs() -> Any:
    import normflows as nf

    model = _model()
    return nf.ConditionalNormalizingFlow(model.q0, list(model.flows)).log_prob


DEFECTS = [
    Defect(
        name="log-det-float32",
        peer="normflows",
        statement="Log-determinants of a float64 model are accumulated in float32.",
        source="survey section 2",
        quantity="dtype of the log_det of float64 data",
        **exactly("torch.float64"),
        measure=_precision,
        theirs=lambda: lambda x: _model().double().forward_and_log_det(x)[1],
        ours=lambda: lambda x: _ours().double().bijector(x)[1],
    ),
    Defect(
        name="alpha-one-is-zero",
        peer="normflows",
        statement="The alpha divergence at its default alpha = 1 is sign(0) times something: zero, with zero gradients."
        " flowkit: the reverse KL, its limit, from sample_and_log_prob.",
        source="survey section 2",
        quantity="largest gradient of the divergence from a target it does not match",
        right=lambda gradient: gradient > 1e-3,
        wanted="above 0.001",
        measure=_largest_gradient,
        theirs=_alpha_theirs,
        ours=_alpha_ours,
    ),
    Defect(
        name="path-gradient-unfreezes",
        peer="normflows",
        statement="The loss without its score term turns gradients back on for parameters that were frozen.",
        source="survey section 2",
        quantity="frozen parameters that require gradients afterwards",
        **exactly(0),
        measure=_still_frozen,
        theirs=_path_theirs,
        ours=_path_ours,
    ),
    Defect(
        name="context-not-taken",
        peer="normflows",
        statement="The conditional flow hands its context to every layer, and coupling layers (as ActNorm, planar, radial, masked affine) do not take one.",
        source="normflows #45, #41, #9",
        quantity="shape of the log-densities of 6 rows with a context",
        **exactly((6,)),
        measure=_with_context,
        theirs=_context_theirs,
        ours=lambda: fk.flows.RealNVP(2, context_features=3, layers=2, hidden=(8,), standardize=False).log_prob,
        raises="TypeError",
    ),
    Defect(
        name="act-norm-starts-in-eval",
        peer="normflows",
        statement="ActNorm takes its parameters from whatever batch comes first, an evaluation in eval mode included.",
        source="normflows PR #2 (nearby); found here",
        quantity="change of the parameters by an evaluation",
        **exactly(0.0),
        measure=_eval_initialises,
        theirs=lambda: _flows().ActNorm((2,)),
        ours=lambda: fk.bijectors.ActNorm(2),
    ),
    Defect(
        name="log-det-without-batch",
        peer="normflows",
        statement="Layers with a constant Jacobian return a log_det of shape (), others of shape (B,).",
        source="normflows #17",
        quantity="shape of ActNorm's log_det of 6 rows",
        **exactly((6,)),
        measure=lambda layer: tuple(layer(POINTS)[1].shape),
        theirs=lambda: _flows().ActNorm((2,)),
        ours=lambda: fk.bijectors.ActNorm(2),
    ),
]
