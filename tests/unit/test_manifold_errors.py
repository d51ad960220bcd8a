"""Bad input to manifolds, their laws, fields, flows and objective: clear errors that name what is wrong (continuous O-7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit.continuous import MLPField, TangentField
from flowkit.core.build import build
from flowkit.core.domain import SO3, Ball, Box, Manifold, Sphere, Torus
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, DataError, DomainError, FlowkitError, ShapeError, UnknownNameError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch
from flowkit.data import SphereEvents
from flowkit.distributions import StandardNormal, VonMisesFisher
from flowkit.flows import RiemannianFlow
from flowkit.numerics.manifold_ode import transport
from flowkit.objectives import RiemannianFlowMatching
from flowkit.plots.sphere import sphere_map


def small(manifold: Manifold | None = None, **options: Any) -> RiemannianFlow:
    return RiemannianFlow(Sphere(2) if manifold is None else manifold, (8,), **{"steps": 4, **options})


ARGUMENTS: dict[str, tuple[Callable[[], Any], type[FlowkitError], str]] = {
    "sphere of no dimension": (lambda: Sphere(0), ConfigError, "expected dim to be an int >= 1; got 0"),
    "torus of half a dimension": (lambda: Torus(1.5), ConfigError, "expected dim to be an int"),  # type: ignore[arg-type]
    "flow on a box": (lambda: small(Box(0.0, 1.0, 2)), ConfigError, "expected a manifold such as Sphere(2)"),  # type: ignore[arg-type]
    "field on a ball": (lambda: TangentField(Ball(1.0, 3)), ConfigError, "expected a manifold such as Sphere(2)"),  # type: ignore[arg-type]
    "field of another shape": (
        lambda: small(field=MLPField(2, (8,))),
        ShapeError,
        r"expected a field of event shape \(3,\), that of Sphere\(dim=2\); got \(2,\)",
    ),
    "field of another manifold": (
        lambda: small(Torus(3), field=TangentField(Sphere(2))),
        ConfigError,
        r"expected a field on Torus\(dim=3\); got one on Sphere",
    ),
    "field without the context": (lambda: small(field=MLPField(3, (8,)), classes=3), ConfigError, "expected a field with a context of 16 numbers"),
    "base off the manifold": (lambda: small(base=StandardNormal((3,))), ConfigError, r"expected a base on Sphere\(dim=2\); got StandardNormal"),
    "unknown solver": (lambda: small(solver="rk5"), UnknownNameError, "no method is called 'rk5'.*rk4"),
    "error control without an estimate": (lambda: small(steps=None), ConfigError, "'rk4' has no error estimate: give steps="),
    "no steps": (lambda: small(steps=0), ConfigError, "expected steps to be an int >= 1; got 0"),
    "no tolerance": (lambda: small(solver="dopri5", steps=None, rtol=0.0), ConfigError, "expected rtol to be a finite number > 0"),
    "negative octaves": (lambda: small(octaves=-1), ConfigError, "expected octaves to be an int >= 0"),
    "unknown option of the solver": (lambda: small().with_solver(order=4), ConfigError, "expected some of solver, steps, rtol, atol; got 'order'"),
    "unknown pairing": (lambda: RiemannianFlowMatching("sinkhorn"), ConfigError, "expected pairing to be one of independent, ot; got 'sinkhorn'"),  # type: ignore[arg-type]
    "vMF without a direction": (lambda: VonMisesFisher(2, mean=torch.zeros(3)), ConfigError, "not all 0"),
    "vMF of no concentration": (lambda: VonMisesFisher(2, concentration=0.0), ConfigError, "expected concentration to be finite and > 0"),
    "warm uniform base": (lambda: small().sample(3, temperature=0.5), ConfigError, "has no temperature; got 0.5"),
    "events of no size": (lambda: SphereEvents(train_size=0), ConfigError, "expected train_size to be an int >= 1"),
    "map of a plane": (lambda: sphere_map(small(Torus(2))), ShapeError, r"event shape \(3,\), directions in space; got \(2,\)"),
}


@pytest.mark.parametrize("case", ARGUMENTS, ids=lambda name: name.replace(" ", "_"))
def test_arguments(case: str) -> None:
    call, kind, words = ARGUMENTS[case]
    with pytest.raises(kind, match=words.replace("(2)", r"\(2\)") if "\\" not in words else words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), SO3()], ids=repr)
def test_data_off_the_manifold(manifold: Manifold) -> None:
    """DomainError with the number of events and the remedy, from fit's objective, to_latent and endpoint; log_prob is -inf."""
    flow = small(manifold)
    x = manifold.uniform(10, torch.Generator().manual_seed(0))
    x[2], x[7] = 5 * x[2] + 5, -4 * x[7].abs() - 4
    calls = (lambda: RiemannianFlowMatching().loss(flow, Batch(x)), lambda: flow.endpoint(x), lambda: flow.to_latent(x))
    for call in calls:
        with pytest.raises(DomainError, match=r"2 of 10 off it\. Put them there with .*\.project\(x\)") as caught:
            call()
        assert repr(manifold) in str(caught.value)
    assert torch.isneginf(flow.log_prob(x)).nonzero().flatten().tolist() == [2, 7]
    flow.endpoint(manifold.project(x))


