"""Residual maps against closed forms, unrolled iterations and normflows: log-determinants, gradients, inverses, Lipschitz bounds."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.bijectors import ResidualOf
from flowkit.core.errors import ConfigError, NotInvertibleError
from flowkit.flows import ResidualFlow
from flowkit.nets import LipschitzConv, LipschitzDenseMLP, LipschitzMLP
from flowkit.nets._lipschitz import convolution_norm, lipschitz_activation
from flowkit.numerics.fixed_point import solve_fixed_point

STUDY: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "residual_log_det.py"))
Net: Any = STUDY["Net"]


def loud(net: nn.Module, scale: float = 1.0, seed: int = 0) -> nn.Module:
    """The net with large weights, so that its bound is active."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return net.double()


def point(features: int) -> Tensor:
    return torch.randn(features, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(("features", "options"), [(4, {}), (16, {}), (16, {"probes": 4}), (4, {"gradient": "series"})])
def test_roulette_is_unbiased(features: int, options: dict[str, Any]) -> None:
    """Value and gradient, 80 calls of 64 rows: within three standard errors of slogdet, and not for want of precision."""
    net, x = Net(features, 0.9), point(features)
    result = STUDY["study"](STUDY["flowkit_draw"](net, seed=1, **options), net, x, 80, 64)
    assert abs(result.value_bias) <= 3 and result.gradient_bias <= 3, result
    assert result.spread / 80**0.5 < 0.05 * abs(STUDY["truth"](net, x)[0]), result


def test_poisson_lengths_are_unbiased() -> None:
    net, x = Net(4, 0.6), point(4)
    f = ResidualOf(net, log_det="roulette", terms=1, lengths="poisson", rate=3.0)
    generator = torch.Generator().manual_seed(0)
    result = STUDY["study"](lambda x: f(x, generator=generator)[1], net, x, 80, 64)
    assert abs(result.value_bias) <= 3 and result.gradient_bias <= 3, result


def test_survival_probabilities_of_poisson_lengths() -> None:
    options: Any = ResidualOf(Net(2, 0.5), log_det="roulette", lengths="poisson", rate=2.5)._options
    k = torch.arange(1, 40, dtype=torch.float64)
    wanted = torch.special.gammainc(k, torch.full_like(k, 2.5))  # P(N >= k) = P(k, rate)
    torch.testing.assert_close(torch.tensor([options.survival(int(i)) for i in k], dtype=torch.float64), wanted, rtol=1e-12, atol=0)


def test_normflows_reports_another_value_while_training() -> None:
    """Same network, same run: the loss of normflows in training mode is not the log-determinant, though its gradient is right."""
    pytest.importorskip("normflows")
    net, x = Net(4, 0.9), point(4)
    theirs = STUDY["study"](STUDY["normflows_draw"](net, neumann_grad=True, grad_in_forward=True), net, x, 60, 64)
    plain = STUDY["study"](STUDY["normflows_draw"](net, neumann_grad=False, grad_in_forward=False), net, x, 60, 64)
    assert abs(theirs.value_bias) > 6 and theirs.gradient_bias <= 4, theirs
    assert abs(plain.value_bias) <= 4, plain


def test_inverse_beside_normflows() -> None:
    pytest.importorskip("normflows")
    net = Net(16, 0.97)
    x = 3 * torch.randn(200, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = STUDY["inverse_errors"](net, x)
    assert found["flowkit"][0] <= 1e-10 and found["normflows"][0] > 1e-5, found


def test_truncated_series_stays_within_its_bound() -> None:
    net, x = Net(4, 0.8), point(4)
    wanted = STUDY["truth"](net, x)[0]
    for terms in (1, 5, 20, 100):
        error = abs(float(ResidualOf(net, log_det="power_series", terms=terms, probes=None)(x)[1].detach()) - wanted)
        assert error <= 4 * 0.8 ** (terms + 1) / ((terms + 1) * 0.2) + 1e-12, (terms, error)
    assert error <= 1e-9


def test_memory_does_not_grow_with_the_terms() -> None:
    net, x = Net(16, 0.9), torch.randn(64, 16, dtype=torch.float64)
    kept = {
        gradient: [STUDY["saved_bytes"](ResidualOf(net, log_det="power_series", terms=terms, gradient=gradient), x) for terms in (2, 40)]
        for gradient in ("neumann", "series")
    }
    assert kept["neumann"][1] == kept["neumann"][0], kept
    assert kept["series"][1] > 5 * kept["series"][0], kept


@pytest.mark.parametrize("kind", ["exact", "roulette"])
@pytest.mark.parametrize("net", [LipschitzMLP, LipschitzDenseMLP])
def test_inverse_and_its_gradient_against_unrolled_iterations(kind: Any, net: Any) -> None:
    """The root to 1e-11; gradients in x, the context and every parameter like those of 150 plain iterations by autograd."""
    made = loud(net(3, 3, (16, 16), context_features=2, coefficient=0.8))
    f = ResidualOf(made, log_det=kind)
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(6, size, generator=generator, dtype=torch.float64).requires_grad_() for size in (3, 2))
    z, _ = f.inverse(x, context, generator=generator)
    torch.testing.assert_close(z + made(z, context), x, rtol=0, atol=1e-11)
    unrolled = x
    for _ in range(150):
        unrolled = x - made(unrolled, context)
    weights = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    wanted = [x, context, *made.parameters()]
    got = torch.autograd.grad((weights * z).sum(), wanted)
    expected = torch.autograd.grad((weights * unrolled).sum(), wanted)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_second_derivatives_of_the_exact_inverse() -> None:
    f = ResidualOf(loud(LipschitzMLP(2, 2, (8,)), 0.5))
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(f.inverse, (x,))
    assert torch.autograd.gradgradcheck(f, (x,))


def test_second_derivatives_that_would_be_wrong_are_refused() -> None:
    f = ResidualOf(loud(LipschitzMLP(2, 2, (8,))), log_det="roulette")
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    for value in (f(x)[1], f.inverse(x)[0]):
        with pytest.raises(ConfigError, match="create_graph"):
            torch.autograd.grad(value.sum(), x, create_graph=True)


def test_status_and_failure_of_the_inverse() -> None:
    f = ResidualOf(Net(4, 0.97), max_iterations=3)
    x = torch.randn(5, 4, dtype=torch.float64)
    _, status = f.solve(x)
    assert status.iterations.tolist() == [3] * 5 and not bool(status.converged.any()) and bool((status.residual > 1e-12).all())
    with pytest.raises(NotInvertibleError, match=r"5 of 5 events not converged after 3 iterations; largest residual"):
        f.inverse(x)
    _, status = ResidualOf(Net(4, 0.97)).solve(x)
    assert bool(status.converged.all()) and int(status.iterations.max()) < 60


@pytest.mark.parametrize("eigenvalues", [(-0.97, 0.97), (-0.97, -0.97), (-0.97, 0.0)])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_fixed_points_of_slow_contractions(eigenvalues: tuple[float, float], size: int) -> None:
    """Linear maps whose plain iteration takes some 900 steps: the root to its condition, in far fewer."""
    frame = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    matrix = frame @ torch.diag(torch.linspace(*eigenvalues, size, dtype=torch.float64)) @ frame.mT
    x = torch.randn(8, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z, status = solve_fixed_point(lambda z: x - z @ matrix, x, 1, scale=torch.ones(8, dtype=torch.float64), tolerance=1e-12, max_iterations=1000)
    assert bool(status.converged.all()) and int(status.iterations.max()) <= 250, status
    wanted = torch.linalg.solve(torch.eye(size, dtype=torch.float64) + matrix, x.mT).mT
    assert float((z - wanted).abs().max()) <= 33 * 1e-12 * size**0.5 * max(1.0, float(z.abs().max()))


def test_rows_that_converge_late_do_not_move_the_others() -> None:
    f = ResidualOf(Net(4, 0.97), log_det="roulette")
    x = torch.randn(4, 4, dtype=torch.float64)
    alone, _ = f.solve(x)
    together, _ = f.solve(torch.cat([x, 1e6 * torch.randn(20, 4, dtype=torch.float64)]))
    torch.testing.assert_close(together[:4], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["lip_swish", "clip_swish", "elu", "tanh"])
def test_slopes_of_activations(name: str) -> None:
    """At most 1 in the 2-norm for every learned scale, and close to 1 somewhere."""
    activation: Any = lipschitz_activation(name)
    x = torch.linspace(-100, 100, 40_001, dtype=torch.float64).unsqueeze(-1)
    for raw in (-3.0, 0.5, 4.0):
        for parameter in activation.parameters():
            parameter.data.fill_(raw)
        out = activation(x.requires_grad_())
        slope = torch.cat([torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in out.unbind(-1)], dim=-1)
        largest = float(torch.linalg.vector_norm(slope, dim=-1).max())
        assert 0.999 < largest <= 1.0, (raw, largest)


@pytest.mark.parametrize("net", [LipschitzMLP(5, 5, (24, 24)), LipschitzMLP(5, 5, (12,), activation="clip_swish"), LipschitzDenseMLP(5, 5, (12, 12))])
@pytest.mark.parametrize("scale", [0.3, 10.0])
def test_networks_keep_their_bound(net: nn.Module, scale: float) -> None:
    loud(net, scale)
    x = 3 * torch.randn(500, 5, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(net))(x).detach()
    assert float(torch.linalg.matrix_norm(jacobian, 2).max()) <= 0.97


@pytest.mark.parametrize(("kernel", "channels"), [(3, (3, 5)), (5, (2, 2)), (1, (4, 3))])
def test_norm_of_a_convolution_is_bounded_for_every_size(kernel: int, channels: tuple[int, int]) -> None:
    """The dense matrix of the padded convolution on images of 1 to 12 pixels a side never exceeds the bound, which is tight."""
    weight = torch.randn(channels[1], channels[0], kernel, kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound, norms = float(convolution_norm(weight)), []
    for side in (1, 2, 5, 12):
        basis = torch.eye(channels[0] * side * side, dtype=torch.float64).reshape(-1, channels[0], side, side)
        norms.append(float(torch.linalg.matrix_norm(nn.functional.conv2d(basis, weight, padding=kernel // 2).flatten(1), 2)))
    assert max(norms) <= bound * (1 + 1e-12) and bound <= 1.25 * max(norms), (norms, bound)


def test_convolutional_map_on_images_of_any_size() -> None:
    f = ResidualOf(loud(LipschitzConv(2, 6, context_features=3), 0.5))
    for side in (1, 4):
        x, context = torch.randn(2, 2, side, side, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
        z, log_det = f.inverse(x, context)
        back, forward = f(z, context)
        torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
        torch.testing.assert_close(forward, -log_det, rtol=0, atol=1e-9)


def test_saved_tensor_hooks_and_checkpointing_work() -> None:
    """torch.func refuses saved-tensor hooks; these maps do not."""
    flow = ResidualFlow(2, layers=2, hidden=(8,))
    x = torch.randn(4, 2, requires_grad=True)
    checkpointed = torch.utils.checkpoint.checkpoint(flow.log_prob, x, use_reentrant=False)
    (got,) = torch.autograd.grad(checkpointed.sum(), x)
    (wanted,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    torch.testing.assert_close(got, wanted)


def test_recipe_says_what_its_density_is() -> None:
    assert ResidualFlow(2, layers=1).bijector.traits.log_det == "exact"
    flow = ResidualFlow(3, layers=2, hidden=(8,), block="dense", log_det="roulette")
    assert flow.bijector.traits.log_det == "estimate" and flow.density == "estimate"
    x = torch.randn(5, 3)
    first, second = (flow.log_prob(x, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"log_det": "roulette", "probes": None}, {"probes": 5}, {"rate": 1.5}, {"log_det": "trace"}, {"terms": 0}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ResidualOf(LipschitzMLP(4, 4), **options)
    with pytest.raises(ConfigError):
        ResidualOf(nn.Linear(4, 4))
