"""Divergences of velocity fields: exact against autograd, estimates against their laws."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.continuous import ConcatSquashField, GradientField, MLPField, OTPotentialField
from flowkit.core.errors import ConfigError, FlowkitError, UnknownNameError
from flowkit.core.vector_field import VectorField
from flowkit.numerics.divergence import choose, draw_probes, field_and_divergence, velocity_and_divergence, velocity_and_products
from flowkit.numerics.ode import solve

SMOOTH = ("tanh", "softplus", "silu", "gelu", "elu", "selu")
WIDTHS = ((9,), (8, 8), (6, 9), (7, 5, 6))
DOUBLE = torch.float64


def perturbed(field: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    field = field.double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE))
    return field


def places(features: int, rows: int = 7, seed: int = 1) -> Tensor:
    return 2 * torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def jacobian(field: Any, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
    """dv/dx of every row by reverse mode, one row at a time: (B, d, d)."""
    rows = []
    for i, point in enumerate(x):
        single = None if context is None else context[i]
        at = t if t.dim() == 0 else t[i]
        rows.append(torch.autograd.functional.jacobian(lambda y, at=at, single=single: field.velocity(at, y, single), point))
    return torch.stack(rows)


def times(rows: int = 7) -> tuple[Tensor, Tensor]:
    return torch.tensor(0.37, dtype=DOUBLE), torch.linspace(0, 1, rows, dtype=DOUBLE)


@pytest.mark.parametrize("hidden", WIDTHS, ids=str)
@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("cls", [MLPField, ConcatSquashField])
def test_layered_trace(cls: Any, activation: str, hidden: tuple[int, ...]) -> None:
    """continuous-D.8.1: the analytic trace equals the autograd trace to 1e-12, with and without gates."""
    field = perturbed(cls(4, hidden, activation=activation, context_features=2))
    x, context = places(4), places(2, seed=2)
    for t in times():
        wanted = jacobian(field, t, x, context).diagonal(dim1=-2, dim2=-1).sum(-1)
        assert (field.divergence(t, x, context) - wanted).abs().max() <= 1e-12
        assert (field.velocity_and_divergence(t, x, context)[1] - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_ot_potential(layers: int) -> None:
    """continuous-D.8.1: OT-Flow's velocity, rate and trace of the Hessian equal those of its potential by autograd to 1e-12."""
    field = perturbed(OTPotentialField(4, 9, layers, 3, context_features=2))
    x, context = places(4).requires_grad_(), places(2, seed=2)
    for time in times():
        t = time.clone().requires_grad_()
        potential = field.potential(t.expand(7), x, context)
        along_x, along_t = torch.autograd.grad(potential.sum(), [x, t], create_graph=True)
        v, divergence, rate = field.velocity_divergence_and_rate(t, x, context)
        hessian = torch.stack([torch.autograd.grad(along_x[:, i].sum(), x, retain_graph=True)[0] for i in range(4)], dim=-1)
        assert (v + along_x).abs().max() <= 1e-12
        assert (divergence + hessian.diagonal(dim1=-2, dim2=-1).sum(-1)).abs().max() <= 1e-12
        assert ((rate if t.dim() else rate.sum()) - along_t).abs().max() <= 1e-12


@pytest.mark.parametrize("activation", ["softplus", "log_cosh", "tanh", "silu", "gelu"])
@pytest.mark.parametrize("hidden", WIDTHS, ids=str)
def test_gradient_field(hidden: tuple[int, ...], activation: str) -> None:
    """The gradient field is the gradient of its potential, has a symmetric Jacobian, and its divergence is the trace of that, all to 1e-12."""
    field = perturbed(GradientField(3, hidden, activation=activation))
    x = places(3).requires_grad_()
    for t in times():
        (along,) = torch.autograd.grad(field.potential(t, x).sum(), x)
        assert (field.velocity(t, x) - along).abs().max() <= 1e-12
        matrix = jacobian(field, t, x.detach())
        assert (matrix - matrix.mT).abs().max() <= 1e-12
        assert (field.divergence(t, x) - matrix.diagonal(dim1=-2, dim2=-1).sum(-1)).abs().max() <= 1e-12


