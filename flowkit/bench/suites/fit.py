"""A small fit to early stop, with all that it compiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.bench.contender import Contender
from flowkit.bench.fits import FitJob
from flowkit.bench.models import FlowSpec
from flowkit.bench.peers.peer import present
from flowkit.bench.report import Case
from flowkit.bench.session import Session
from flowkit.bench.suites.suite import Suite

POINTS, TEST, FEATURES, HELD_OUT = 5_000, 10_000, 16, 0.1
ROUNDS = 3


class SmallFit(Suite):
    """What a sampler does all day."""

    name, title, devices = "fit", "A small fit to early stop", ("cpu",)
    about = (
        "Wall time from data to the best weights. Building the flow and compiling are included; importing is not, nor are our C++ kernels, which a wheel "
        "carries built. All start from the same weights and see the same rows to train on and to stop by, those that flowjax's fit_to_data chooses; the "
        "order of the batches is each library's own. Adam (torch's fused one for all in torch), constant learning rate. In a round "
        "everybody makes one whole fit."
    )

    def cases(self, session: Session) -> Iterator[Case]:
        quick = session.setting.quick
        spec = FlowSpec(features=4, layers=2, hidden=(8, 8), bins=4) if quick else FlowSpec(features=FEATURES, hidden=(64, 64))
        x, test = chain(300 if quick else POINTS, spec.features, 1), chain(300 if quick else TEST, spec.features, 2)
        peers = present(session)
        train, held_out = split(x, session, any(peer.name == "flowjax" for peer in peers))
        job = FitJob(spec, x, train, held_out, test, batch=30 if quick else 250, epochs=2 if quick else 100)
        rivals: list[Contender] = [job.ours("flowkit.fit")]
        if not quick:
            rivals.append(job.ours("flowkit.fit, compile=True", compile=True))
        rivals += [contender for peer in peers for contender in peer.fits(job, session)]
        about = f"{spec.describe()}; {len(train):,} points to train on, {len(held_out)} to stop by"
        note = f"Batch {job.batch}, learning rate {job.lr:g}, at most {job.epochs} epochs; {job.patience + 1} epochs without a better loss end the fit."
        yield session.compare(about, rivals, ROUNDS, notes=[note], single=True)


def chain(count: int, features: int, seed: int) -> Tensor:
    """Each coordinate swings with the one before: x_0 normal, x_i = sin(2 x_(i-1)) + 0.4 e_i; brought to unit variance, roughly."""
    noise = torch.randn(count, features, generator=torch.Generator().manual_seed(seed))
    columns = [noise[:, 0]]
    for number in range(1, features):
        columns.append((torch.sin(2 * columns[-1]) + 0.4 * noise[:, number]) / 0.8)
    return torch.stack(columns, dim=-1)


def split(x: Tensor, session: Session, jax: bool) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to stop by: flowjax's own choice where it takes part."""
    if not jax:
        held = round(HELD_OUT * len(x))
        return x[held:], x[:held]
    _, found = session.jax.ask("fit", {"x": x.numpy()}, split=True, seed=0, share=HELD_OUT)
    return torch.from_numpy(found["train"].copy()), torch.from_numpy(found["held_out"].copy())
