"""normflows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bench.contender import Contender
from flowkit.bench.flow_models import Data, FlowModel, TorchModel
from flowkit.bench.models import FlowSpec, PlainNet, layers_of, make_flow, perceptron, put
from flowkit.bench.peers.peer import Peer
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob
from flowkit.univariates import Affine


class Normflows(Peer):
    """Its coupling layers with plain networks in place of residual ones, and our weights in them."""

    name, packages = "normflows", ("normflows",)

    def splines(self, job: SplineJob, session: Session) -> Iterator[Contender]:
        from normflows.utils.splines import unconstrained_rational_quadratic_spline as spline

        def call(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            y, log_slope = spline(x, *params.split([job.bins, job.bins, job.bins - 1], dim=-1), tails="linear", tail_bound=job.bound)
            return y, log_slope

        yield job.contender("normflows", "eager", call, session)

    def flows(self, spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
        if spec.kind != "coupling":
            return
        import normflows

        spline = spec.univariate == "spline"
        twin = make_flow(spec) if spline else make_flow(spec, Affine(scale="exp"), generative=True)
        made = [_layer(spec, number, layer) for number, layer in enumerate(layers_of(twin))]
        steps = made[::-1] if spline else made  # from the base to the data; its affine layers run that way themselves
        base = normflows.distributions.DiagGaussian(spec.features, trainable=False)
        flow = normflows.NormalizingFlow(base, steps).to(data.x.device).eval()
        yield TorchModel(
            "normflows", "eager", flow, flow.log_prob, flow.sample, flow.forward, flow.inverse, twin.to(data.x.device), session,
            note="its sample gives the density too",
        )  # fmt: skip


def _layer(spec: FlowSpec, number: int, ours: nn.Module) -> nn.Module:
    """One coupling layer with our weights."""
    from normflows import flows

    half = spec.features // 2
    if spec.univariate == "affine":
        net = perceptron([half, *spec.hidden, 2 * (spec.features - half)])
        put(net, ours)
        return flows.AffineCouplingBlock(net, split_mode="channel" if number % 2 == 0 else "channel_inv")  # type: ignore[no-any-return]
    layer: Any = flows.CoupledRationalQuadraticSpline(spec.features, 1, 8, num_bins=spec.bins, tail_bound=spec.bound)
    layer.prqct = flows.neural_spline.coupling.PiecewiseRationalQuadraticCoupling(
        torch.tensor(spec.mask(number)).float(), functools.partial(PlainNet, spec.hidden),
        num_bins=spec.bins, tails="linear", tail_bound=spec.bound,
    )  # fmt: skip
    put(layer.prqct.transform_net, ours)
    return layer  # type: ignore[no-any-return]
