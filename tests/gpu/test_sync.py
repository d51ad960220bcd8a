"""No call of a recipe waits for its device, but inverses that iterate until they are exact.

On a GPU torch's own sync debug mode judges. Elsewhere a dispatch mode refuses the operators that would make a GPU wait, with value
checks off as they are on accelerators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import flowkit as fk
from flowkit.core.layers import layers
from flowkit.core.registry import FLOWS
from flowkit.training.loss_module import LossModule

WAITING = (
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "unique_consecutive", "bincount",
    "repeat_interleave", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig",
)  # fmt: skip
COPIED = ("lift_fresh",)  # torch.tensor(...) in a call: a copy from pageable memory, which a GPU waits for
SOLVED = {"_local_scalar_dense", "lift_fresh"}
# recipes that wait, and for what: spectral norms of weights and the number of terms of a series, drawn where its generator is; whether a
# solver's rows have arrived, and its grid of times; which tokens jump
KNOWN = {
    "residual_flow": {"_linalg_svd", "_local_scalar_dense"},
    "continuous_flow": SOLVED,
    "average_velocity_flow": SOLVED,
    "interpolant_flow": SOLVED,
    "reflected_flow": SOLVED,
    "riemannian_flow": {*SOLVED, "nonzero"},
    "discrete_flow": {*SOLVED, "nonzero", "index"},
}
CASES = [pytest.param(name, label, id=f"{name}-{label}") for name in FLOWS for label, _ in FLOWS[name].examples()]
CALLS = ("log_prob", "loss", "to_latent", "sample", "sample_and_log_prob")


class Refusing(TorchDispatchMode):
    """Collects the operators for whose result a program on a GPU waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masked = name in ("index", "index_put", "index_put_", "_unsafe_index") and any(part is not None and part.dtype == torch.bool for part in args[1])
        if name in WAITING or name in COPIED or masked:
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def prepared(name: str, label: str, device: str) -> tuple[Any, Tensor, Any]:
    """A recipe with rows and contexts on a device."""
    torch.manual_seed(0)
    flow = dict(FLOWS[name].examples())[label].to(device)
    context = None
    if flow.context_shape is not None:
        context = torch.tensor([0, 1, -1, 0, 1, 0]) if flow.context_shape == () else torch.randn(6, *flow.context_shape)
        context = context.to(device)
    return flow, flow.sample((6,) if context is None else (), context).detach(), context


def calls(flow: Any, x: Tensor, context: Any) -> dict[str, Callable[[], Any]]:
    """The calls judged, by name."""
    module = LossModule(flow, fk.objectives.MaximumLikelihood())
    shape = (6,) if context is None else ()

    def loss() -> None:
        value, _ = module(x, context, len(x), None, {}, None, "main")
        value.backward()

    return {
        "log_prob": lambda: flow.log_prob(x, context),
        "loss": loss,
        "to_latent": lambda: flow.to_latent(x, context),
        "sample": lambda: flow.sample(shape, context),
        "sample_and_log_prob": lambda: flow.sample_and_log_prob(shape, context),
    }


def iterates(flow: Any, call: str) -> bool:
    """Whether a map of the flow looks for its inverse in that call."""
    inverts = call in ("log_prob", "loss", "to_latent")

    def turned(step: Any) -> bool:
        return type(step).__name__.startswith("Inverse")

    def looks(step: Any) -> bool:
        return step.traits.inverse == "iterative" and inverts != turned(step)

    return any(looks(step) for _, step in layers(flow))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("name", "label"), CASES)
def test_nothing_asks_for_a_value(name: str, label: str, call: str) -> None:
    flow, x, context = prepared(name, label, "cpu")
    if iterates(flow, call):
        pytest.skip("iterates until every value is found")
    with fk.checks(values=False), Refusing() as refusing:
        calls(flow, x, context)[call]()
    waits = refusing.found - KNOWN.get(name, set())
    assert not waits, f"{call} of {name} waits: {sorted(waits)}"


def test_the_judge_sees_what_waits() -> None:
    x = torch.randn(3)
    waiting: dict[str, Callable[[], Any]] = {
        "_local_scalar_dense": lambda: bool(x.sum() > 0), "nonzero": lambda: x.nonzero(), "index": lambda: x[x > 0], "lift_fresh": lambda: torch.tensor(1.0),
        "_linalg_check_errors": lambda: torch.linalg.inv(torch.eye(2)),
    }  # fmt: skip
    for name, call in waiting.items():
        with Refusing() as refusing:
            call()
        assert name in refusing.found, f"{name}: found {refusing.found}"


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Within, CUDA raises on every operation that makes the host wait."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("name", "label"), CASES)
def test_no_call_waits_for_the_gpu(name: str, label: str, call: str, compiled: bool) -> None:
    flow, x, context = prepared(name, label, "cuda")
    if iterates(flow, call):
        pytest.skip("iterates until every value is found")
    if name in KNOWN:
        pytest.skip(f"known to wait: {sorted(KNOWN[name])}")
    judged = calls(fk.compile(flow) if compiled else flow, x, context)[call]
    for _ in range(2):  # libraries, kernels and compiled programs start up
        judged()
    with waiting_refused():
        judged()
