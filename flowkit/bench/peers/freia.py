"""FrEIA."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.bench.flow_models import Data, FlowModel, TorchModel
from flowkit.bench.models import FlowSpec, layers_of, make_flow, perceptron, put
from flowkit.bench.peers.peer import Peer
from flowkit.bench.session import Session

BOUND = 5.0  # of our log-scales


class Freia(Peer):
    """Its coupling block maps one half and then the other: two of our layers, with the scale clamped as ours is."""

    name, packages = "FrEIA", ("FrEIA",)

    def flows(self, spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
        if (spec.kind, spec.univariate) != ("coupling", "affine") or spec.features % 2 or spec.layers % 2:
            return
        from FrEIA.framework import SequenceINN
        from FrEIA.modules import GLOWCouplingBlock

        twin = make_flow(spec, high_first=False)
        half = spec.features // 2
        inn = SequenceINN(spec.features)
        for _ in range(spec.layers // 2):
            inn.append(
                GLOWCouplingBlock, subnet_constructor=lambda inputs, outputs: perceptron([inputs, *spec.hidden, outputs]),
                clamp=BOUND, clamp_activation=lambda u: torch.tanh(u / BOUND),
            )  # fmt: skip
        rows = torch.cat([torch.arange(1, 2 * half, 2), torch.arange(0, 2 * half, 2)])  # all scales, then all shifts
        nets = [net for block in inn.module_list for net in (block.subnet2, block.subnet1)]
        for net, layer in zip(nets, layers_of(twin), strict=True):
            put(net, layer, rows)
        inn.to(data.x.device)
        base = torch.distributions.Normal(torch.zeros((), device=data.x.device), torch.ones((), device=data.x.device), validate_args=False)

        def log_prob(x: Tensor) -> Tensor:
            z, log_det = inn(x)
            return base.log_prob(z).sum(-1) + log_det

        def generate(z: Tensor) -> Tensor:
            return inn(z, rev=True)[0]  # type: ignore[no-any-return]

        yield TorchModel(
            "FrEIA", "eager", inn, log_prob, lambda count: generate(torch.randn(count, spec.features, device=data.x.device)),
            generate, lambda x: inn(x)[0], twin.to(data.x.device), session, note="base density added by hand",
        )  # fmt: skip