def test_fit_refuses_data_off_the_manifold() -> None:
    with pytest.raises(DataError, match=r"64 of 64 rows lie outside the flow's support Sphere\(dim=2\)"):
        fk.fit(small(), torch.randn(64, 3), RiemannianFlowMatching(), max_steps=1, progress=False)


def test_not_a_number() -> None:
    for manifold in (Sphere(2), Torus(2), SO3()):
        x = manifold.uniform(4, torch.Generator().manual_seed(0))
        x[1] = torch.nan
        assert manifold.contains(x).tolist() == [True, False, True, True]
        flow = small(manifold)
        assert torch.isneginf(flow.log_prob(x)).tolist() == [False, True, False, False]


def test_objective_refuses_other_models() -> None:
    x = Sphere(2).uniform(8)
    with pytest.raises(ConfigError, match=r"expected a continuous flow.*RiemannianFlow"):
        RiemannianFlowMatching().loss(nn.Linear(2, 2), Batch(x))
    with pytest.raises(ConfigError, match="expected a batch of data; got none"):
        RiemannianFlowMatching().loss(small(), Batch(size=8))
    flat = build({"name": "continuous_flow", "features": 2, "hidden": [8, 8]}, Flow)
    with pytest.raises(ConfigError, match=r"expected a flow on a manifold.*Use FlowMatching there"):
        RiemannianFlowMatching().loss(flat, Batch(x[:, :2]))


def test_velocity_of_another_shape() -> None:
    with pytest.raises(ShapeError, match=r"expected the velocity to have the shape of the points, \(5, 3\); got \(5, 2\)"):
        transport(lambda t, x: x[:, :2], Sphere(2), Sphere(2).uniform(5), log_det=False)


def test_seam_of_the_torus() -> None:
    """pi is written -pi; wrapping never returns pi, next to the seam, many turns away, and in single precision."""
    torus = Torus(1)
    for dtype in (torch.float64, torch.float32):
        turns = 2 * math.pi * torch.arange(-50, 51, dtype=dtype)
        ends = torch.cat([turns + math.pi, turns - math.pi, torch.nextafter(turns + math.pi, turns * 0), torch.full((1,), -math.pi - 4e-16, dtype=dtype)])
        assert bool(torus.contains(torus.project(ends.unsqueeze(1))).all())
    assert not bool(torus.contains(torch.tensor([math.pi], dtype=torch.float64)))
    assert bool(torus.contains(torch.tensor([-math.pi], dtype=torch.float64)))


def test_zero_vector_has_a_place() -> None:
    """The centre has no nearest point of the sphere: project gives the pole, and gradients stay finite."""
    x = torch.zeros(2, 3, requires_grad=True)
    found = Sphere(2).project(x)
    assert bool(Sphere(2).contains(found).all())
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert bool(torch.isfinite(gradient).all())


def test_reflections_become_rotations() -> None:
    """Matrices of negative determinant, singular ones and zero all have a nearest rotation."""
    singular: Tensor = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    for x in (-torch.eye(3), torch.diag(torch.tensor([1.0, 1.0, -1.0])), singular, torch.zeros(3, 3)):
        assert bool(SO3().contains(SO3().project(x)))
    assert not bool(SO3().contains(-torch.eye(3)))


def test_manifolds_are_domains() -> None:
    for name, expected in (("sphere", Sphere), ("torus", Torus), ("so3", SO3)):
        made = build({"name": name}, Domain)
        assert isinstance(made, expected) and isinstance(made, Manifold) and made.support_map() is None
