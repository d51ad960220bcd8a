"""The conformance suite of objectives."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build, describe
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import registered_name
from flowkit.testing._case import Case
from flowkit.testing._compare import close, expect, finite
from flowkit.testing._suite import CheckReport, register
from flowkit.testing._suites import OBJECTIVE
from flowkit.testing._transform_state import plain_tensors

Problem = tuple[Objective, nn.Module, Batch]


def check_objective(
    objective: Objective, model: nn.Module, batch: Batch, *, only: str | Iterable[str] | None = None, case: Case | None = None
) -> CheckReport:
    """Run every check of an objective on a toy problem.

    Args:
        objective: the objective to judge.
        model: a small model it accepts; copies are trained.
        batch: what a step works on.
        only: names of checks to run, default all that apply.
        case: seed of the draws.

    Raises:
        ConformanceError: some checks failed; the message has a line for each.
    """
    return OBJECTIVE.run_all((objective, model, batch), only, case)


def copies(problem: Problem) -> Problem:
    objective, model, batch = problem
    objective, model = copy.deepcopy((objective, model))
    return objective, model, batch


def loss_of(problem: Problem, seed: int, phase: str = "main") -> Loss:
    objective, model, batch = problem
    return objective.loss(model, batch, torch.Generator().manual_seed(seed), phase=phase)


def first_phase(problem: Problem) -> str:
    return problem[0].phases(problem[1])[0].name


@register(OBJECTIVE)
def finite_scalar(problem: Problem, case: Case) -> None:
    """Every phase's loss is a finite scalar with a graph; its terms are finite and detached."""
    for phase in problem[0].phases(problem[1]):
        loss = loss_of(problem, case.seed, phase.name)
        expect(isinstance(loss, Loss), f"loss returns a {type(loss).__name__}, not Loss")
        expect(loss.value.dim() == 0, f"loss value has shape {tuple(loss.value.shape)}")
        finite(loss.value, f"loss of phase '{phase.name}'")
        expect(loss.value.requires_grad, f"loss of phase '{phase.name}' has no graph")
        for name, term in loss.terms.items():
            finite(torch.as_tensor(term), f"term '{name}'")
            expect(not torch.as_tensor(term).requires_grad, f"term '{name}' carries a graph; detach it")


@register(OBJECTIVE)
def reproducible(problem: Problem, case: Case) -> None:
    """The same generator gives the same loss, and the global generator is left alone."""
    state = torch.get_rng_state()
    phase = first_phase(problem)
    first, second = (loss_of(copies(problem), case.seed + 1, phase).value.item() for _ in range(2))
    expect(first == second, f"two losses with equal generators differ: {first} and {second}")
    expect(torch.equal(state, torch.get_rng_state()), "loss with a generator moves the global one")


@register(OBJECTIVE)
def gradients_reach(problem: Problem, case: Case) -> None:
    """Over the phases and a few draws, a finite gradient that is not zero reaches every trainable parameter of the model."""
    objective, model, batch = copies(problem)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the identity, where parts of a net see no gradient
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=case.generator(5)).to(parameter))
    reached: dict[str, bool] = {name: False for name, parameter in model.named_parameters() if parameter.requires_grad}
    for phase in objective.phases(model):
        expect(bool(phase.parameters), f"phase '{phase.name}' has no parameters")
        for seed in range(3):
            model.zero_grad(set_to_none=True)
            loss_of((objective, model, batch), seed, phase.name).value.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    finite(parameter.grad, f"phase '{phase.name}', gradient of {name}")
                    reached[name] = reached.get(name, False) or bool((parameter.grad != 0).any())
    dead = [name for name, found in reached.items() if not found]
    expect(not dead, f"no gradient reaches {', '.join(dead)}")
    trained = {id(parameter) for phase in objective.phases(model) for parameter in phase.parameters}
    named = (*model.named_parameters(), *objective.named_parameters())
    forgotten = [name for name, parameter in named if parameter.requires_grad and id(parameter) not in trained]
    expect(not forgotten, f"no phase trains {', '.join(forgotten)}")


@register(OBJECTIVE)
def ten_steps_lower(problem: Problem, case: Case) -> None:
    """Ten optimiser steps of every phase lower the loss, averaged over the same eight draws."""
    objective, model, batch = copies(problem)
    phases = objective.phases(model)
    optimisers = [torch.optim.Adam(phase.parameters, lr=5e-3 * phase.lr_scale) for phase in phases]

    def level() -> float:
        losses = [loss_of((objective, model, batch), 100 + seed, phases[0].name).value.item() for seed in range(8)]
        return sum(losses) / len(losses)

    before = level()
    for step in range(10):
        for phase, optimiser in zip(phases, optimisers, strict=True):
            if step % phase.every == 0:
                optimiser.zero_grad(set_to_none=True)
                loss_of((objective, model, batch), step, phase.name).value.backward()
                optimiser.step()
        objective.on_step_end(model, step)
    after = level()
    expect(after < before, f"ten steps took the loss from {before:.6g} to {after:.6g}")


@register(OBJECTIVE)
def constants_and_batch(problem: Problem, case: Case) -> None:
    """The objective keeps its constants as buffers and leaves the batch as it was."""
    objective, model, batch = copies(problem)
    found = [path for module in objective.modules() for path in plain_tensors(module)]
    expect(not found, f"plain tensor attributes {', '.join(found)}; register them as buffers")
    before = {item.name: copy.deepcopy(getattr(batch, item.name)) for item in dataclasses.fields(batch)}
    loss_of((objective, model, batch), case.seed, first_phase(problem))
    for name, value in before.items():
        now = getattr(batch, name)
        expect(not isinstance(value, Tensor) or torch.equal(value, now), f"loss changed batch.{name}")


def _describable(problem: Any) -> bool:
    return registered_name(type(problem[0])) is not None


@register(OBJECTIVE, applies=_describable)
def describe_build(problem: Problem, case: Case) -> None:
    """build(describe(objective)) is the same objective."""
    objective, model, batch = copies(problem)
    weights: dict[str, Tensor] = {}
    written = describe(objective, weights)
    made: Any = build(written, type(objective), weights=weights)
    expect(describe(made, {}) == written, f"build(describe(objective)) describes itself as {describe(made, {})}")
    made.load_state_dict(objective.state_dict())
    phase = first_phase(problem)
    close(loss_of((made, model, batch), 3, phase).value, loss_of((objective, model, batch), 3, phase).value, 1e-6, "loss after build(describe(objective))")
