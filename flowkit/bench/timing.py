"""Clocks, and rounds in which all contenders take turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Timer = Callable[[int], list[float]]
ENOUGH, MOST = 0.03, 25  # seconds of one contender in one round, and calls
LONG = 2.0  # seconds: a call that takes longer is warm after the first
BUDGET, LEAST = 20.0, 5  # seconds for the rounds of one comparison; and how many rounds are taken however long they take
IDLE = 0.85  # share of the machine that has to be free just before a round


def timer(call: Callable[[], Any], device: str) -> Timer:
    """Seconds of calls: the wall's clock on a CPU, events of the stream on a GPU."""

    def on_cpu(repeats: int) -> list[float]:
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        return found

    def on_gpu(repeats: int) -> list[float]:
        torch.cuda.synchronize()
        found = []
        for _ in range(repeats):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            found.append(start.elapsed_time(end) / 1e3)
        return found

    return on_gpu if device == "cuda" else on_cpu


@dataclass
class Race:
    """Seconds by round, and how free the machine was.

    Args:
        times: of every contender, one number a round.
        idle: share of the machine that was free just before every round.
        kept: the rounds that count.
    """

    times: dict[str, list[float]]
    idle: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def of(self, name: str) -> list[float]:
        """Seconds of a contender in the rounds that count."""
        return [self.times[name][number] for number in self.kept]


def race(
    timers: Mapping[str, Timer],
    rounds: int,
    *,
    warmups: int = 3,
    warm: Mapping[str, float] | None = None,
    watch: Callable[[str], None] = lambda stage: None,
    single: bool = False,
) -> Race:
    """Time all contenders by turns, in rotated order, so that what else the machine does falls on all alike.

    A contender's number in a round is the median of as many calls as fit in 30 ms. Where at least half of the rounds found the
    machine idle, those are kept, else the idlest half.

    Args:
        timers: of the contenders.
        rounds: at most; fewer where all of them would take more than 20 s, but five.
        warmups: calls before the first round.
        warm: seconds of a call of those that need none.
        watch: told what is going on.
        single: one call a round, and no warm-up: the job includes its compilation.
    """
    if not timers:
        return Race({})
    found, repeats, each = Race({name: [] for name in timers}), dict.fromkeys(timers, 1), 0.0
    for name, take in timers.items():
        if single:
            continue
        watch(f"{name}, warming up")
        last = warmed(take, warmups) if warm is None or name not in warm else warm[name]
        repeats[name] = max(1, min(MOST, math.ceil(ENOUGH / max(last, 1e-9))))
        each += repeats[name] * last
    if not single:
        rounds = min(rounds, max(LEAST, int(BUDGET / max(each, 1e-9))))
    names = list(timers)
    for number in range(rounds):
        watch(f"round {number + 1} of {rounds}")
        found.idle.append(free_share())
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found.times[name].append(statistics.median(timers[name](repeats[name])))
    found.kept = kept(found.idle)
    return found


def warmed(take: Timer, warmups: int) -> float:
    """Seconds of the last of the calls before the first round; a long one is not repeated."""
    last = take(1)[0]
    for _ in range(warmups if last < LONG else 0):
        last = take(1)[0]
    return last


def kept(idle: list[float]) -> list[int]:
    """Rounds that found the machine idle; the idlest half where those are fewer."""
    quiet = [number for number, share in enumerate(idle) if share >= IDLE]
    half = max(1, (len(idle) + 1) // 2)
    return quiet if len(quiet) >= half else sorted(sorted(range(len(idle)), key=lambda number: -idle[number])[:half])


def free_share(seconds: float = 0.1) -> float:
    """Share of the machine that is free while this process waits; 1 where the system does not tell."""
    before = _processor_time()
    time.sleep(seconds)
    after = _processor_time()
    return (after[0] - before[0]) / (after[1] - before[1]) if after[1] > before[1] else 1.0


def _processor_time() -> tuple[float, float]:
    """Idle and total processor time so far."""
    try:
        numbers = [float(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0, 0.0
    return numbers[3] + numbers[4], sum(numbers[:8])