def test_softplus_far_out() -> None:
    """Beyond torch's threshold of 20 softplus and its slope still belong together: the trace agrees to 1e-12 there too."""
    field = MLPField(1, (1,), activation="softplus").double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.fill_(1.0)
    t, x = torch.tensor(0.0, dtype=DOUBLE), torch.linspace(15, 45, 61, dtype=DOUBLE).unsqueeze(-1)
    wanted = torch.sigmoid(x + 1).squeeze(-1)
    assert (jacobian(field, t, x)[:, 0, 0] - wanted).abs().max() <= 1e-12
    assert (field.divergence(t, x) - wanted).abs().max() <= 1e-12


# -- products with the Jacobian -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,), (70,)], ids=str)
@pytest.mark.parametrize("mode", ["exact", "exact_forward", "hutch++"])
def test_exact_modes(mode: str, batch: tuple[int, ...]) -> None:
    """d products, either way, and Hutch++ with a sketch of full rank give the trace, in any batch, recorded or not."""
    field = perturbed(MLPField(5, (8, 8)))
    x = torch.randn(*batch, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    t = torch.rand(batch, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    probes = draw_probes(x, 1, count=10, law="gaussian", generator=torch.Generator().manual_seed(2))
    v, divergence = field.velocity_and_divergence(t, x)
    for recording, point in itertools.product((True, False), (x, x.clone().requires_grad_())):
        with torch.set_grad_enabled(recording):
            got = field_and_divergence(field, t, point, mode=mode, probes=probes)
        assert got[1].shape == batch and got[0].requires_grad == recording and got[1].requires_grad == recording
        assert torch.allclose(got[0], v, rtol=0, atol=1e-12) and torch.allclose(got[1], divergence, rtol=0, atol=1e-11)
    with torch.inference_mode():
        assert torch.allclose(field_and_divergence(field, t, x, mode=mode, probes=probes)[1], divergence, rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", ["exact", "exact_forward", "hutchinson", "hutchinson_forward", "hutch++"])
def test_modes_differentiate(mode: str) -> None:
    """Gradients in x and in the parameters are those of the same combination of the explicit Jacobian; Hutch++'s basis is constant."""
    field, x, t = perturbed(MLPField(4, (6, 6))), places(4).requires_grad_(), times()[1]
    probes = draw_probes(x.detach(), 1, count=4, law="gaussian", generator=torch.Generator().manual_seed(3))
    parameters = [parameter for name, parameter in field.named_parameters() if name != "layers.2.bias"]
    matrix = torch.func.vmap(torch.func.jacrev(field.velocity, 1))(t, x)  # (B, d, d)
    if mode.startswith("exact"):
        wanted = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    elif mode == "hutch++":
        sketch, others = probes[:, :2].mT, probes[:, 2:].mT
        basis = torch.linalg.qr((matrix.mT @ sketch).detach()).Q
        rest = others - basis @ (basis.mT @ others)
        wanted = (basis * (matrix @ basis)).sum((-2, -1)) + (rest * (matrix @ rest)).sum(-2).mean(-1)
    else:
        wanted = (probes.mT * (matrix @ probes.mT)).sum(-2).mean(-1)
    _, got = field_and_divergence(field, t, x, mode=mode, probes=probes)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 2, 7, dtype=DOUBLE)
    for first, second in zip(*(torch.autograd.grad((weights * value).sum(), [x, *parameters]) for value in (got, wanted)), strict=True):
        assert torch.allclose(first, second, rtol=0, atol=1e-11)


def test_recomputation_with_a_fresh_leaf() -> None:
    """Inside a backward pass that recomputes with a fresh leaf, as the solvers' discrete adjoint does, gradients come out the same."""
    field, start = perturbed(MLPField(3, (6, 6))), places(3)
    probes = draw_probes(start, 1, generator=torch.Generator().manual_seed(3))
    parameters = [parameter for name, parameter in field.named_parameters() if name != "layers.2.bias"]

    def loss(x: Tensor) -> Tensor:
        v, divergence = field_and_divergence(field, torch.tensor(0.3, dtype=DOUBLE), x, mode="hutchinson", probes=probes)
        return v.square().sum() + divergence.square().sum()

    whole = start.clone().requires_grad_()
    wanted = torch.autograd.grad(loss(whole), [whole, *parameters])
    with torch.no_grad():
        loss(start)
        with torch.enable_grad():
            leaf = start.detach().requires_grad_()
            got = torch.autograd.grad(loss(leaf), [leaf, *parameters])
    assert all(torch.equal(first, second) for first, second in zip(got, wanted, strict=True))


# -- laws of the estimates ----------------------------------------------------------------------------------------------


def estimates(matrix: Tensor, law: str, draws: int) -> Tensor:
    x = torch.zeros(draws, len(matrix), dtype=DOUBLE)
    probes = draw_probes(x, 1, law=law, generator=torch.Generator().manual_seed(5))
    return velocity_and_divergence(lambda y: y @ matrix.mT, x, 1, "hutchinson", probes)[1]


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinson_law(law: str) -> None:
    """continuous-D.8.2: over 1e5 probes the mean is within 3 standard errors of the trace, and the variance within 5 % of its formula."""
    generator = torch.Generator().manual_seed(4)
    matrix = torch.randn(6, 6, generator=generator, dtype=DOUBLE)
    found = estimates(matrix, law, 100_000)
    error = found.std() / len(found) ** 0.5
    assert (found.mean() - matrix.trace()).abs() <= 3 * error
    symmetric = (matrix + matrix.mT) / 2
    variance = 2 * symmetric.square().sum() - (2 * symmetric.diagonal().square().sum() if law == "rademacher" else 0)
    assert (found.var() / variance - 1).abs() <= 0.05
    turning = matrix - matrix.mT  # an antisymmetric part never matters
    assert estimates(turning, law, 100).abs().max() <= 1e-12


def test_hutch_plus_plus_law() -> None:
    """continuous-D.1: unbiased, and for a decaying spectrum at d = 32 better than Hutchinson once the products near d (48: 0.18 against 0.30)."""
    generator = torch.Generator().manual_seed(6)
    frame = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=DOUBLE)).Q
    matrix = frame @ torch.diag(0.7 ** torch.arange(32, dtype=DOUBLE) * 3) @ frame.mT + 0.05 * torch.randn(32, 32, generator=generator, dtype=DOUBLE)
    x = torch.zeros(3000, 32, dtype=DOUBLE)
    errors = {}
    for mode, count in (("hutch++", 32), ("hutchinson", 48)):  # 48 products each
        probes = draw_probes(x, 1, count=count, generator=generator)
        found = velocity_and_divergence(lambda y: y @ matrix.mT, x, 1, mode, probes)[1] - matrix.trace()
        errors[mode] = found.square().mean().sqrt()
        assert found.mean().abs() <= 3 * found.std() / len(found) ** 0.5 + 1e-12
    assert errors["hutch++"] <= 0.7 * errors["hutchinson"]


