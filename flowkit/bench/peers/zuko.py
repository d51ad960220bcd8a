"""zuko."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.bench.contender import Contender
from flowkit.bench.fits import FitJob
from flowkit.bench.flow_models import Data, FlowModel, TorchModel
from flowkit.bench.models import NOISE, FlowSpec, layers_of, make_flow, put
from flowkit.bench.peers.nflows import perturb
from flowkit.bench.peers.peer import Peer
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob, for_zuko

# torch 2.13's CPU compiler gives wrong gradients of this spline's widths and heights: the gradient of cumsum(pad(softmax(v / (1 + |v|)))) is off by
# a third of its largest entry once rows have eight numbers, in vectorised loops that fuse the reversed sum with what follows. So small fusions are timed
# too, which are right and no slower; the default one has a time wherever it is right.
SMALL_FUSIONS: dict[str, Any] = {"max_fusion_size": 2}


class Zuko(Peer):
    """Its spline takes our bins through the inverse of its squashing; its flows' parameters are read by ``flowkit.interop.zuko``."""

    name, packages = "zuko", ("zuko",)

    def splines(self, job: SplineJob, session: Session) -> Iterator[Contender]:
        from zuko.transforms import MonotonicRQSTransform

        def call(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            y, log_slope = MonotonicRQSTransform(*params.split([job.bins, job.bins, job.bins - 1], dim=-1), bound=job.bound).call_and_ladj(x)
            return y, log_slope

        def prepare(params: Tensor) -> Tensor:
            return for_zuko(params, job.bins, job.floor)

        yield job.contender("zuko", "eager", call, session, prepare=prepare)
        if not session.setting.quick:
            yield job.contender("zuko, torch.compile", "compiled", torch.compile(call, dynamic=False), session, prepare=prepare)
            narrow = torch.compile(call, dynamic=False, options=SMALL_FUSIONS)
            yield job.contender("zuko, torch.compile, small fusions", "compiled", narrow, session, prepare=prepare)

    def flows(self, spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
        from flowkit.interop import zuko as interop

        flow = zuko_flow(spec).to(data.x.device)
        twin = interop.load_parameters(flow)
        yield TorchModel(
            "zuko", "eager", flow, lambda x: flow().log_prob(x), lambda count: flow().sample((count,)),
            lambda z: flow().transform.inv(z), lambda x: flow().transform(x), twin, session,
        )  # fmt: skip

    def fits(self, job: FitJob, session: Session) -> Iterator[Contender]:
        """A plain loop from the same starting weights."""

        def make() -> tuple[Any, Any]:
            flow = zuko_flow(job.spec, noise=0.0).train()
            return flow, lambda x: flow().log_prob(x)

        yield job.in_plain_loop("zuko, plain loop", make)


def zuko_flow(spec: FlowSpec, *, noise: float = NOISE) -> Any:
    """A flow of the given sizes, with our weights in the networks of coupling layers, or its own and noise in autoregressive ones."""
    import zuko

    shapes = [(spec.bins,), (spec.bins,), (spec.bins - 1,)] if spec.univariate == "spline" else [(), ()]
    univariate = _bounded(spec) if spec.univariate == "spline" else zuko.transforms.MonotonicAffineTransform
    keywords = {"univariate": univariate, "shapes": shapes, "hidden_features": spec.hidden}
    steps = []
    for number in range(spec.layers):
        if spec.kind == "coupling":
            given = ~torch.tensor(spec.mask(number))  # zuko's mask says what conditions
            steps.append(zuko.flows.coupling.GeneralCouplingTransform(spec.features, mask=given, **keywords))
        else:
            order = torch.arange(spec.features) if number % 2 == 0 else torch.arange(spec.features).flip(0)
            steps.append(zuko.flows.autoregressive.MaskedAutoregressiveTransform(spec.features, order=order, **keywords))
    base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(spec.features), torch.ones(spec.features), buffer=True)
    flow = zuko.lazy.Flow(steps, base)
    if spec.kind == "coupling":
        for step, layer in zip(steps, layers_of(make_flow(spec, noise=noise)), strict=True):
            put(step.hyper, layer)
    else:
        perturb(flow, noise)
    return flow.eval()


def _bounded(spec: FlowSpec) -> Any:
    """The spline on the spec's interval; zuko's own where that is the default, by which the importer knows it."""
    import functools

    import zuko

    return zuko.transforms.MonotonicRQSTransform if spec.bound == 5.0 else functools.partial(zuko.transforms.MonotonicRQSTransform, bound=spec.bound)
