"""A whole fit, from data to the weights with the lowest validation loss: one protocol for all."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache

from flowkit.bench.contender import Check, Contender
from flowkit.bench.flow_models import adam
from flowkit.bench.models import FlowSpec, flowjax_weights, make_flow, parameters_of
from flowkit.bench.session import Session
from flowkit.training import fit

TOLERANCE = 0.5  # nats between the held-out losses of two fits that are compared
LogProb = Callable[[Tensor], Tensor]


@dataclass
class FitJob:
    """Everybody starts from the same weights and sees the same rows.

    Args:
        spec: the flow.
        x: what is fitted, split into train and held_out as flowjax's ``fit_to_data`` splits it.
        train, held_out, test: rows to train on, to stop by, and to judge by.
        batch, lr, patience, epochs, seed: of all; ``patience`` as flowjax counts it: one epoch more stops.
        losses: held-out losses by contender, one a fit.
    """

    spec: FlowSpec
    x: Tensor
    train: Tensor
    held_out: Tensor
    test: Tensor
    batch: int = 250
    lr: float = 1e-3
    patience: int = 5
    epochs: int = 100
    seed: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of the rows held out to stop by."""
        return len(self.held_out) / len(self.x)

    def contender(self, name: str, group: Any, run: Callable[[], tuple[float, float, int]], parameters: int, note: str = "") -> Contender:
        """A contender.

        Args:
            name, group, parameters, note: as the table shows them.
            run: one fit: its seconds, the loss on the test rows, and its epochs.
        """

        def timer(repeats: int) -> list[float]:
            seconds, loss, epochs = run()
            self.losses.setdefault(name, []).append(loss)
            made.facts.update(test_nll=float(np.mean(self.losses[name])), epochs=epochs)
            return [seconds]

        def check() -> Check:
            mine, best = max(self.losses[name]), min(min(losses) for losses in self.losses.values())
            return Check(mine - best, TOLERANCE, "NLL of the test rows above the lowest, nats")

        made = Contender(name, timer, check, group, parameters, note)
        return made

    def ours(self, name: str, **options: Any) -> Contender:
        """``flowkit.fit``."""

        def run() -> tuple[float, float, int]:
            torch.compiler.reset()
            start = time.perf_counter()
            with fresh_cache():  # what an earlier round left on disk must not help
                flow = make_flow(self.spec, noise=0.0)
                result = fit(
                    flow, self.train, validation=self.held_out, max_epochs=self.epochs, batch_size=self.batch, lr=self.lr, optimizer="adam",
                    schedule="constant", clip=None, patience=self.patience + 1, standardize=False, seed=self.seed, device="cpu", progress=False, **options,
                )  # fmt: skip
            return time.perf_counter() - start, self._loss(flow.log_prob), int(result.history["epoch"][-1])

        return self.contender(name, "ours", run, parameters_of(make_flow(self.spec)))

    def in_plain_loop(self, name: str, make: Callable[[], tuple[nn.Module, LogProb]]) -> Contender:
        """A loop that a user of a library without one writes, with the optimiser that ``flowkit.fit`` has."""

        def run() -> tuple[float, float, int]:
            start = time.perf_counter()
            module, log_prob = make()
            epochs = self._loop(module, log_prob)
            return time.perf_counter() - start, self._loss(log_prob), epochs

        return self.contender(name, "eager", run, parameters_of(make()[0]))

    def _loop(self, module: nn.Module, log_prob: LogProb) -> int:
        """Train, keep the best, stop early; returns the epochs."""
        optimizer = adam(module, self.lr)
        generator = torch.Generator().manual_seed(self.seed)
        best, kept, fruitless = math.inf, copy.deepcopy(module.state_dict()), 0
        epochs = 0
        while epochs < self.epochs and fruitless <= self.patience:
            epochs += 1
            order = torch.randperm(len(self.train), generator=generator)
            for index in order[: len(order) // self.batch * self.batch].split(self.batch):
                optimizer.zero_grad()
                loss = -log_prob(self.train[index]).mean()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                value = -torch.cat([log_prob(part) for part in self.held_out.split(self.batch)]).mean().item()
            if value < best:
                best, kept, fruitless = value, copy.deepcopy(module.state_dict()), 0
            else:
                fruitless += 1
        module.load_state_dict(kept)
        return epochs

    def _loss(self, log_prob: LogProb) -> float:
        with torch.no_grad():
            return -float(log_prob(self.test).mean())

    def in_jax(self, session: Session, floor: float) -> Contender:
        """flowjax's ``fit_to_data``, each time in a process that has compiled nothing."""
        weights = flowjax_weights(make_flow(self.spec, noise=0.0), self.spec)
        head = {**self.spec.__dict__, **self.protocol(), "floor": floor}

        def run() -> tuple[float, float, int]:
            process = session.fresh_jax()
            try:
                answer, _ = process.ask("fit", {"x": self.x.numpy(), "test": self.test.numpy(), **weights}, **head)
            finally:
                process.close()
            return float(answer["seconds"]), float(answer["test"]), int(answer["epochs"])

        count = sum(array.size for array in weights.values())
        return self.contender("flowjax, fit_to_data", "jit", run, count, note="a fresh process each time; its start is not counted")

    def protocol(self) -> dict[str, Any]:
        """The numbers that flowjax is told."""
        return {"seed": self.seed, "share": self.share, "lr": self.lr, "epochs": self.epochs, "patience": self.patience, "batch": self.batch}