def test_products_estimate_the_norm() -> None:
    """|J'e|^2 has the mean |J|_F^2, which the Jacobian regulariser of RNODE uses."""
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    x = torch.zeros(50_000, 5, dtype=DOUBLE)
    probes = draw_probes(x, 1, generator=torch.Generator().manual_seed(8)).movedim(1, 0)
    _, _, products = velocity_and_products(lambda y: y @ matrix.mT, x, 1, probes)
    sizes = products[0].square().sum(-1)
    assert (sizes.mean() - matrix.square().sum()).abs() <= 3 * sizes.std() / len(sizes) ** 0.5


def test_probes() -> None:
    """Probes have the stated shape, law and dtype, follow their generator, and leave torch's own alone."""
    like, state = torch.zeros(2, 3, 4, 5), torch.get_rng_state()
    made = [draw_probes(like, 2, count=6, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert made[0].shape == (2, 3, 6, 4, 5) and torch.equal(*made) and bool((made[0].abs() == 1).all())
    assert torch.equal(torch.get_rng_state(), state)
    assert draw_probes(like.half(), 1).dtype == torch.float16 and draw_probes(like, 0).shape == (2, 3, 4, 5, 1)
    normal = draw_probes(torch.zeros(1000, 8, dtype=DOUBLE), 1, law="gaussian", generator=torch.Generator().manual_seed(1))
    assert abs(float(normal.var()) - 1) <= 0.06
    with pytest.raises(ConfigError, match="law"):
        draw_probes(like, 1, law="uniform")


def test_one_probe_for_a_solve() -> None:
    """continuous-D.8.2: with its probe kept, a dopri5 solve with Hutchinson takes at most 1.5 times the evaluations of the exact one; redrawn, many more."""
    field = perturbed(MLPField(6, (32, 32)), 2)
    x = places(6, 16)
    ends, kept = torch.tensor([0.0, 1.0], dtype=DOUBLE), draw_probes(x, 1, generator=torch.Generator().manual_seed(1))
    counts = {}
    for name in ("exact", "kept", "redrawn"):
        generator, calls = torch.Generator().manual_seed(2), 0

        def slope(t: Tensor, y: Tensor, log_det: Tensor, name: str = name, generator: torch.Generator = generator) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            probes = draw_probes(y, 1, generator=generator) if name == "redrawn" else kept
            return field_and_divergence(field, t, y, mode="analytic" if name == "exact" else "hutchinson", probes=probes)

        try:
            with torch.no_grad():
                solve(slope, (x, torch.zeros(16, dtype=DOUBLE)), ends, method="dopri5", rtol=1e-6, atol=1e-6, max_steps=300)
        except FlowkitError:  # too many steps
            assert name == "redrawn"
        counts[name] = calls
    assert counts["kept"] <= 1.5 * counts["exact"]
    assert counts["redrawn"] >= 5 * counts["exact"]


# -- the choice of a mode -----------------------------------------------------------------------------------------------


class Bare(VectorField):
    """A field without a divergence of its own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.event_shape = (features,)

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return x.sin() * t


def test_choice() -> None:
    """continuous-D.7: analytic where the field has it, exact for d <= 8, else Hutchinson in training and exact in evaluation for d <= 64."""
    own = MLPField(100, (4,))
    assert choose("auto", own, 100, True) == choose("auto", own, 100, False) == "analytic"
    assert [choose("auto", Bare(d), d, True) for d in (8, 9, 64)] == ["exact", "hutchinson", "hutchinson"]
    assert [choose("auto", Bare(d), d, False) for d in (8, 64, 65)] == ["exact", "exact", "hutchinson"]
    assert choose("hutchinson", own, 2, False) == "hutchinson"
    with pytest.raises(ConfigError, match="Bare has no exact divergence"):
        choose("analytic", Bare(3), 3, True)
    with pytest.raises(UnknownNameError, match="hutchinson"):
        choose("hutchison", own, 3, True)


def test_missing_probes() -> None:
    """An estimate without probes, and Hutch++ with an odd number, say what to pass."""
    x = places(3)
    with pytest.raises(ConfigError, match="draw_probes"):
        velocity_and_divergence(lambda y: y, x, 1, "hutchinson")
    with pytest.raises(ConfigError, match="even number"):
        velocity_and_divergence(lambda y: y, x, 1, "hutch++", draw_probes(x, 1, count=3))


def test_constant_velocity() -> None:
    """A velocity that does not depend on x has the divergence zero in every mode."""
    x = places(3)
    probes = draw_probes(x, 1, count=2)
    for mode in ("exact", "exact_forward", "hutchinson", "hutchinson_forward", "hutch++"):
        _, divergence = velocity_and_divergence(lambda y: torch.ones_like(y), x, 1, mode, probes)
        assert torch.equal(divergence, torch.zeros(7, dtype=DOUBLE))


def test_float32_traces() -> None:
    """In float32 the analytic trace stays within 1e-5 of that in float64 at widths of 128."""
    field = MLPField(43, (128, 128))
    x, t = places(43, 50).float(), torch.tensor(0.4)
    exact = copy.deepcopy(field).double().divergence(t.double(), x.double())
    assert (field.divergence(t, x) - exact).abs().max() <= 1e-5


@pytest.mark.parametrize("mode", ["analytic", "exact", "hutchinson", "hutch++"])
def test_autocast(mode: str) -> None:
    """Under bf16 autocast the velocity has the dtype of x and the divergence float32; the analytic one is that without autocast."""
    field, x, t = MLPField(3, (16, 16)), places(3).float(), torch.tensor(0.4)
    probes = draw_probes(x, 1, count=4, generator=torch.Generator().manual_seed(0))
    plain = field_and_divergence(field, t, x, mode=mode, probes=probes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = field_and_divergence(field, t, x, mode=mode, probes=probes)
    for got, wanted in zip(found, plain, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted) if mode == "analytic" else (got - wanted).abs().max() <= 0.1
