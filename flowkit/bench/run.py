"""Run a suite by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch._inductor.utils import fresh_cache

from flowkit.bench.circumstances import circumstances
from flowkit.bench.report import Case, Curve, Report
from flowkit.bench.session import Session
from flowkit.bench.setting import Setting
from flowkit.bench.suites import SUITES, Suite
from flowkit.core.errors import ConfigError, UnknownNameError, nearest


def run(
    name: str,
    setting: Setting,
    *,
    command: str = "",
    watch: Callable[[str], None] = lambda stage: None,
    done: Callable[[Case | Curve], None] = lambda part: None,
) -> Report:
    """Run a suite.

    Args:
        name: of the suite.
        setting: device, threads, rounds, sizes.
        command: that the report should name.
        watch: told what is going on.
        done: given every case or curve when it is measured.

    Raises:
        UnknownNameError: no suite or op is called so.
        ConfigError: the suite does not run on the device.
    """
    suite = suite_named(name)
    if setting.device not in suite.devices:
        able = " or ".join(suite.devices)
        raise ConfigError(f"bench: expected {able} as the device of suite '{name}'; got {setting.device}. Use --device {suite.devices[0]}.")
    report = Report(name, suite.about, circumstances(setting, command))
    session = Session(setting, watch)
    with threads(setting.threads or 1), fresh_cache():  # what earlier runs compiled must not help, nor what they left broken
        try:
            for case in suite.cases(session):
                report.cases.append(case)
                done(case)
            for curve in suite.curves(session):
                report.curves.append(curve)
                done(curve)
        finally:
            session.close()
    report.skipped = session.skipped
    return report


def suite_named(name: str) -> Suite:
    """The suite of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in SUITES:
        raise UnknownNameError(f"bench: no suite named '{name}'. {nearest(name, SUITES)} There are: {', '.join(sorted(SUITES))}")
    return SUITES[name]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
