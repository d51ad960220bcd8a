"""The process that runs JAX: reads requests from standard input, answers on standard output. Run by ``JaxProcess``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from flowkit.bench.jax_side.wire import Arrays, receive, send

Answer = tuple[dict[str, Any], Arrays]


class Worker:
    """Keeps jobs by number: functions without arguments whose results can be waited for."""

    def __init__(self) -> None:
        self.jobs: dict[int, Callable[[], Any]] = {}
        self.number = 0

    def keep(self, jobs: dict[str, Callable[[], Any]]) -> dict[str, int]:
        """The numbers by which jobs are called."""
        numbers = {name: self.number + place for place, name in enumerate(jobs, 1)}
        self.number += len(jobs)
        self.jobs.update({numbers[name]: job for name, job in jobs.items()})
        return numbers

    def answer(self, head: dict[str, Any], arrays: Arrays) -> Answer:
        """Do what is asked for."""
        import jax

        if head["do"] == "time":
            job, seconds = self.jobs[head["job"]], []
            for _ in range(head["repeats"]):
                start = time.perf_counter()
                jax.block_until_ready(job())
                seconds.append(time.perf_counter() - start)
            return {"seconds": seconds}, {}
        if head["do"] == "forget":
            self.jobs.pop(head["job"], None)
            return {}, {}
        if head["do"] == "values":
            return {}, self.jobs[head["job"]]()
        if head["do"] == "fit":
            from flowkit.bench.jax_side.fit import fit

            return fit(head, arrays)
        if head["do"] == "spline":
            from flowkit.bench.jax_side.spline import spline

            return {"jobs": self.keep(spline(head, arrays))}, {}
        if head["do"] == "ode":
            from flowkit.bench.jax_side.ode import ode

            return {"jobs": self.keep(ode(head, arrays))}, {}
        if head["do"] == "flow":
            from flowkit.bench.jax_side.flows import flow

            jobs, facts = flow(head, arrays)
            return {**facts, "jobs": self.keep(jobs)}, {}
        return {"devices": [str(device) for device in jax.devices()]}, {}


def main() -> None:
    """Answer until the requests end."""
    threads = int(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):  # XLA makes a pool of as many threads as it may use processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what JAX prints must not be taken for an answer
    worker = Worker()
    while (request := receive(sys.stdin.buffer)) is not None:
        try:
            head, arrays = worker.answer(*request)
        except Exception as error:  # told to the other side
            head, arrays = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}, {}
        send(replies, head, arrays)


if __name__ == "__main__":
    main()
