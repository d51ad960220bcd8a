"""Draws from autoregressive flows."""

from __future__ import annotations

from collections.abc import Iterator

from flowkit.bench.flow_models import Data
from flowkit.bench.models import FlowSpec
from flowkit.bench.report import Case
from flowkit.bench.session import Session
from flowkit.bench.suites.density import compared
from flowkit.bench.suites.suite import Suite

DRAWS, ROUNDS = 1024, 10
SIZES = (16, 64)  # features


class Sampling(Suite):
    """Autoregressive flows."""

    name, title = "sampling", "Draws from autoregressive flows"
    about = (
        "Autoregressive neural spline flows of equal masked networks, in order and in reverse by turns, float32. A peer's x at given z is compared with that "
        "of our flow with the same weights, in float64. Beside the time stands the largest error of z -> x -> z in float32."
    )

    def cases(self, session: Session) -> Iterator[Case]:
        for features in SIZES[: 1 if session.setting.quick else None]:
            quick = session.setting.quick
            spec = FlowSpec("autoregressive", features=4, layers=2, hidden=(8, 8), bins=4) if quick else FlowSpec("autoregressive", features=features)
            yield from compared(spec, Data.normal(spec.features, 64, 32 if quick else DRAWS, session.setting.device), ("sample",), ROUNDS, session)
