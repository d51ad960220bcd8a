"""Defects of nflows: bases, state, devices."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

import flowkit as fk
from _peer_defects.case import Defect, at_most, exactly
from _peer_defects.shared import not_finite, pair, pickled, round_trip


def _transforms() -> Any:
    import nflows.transforms

    return nflows.transforms


def _copy_by_state(layers: Any) -> Tensor:
    """Difference between a layer and the one its parameters were loaded from, after both were used."""
    ours, other = layers
    x = torch.randn(5, 3)
    ours.eval()(x), other.eval()(x)
    ours.load_state_dict(other.state_dict())
    return (ours(x)[0] - other(x)[0]).abs().max()


def _cached_linear() -> Any:
    layer = _transforms().LULinear
    return layer(3, using_cache=True), layer(3, using_cache=True, identity_init=False)


def _linear_ours() -> Any:
    other = fk.bijectors.LULinear(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fk.bijectors.LULinear(3), other


def _contexts_first(sample: Any) -> tuple[int, ...]:
    """Shape of 8 samples for each of 3 contexts, contexts first."""
    return tuple(sample(torch.zeros(3, 2)).shape)


def _batched_sampling_theirs() -> Any:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import ResidualNet

    coupling = _transforms().AffineCouplingTransform([1, 0], lambda i, o: ResidualNet(i, o, 8, context_features=2))
    return lambda context: Flow(coupling, StandardNormal([2])).sample(8, context, batch_size=4)


def _batched_sampling_ours() -> Any:
    flow = fk.flows.RealNVP(2, context_features=2, layers=2, hidden=(8,), standardize=False)
    return lambda context: flow.sample((2, 4), context).flatten(0, 1).movedim(1, 0)


def _constant_column(start: Any) -> int:
    """Entries of the parameters and of the output not finite after starting from a batch with a constant column, if accepted."""
    batch = torch.cat([torch.randn(50, 1), torch.full((50, 1), 3.0)], dim=-1)
    return not_finite(*start(batch))


def _act_norm_theirs() -> Any:
    layer = _transforms().ActNorm(2)
    return lambda batch: (layer(batch)[0], layer.log_scale, layer.shift)


def _act_norm_ours() -> Any:
    layer = fk.bijectors.ActNorm(2)

    def start(batch: Tensor) -> tuple[Tensor, ...]:
        with contextlib.suppress(fk.core.errors.DataError):  # refused by name, parameters untouched
            layer.initialize(batch)
        return layer(batch)[0], layer.log_scale, layer.shift

    return start


def _on_meta(layer: Any) -> str:
    """Device of the log_det on a device without values, which nothing made elsewhere can reach."""
    return str(layer.to("meta")(torch.empty(3, 2, device="meta"))[1].device)


def _uniform_base() -> Any:
    from nflows.distributions.uniform import BoxUniform
    from nflows.flows import Flow

    return Flow(_transforms().IdentityTransform(), BoxUniform(torch.zeros(2), torch.ones(2)))


def _mixture_base() -> Any:
    from nflows.distributions.mixture import MADEMoG

    return MADEMoG(2, 8, None, num_mixture_components=3)


def _normals() -> Any:
    import nflows.distributions

    return nflows.distributions


def _sampled(base: Any) -> tuple[int, ...]:
    return tuple(base.sample(5).shape)


DEFECTS = [
    Defect(
        name="sampling-joins-wrong-axis",
        peer="nflows",
        statement="Samples for several contexts, drawn in batches, are joined along the contexts.",
        source="nflows #60, survey section 2",
        quantity="shape of 8 samples in 2 batches for 3 contexts, contexts first",
        **exactly((3, 8, 2)),
        measure=_contexts_first,
        theirs=_batched_sampling_theirs,
        ours=_batched_sampling_ours,
    ),
    Defect(
        name="stale-linear-cache",
        peer="nflows",
        statement="A linear layer with a cache keeps its old matrix after load_state_dict.",
        source="nessai PR #167",
        quantity="difference from the layer whose state was loaded",
        **at_most(1e-6),
        measure=_copy_by_state,
        theirs=_cached_linear,
        ours=_linear_ours,
    ),
    Defect(
        name="removed-torch-solve",
        peer="nflows",
        statement="NaiveLinear inverts with torch.solve, which torch has removed.",
        source="nflows PR #57 (the same cause)",
        quantity="round-trip error",
        **at_most(1e-5),
        measure=round_trip(torch.eye(3)),
        theirs=lambda: pair(_transforms().NaiveLinear(3)),
        ours=lambda: pair(fk.bijectors.Linear(3, start="rotation")),
        raises="RuntimeError",
    ),
    Defect(
        name="act-norm-constant-column",
        peer="nflows",
        statement="ActNorm started from a batch with a constant column has infinite parameters and returns NaN ever after; flowkit refuses the batch.",
        source="found here (survey section 3, row 10)",
        quantity="parameters and outputs not finite",
        **exactly(0),
        measure=_constant_column,
        theirs=_act_norm_theirs,
        ours=_act_norm_ours,
    ),
    Defect(
        name="uniform-base-rejected",
        peer="nflows",
        statement="A flow cannot use the library's own uniform base: it takes no context argument.",
        source="nflows #90, PR #33, #17",
        quantity="log-density at (1/2, 1/2) of the unit square",
        **exactly(0.0),
        measure=lambda flow: flow.log_prob(torch.full((1, 2), 0.5)),
        theirs=_uniform_base,
        ours=lambda: fk.Flow(fk.distributions.UniformBox(0.0, 1.0, 2), fk.bijectors.Identity(2)),
        raises="TypeError",
    ),
    Defect(
        name="mixture-base-needs-context",
        peer="nflows",
        statement="The mixture base cannot be sampled without a context.",
        source="nflows #68",
        quantity="shape of 5 samples",
        **exactly((5, 2)),
        measure=_sampled,
        theirs=_mixture_base,
        ours=lambda: fk.distributions.GaussianMixture(2, 3),
        raises="AttributeError",
    ),
    Defect(
        name="learned-normal-base-cannot-sample",
        peer="nflows",
        statement="The base with learned mean and scale has a density but cannot be sampled.",
        source="found here",
        quantity="shape of 5 samples",
        **exactly((5, 2)),
        measure=_sampled,
        theirs=lambda: _normals().DiagonalNormal([2]),
        ours=lambda: fk.distributions.DiagonalNormal(2),
        raises="NotImplementedError",
    ),
    Defect(
        name="conditional-base-not-picklable",
        peer="nflows",
        statement="The conditional normal base holds a lambda, so a flow with it does not pickle.",
        source="found here (as normflows #43)",
        quantity="comes back from pickle",
        **exactly(1),
        measure=pickled,
        theirs=lambda: _normals().ConditionalDiagonalNormal([2]),
        ours=lambda: fk.distributions.DiagonalNormal(2, context_features=3),
        raises="AttributeError",
    ),
    Defect(
        name="mask-made-on-the-cpu",
        peer="nflows",
        statement="LeakyReLU makes its mask a CPU tensor wherever its input is.",
        source="nflows #15, PR #20 (the same cause), survey section 2",
        quantity="device of the log_det of an input on the meta device",
        **exactly("meta"),
        measure=_on_meta,
        theirs=lambda: _transforms().LeakyReLU(),
        ours=lambda: fk.bijectors.Elementwise(2, fk.univariates.LeakyReLU()),
        raises="NotImplementedError",
    ),
    Defect(
        name="constant-left-behind",
        peer="nflows",
        statement="The temperature of Sigmoid is a plain tensor that .to() does not move.",
        source="sbi #1893, PR #1932 (the same cause)",
        quantity="device of the log_det of an input on the meta device",
        **exactly("meta"),
        measure=_on_meta,
        theirs=lambda: _transforms().Sigmoid(),
        ours=lambda: fk.bijectors.Sigmoid(2, temperature=1.0),
        raises="RuntimeError",
    ),
]
