"""nflows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bench.contender import Contender
from flowkit.bench.flow_models import Data, FlowModel, TorchModel
from flowkit.bench.models import NOISE, FlowSpec, PlainNet, layers_of, make_flow, put
from flowkit.bench.peers.peer import Peer
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob
from flowkit.core.flow import Flow
from flowkit.univariates import Affine


class Nflows(Peer):
    """Its spline and its coupling layers take our parameters; those of its autoregressive flows are read by ``flowkit.interop.nflows``."""

    name, packages = "nflows", ("nflows",)

    def splines(self, job: SplineJob, session: Session) -> Iterator[Contender]:
        from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline as spline

        def call(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            y, log_slope = spline(x, *params.split([job.bins, job.bins, job.bins - 1], dim=-1), tails="linear", tail_bound=job.bound)
            return y, log_slope

        yield job.contender("nflows", "eager", call, session)

    def flows(self, spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
        twin = make_flow(spec, None if spec.univariate == "spline" else Affine(scale="sigmoid", offset=2.0, floor=1e-3))
        flow = nflows_flow(spec, twin).to(data.x.device)
        if spec.kind == "autoregressive":
            from flowkit.interop.nflows import load_parameters

            twin = load_parameters(flow)
        yield TorchModel(
            "nflows", "eager", flow, flow.log_prob, flow.sample,
            lambda z: flow._transform.inverse(z)[0], lambda x: flow._transform(x)[0], twin.to(data.x.device), session,
        )  # fmt: skip


def nflows_flow(spec: FlowSpec, ours: Flow) -> Any:
    """A flow of the given sizes: the weights of ours in coupling layers, its own with noise in autoregressive ones."""
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    steps: list[Any] = []
    splines: dict[str, Any] = {"num_bins": spec.bins, "tails": "linear", "tail_bound": spec.bound}
    for number in range(spec.layers):
        if spec.kind == "coupling":
            mask, net = torch.tensor(spec.mask(number)).float(), functools.partial(PlainNet, spec.hidden)
            steps.append(
                transforms.PiecewiseRationalQuadraticCouplingTransform(mask, net, **splines)
                if spec.univariate == "spline"
                else transforms.AffineCouplingTransform(mask, net)
            )
            continue
        steps.append(transforms.ReversePermutation(spec.features))
        steps.append(
            transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                spec.features, spec.hidden[0], num_blocks=len(spec.hidden) - 1, use_residual_blocks=False, **splines
            )
        )
    flow = Flow(transforms.CompositeTransform(steps), StandardNormal([spec.features]))
    if spec.kind == "autoregressive":
        perturb(flow)
        return flow.eval()
    mapped = spec.features - spec.features // 2
    rows = None if spec.univariate == "spline" else torch.cat([torch.arange(0, 2 * mapped, 2), torch.arange(1, 2 * mapped, 2)])  # shifts, then scales
    for step, layer in zip(steps, layers_of(ours), strict=True):
        put(step.transform_net, layer, rows)
    return flow.eval()


def perturb(module: nn.Module, noise: float = NOISE) -> None:
    """Parameters away from where training starts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
