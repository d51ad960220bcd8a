"""Molecular dynamics with OpenMM: Langevin trajectories and replica exchange in temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import FlowkitError, NonFiniteError
from flowkit.targets._openmm import GAS_CONSTANT, check_platform, require

Array = NDArray[np.float64]
Advance = Callable[[int], Any]


class Plan(NamedTuple):
    """How to integrate.

    Args:
        steps: time steps that are recorded from; warm_up: before those; stride: between two frames.
        time_step: in femtoseconds; friction: in 1 / picosecond.
        exchange_every: steps between attempts to exchange neighbouring temperatures.
        seed: of velocities, noise and exchanges.
    """

    steps: int
    warm_up: int
    stride: int
    time_step: float
    friction: float
    exchange_every: int
    seed: int


class Replica:
    """One trajectory of the Langevin equation, by the middle scheme.

    Args:
        system: an openmm.System as XML, or one; platform: an OpenMM platform; temperature: in kelvin; start: (N, 3) in nm.
        plan: how to integrate; seed: of this trajectory.
    """

    def __init__(self, system: Any, platform: str, temperature: float, start: Array, plan: Plan, seed: int, who: str) -> None:
        openmm = require(who)
        check_platform(openmm, platform, who)
        unit = openmm.unit
        self.integrator = openmm.LangevinMiddleIntegrator(temperature * unit.kelvin, plan.friction / unit.picosecond, plan.time_step * unit.femtosecond)
        self.integrator.setRandomNumberSeed(seed + 1)  # 0 would ask for a random one
        options = {"Threads": "1"} if platform == "CPU" else {}
        made = openmm.XmlSerializer.deserialize(system) if isinstance(system, str) else system
        self.context = openmm.Context(made, self.integrator, openmm.Platform.getPlatformByName(platform), options)
        self.context.setPositions(start)
        openmm.LocalEnergyMinimizer.minimize(self.context, 10.0, 0)
        self.context.setVelocitiesToTemperature(temperature * unit.kelvin, seed + 1)
        self.temperature, self.who = temperature, who

    def run(self, steps: int) -> None:
        """Integrate.

        Raises:
            NonFiniteError: the trajectory blew up.
        """
        try:
            self.integrator.step(steps)
        except require(self.who).OpenMMException as error:
            raise NonFiniteError(f"{self.who}: the trajectory at {self.temperature:g} K blew up ({error}). Use a smaller time_step.") from None

    def positions(self) -> Array:
        """(N, 3) in nm."""
        found: Array = self.context.getState(getPositions=True).getPositions(asNumpy=True)._value
        if not np.isfinite(found).all():
            raise NonFiniteError(f"{self.who}: the trajectory at {self.temperature:g} K blew up. Use a smaller time_step.")
        return found

    def energy(self) -> float:
        """In kJ/mol."""
        return float(self.context.getState(getEnergy=True).getPotentialEnergy()._value)

    def reheat(self, temperature: float) -> None:
        """Go on at another temperature, velocities scaled."""
        velocities = self.context.getState(getVelocities=True).getVelocities(asNumpy=True)._value
        self.context.setVelocities(velocities * np.sqrt(temperature / self.temperature))
        self.integrator.setTemperature(temperature)
        self.temperature = temperature


def trajectory(system: str, platform: str, temperatures: Sequence[float], start: Array, plan: Plan, advance: Advance, who: str) -> Array:
    """Structures at the first temperature: (steps // stride, N, 3) in nm.

    With several temperatures neighbours try to exchange, accepted with min(1, exp((b_i - b_j) (U_i - U_j))), b = 1 / kT; the trajectories stay and
    the temperatures move. Pairs (0, 1), (2, 3) ... and (1, 2), (3, 4) ... take turns.

    Args:
        start: (N, 3), or (R, N, 3) to be shared out.
        advance: told of steps done, of one replica.
    """
    starts = start.reshape(-1, *start.shape[-2:])
    replicas = [Replica(system, platform, t, starts[i % len(starts)], plan, plan.seed + 1000 * i, who) for i, t in enumerate(temperatures)]
    rng = np.random.default_rng(plan.seed)
    kept: list[Array] = []
    for stage, steps in (("warm up", plan.warm_up), ("record", plan.steps)):
        done = turn = 0
        while done < steps:
            # to the next frame or the next attempt, whichever is first
            ends = [plan.stride - done % plan.stride, steps - done]
            if len(replicas) > 1:
                ends.append(plan.exchange_every - done % plan.exchange_every)
            part = min(ends)
            for replica in replicas:
                replica.run(part)
            done += part
            if stage == "record" and done % plan.stride == 0:
                kept.append(replicas[0].positions())
            if len(replicas) > 1 and done % plan.exchange_every == 0:
                _exchange(replicas, turn % 2, rng)
                turn += 1
            advance(part)
    if not kept:
        raise FlowkitError(f"{who}: expected steps of at least one stride; got {plan.steps} steps and a stride of {plan.stride}.")
    return np.stack(kept)


def _exchange(replicas: list[Replica], first: int, rng: np.random.Generator) -> None:
    """Neighbours in temperature try to change places; the list stays in order of temperature."""
    for i in range(first, len(replicas) - 1, 2):
        cold, warm = replicas[i], replicas[i + 1]
        gap = 1 / (GAS_CONSTANT * cold.temperature) - 1 / (GAS_CONSTANT * warm.temperature)
        if np.log(1 - rng.random()) < gap * (cold.energy() - warm.energy()):
            low, high = cold.temperature, warm.temperature
            cold.reheat(high)
            warm.reheat(low)
            replicas[i], replicas[i + 1] = warm, cold
