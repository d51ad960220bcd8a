"""nflows: its transforms and flows wrapped, flowkit's seen by it, and its parameters taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nflows import distributions as D
from nflows import flows
from nflows import transforms as T
from nflows.nn import nets
from torch import Tensor, nn

import flowkit as fk
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.interop import nflows as interop

N, F, C = 40, 4, 2


def perturbed(module: Any) -> Any:
    """In float64, every parameter moved; evaluation mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module.double().eval()


def data(context: bool = False, features: int = F, size: int = C) -> tuple[Tensor, Tensor | None]:
    g = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(N, features, generator=g, dtype=torch.float64)
    return x, torch.randn(N, size, generator=g, dtype=torch.float64) if context else None


def residual(context: int | None, **options: Any) -> Any:
    return lambda i, o: nets.ResidualNet(i, o, hidden_features=8, context_features=context, num_blocks=2, **options)


class ContextMLP(nets.MLP):
    """nflows' own MLP takes no context, so a coupling layer needs a subclass like this."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(inputs if context is None else torch.cat([inputs, context], dim=-1))


MASK = torch.tensor([1, 0, 0, 1])


def layers(c: int | None) -> dict[str, Any]:
    mlp = lambda i, o: ContextMLP([i + (c or 0)], [o], [8, 6], activation=torch.nn.functional.silu)  # noqa: E731
    rqs = {"num_bins": 5, "tails": "linear", "tail_bound": 3.0}
    made = {"features": F, "hidden_features": 11, "context_features": c, "activation": torch.tanh}
    return {
        "permutations": [T.Permutation(torch.tensor([2, 0, 3, 1])), T.ReversePermutation(F), T.RandomPermutation(F), T.IdentityTransform()],
        "linear": [T.LULinear(F), T.ActNorm(F), T.InverseTransform(T.ActNorm(F)), T.PointwiseAffineTransform(torch.arange(4.0), torch.tensor(2.0))],
        "batch_norm": [T.BatchNorm(F)],
        "affine_coupling": [T.AffineCouplingTransform(MASK, residual(c)), T.AffineCouplingTransform(1 - MASK, mlp)],
        "additive_coupling": [T.AdditiveCouplingTransform(MASK, residual(c, activation=torch.nn.functional.elu))],
        "spline_coupling": [T.PiecewiseRationalQuadraticCouplingTransform(MASK, residual(c), **rqs)],
        "spline_coupling_mlp": [T.PiecewiseRationalQuadraticCouplingTransform(MASK, mlp, **rqs)],
        "spline_coupling_unconditional": [T.PiecewiseRationalQuadraticCouplingTransform(MASK, residual(c), apply_unconditional_transform=True, **rqs)],
        "affine_autoregressive": [T.MaskedAffineAutoregressiveTransform(**made), T.MaskedAffineAutoregressiveTransform(**made, num_blocks=0)],
        "affine_autoregressive_feedforward": [T.MaskedAffineAutoregressiveTransform(**made, use_residual_blocks=False)],
        "spline_autoregressive": [T.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(**made, **rqs)],
        "spline_autoregressive_random_mask": [
            T.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(**made, **rqs, use_residual_blocks=False, random_mask=True)
        ],
    }


NEED_CONTEXT = [name for name in layers(None) if "coupling" in name or "autoregressive" in name]
CASES = [(name, None) for name in layers(None)] + [(name, C) for name in NEED_CONTEXT]


def make(name: str, c: int | None, base: Any = None) -> Any:
    torch.manual_seed(0)
    source = flows.Flow(T.CompositeTransform(layers(c)[name]), base or D.StandardNormal([F]))
    for part in source.modules():
        if isinstance(part, T.BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return perturbed(source)


@pytest.mark.filterwarnings("ignore:Inputs to the softmax")
@pytest.mark.parametrize(("name", "c"), CASES, ids=[f"{name}{'_conditional' if c else ''}" for name, c in CASES])
def test_parameters(name: str, c: int | None) -> None:
    source = make(name, c)
    made = interop.load_parameters(source)
    x, context = data(c is not None)
    torch.testing.assert_close(made.log_prob(x, context), source.log_prob(x, context), rtol=0, atol=1e-10)
    noise = made.to_latent(x, context)
    torch.testing.assert_close(noise, source.transform_to_noise(x, context), rtol=0, atol=1e-10)
    back = made.to_data(noise, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)
    if name != "linear":  # torch no longer has what nflows inverts its LULinear with
        torch.testing.assert_close(back, source._transform.inverse(noise, context)[0], rtol=0, atol=1e-8)
    assert not any(type(part).__module__.startswith("nflows") for part in made.modules())


def test_parameters_are_copies_and_the_flow_saves(tmp_path: Path) -> None:
    source = flows.Flow(
        T.CompositeTransform([T.ActNorm(F), T.MaskedAffineAutoregressiveTransform(F, 30, context_features=3)]),
        D.ConditionalDiagonalNormal([F], nn.Linear(3, 2 * F)),
        nn.Sequential(nn.Linear(C, 7), nn.Tanh(), nn.Linear(7, 3)),
    )
    made = interop.load_parameters(perturbed(source))
    x, context = data(True)
    fk.save(made, tmp_path / "flow")
    loaded = fk.load(tmp_path / "flow")
    expected = source.log_prob(x, context)
    torch.testing.assert_close(loaded.log_prob(x, context), expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(1.0)
    assert torch.equal(source.log_prob(x, context), expected) and not torch.allclose(made.log_prob(x, context), expected)
    assert made.sample(5, context).shape == (5, N, F)


@pytest.mark.parametrize(
    "make_source", [lambda: flows.SimpleRealNVP(F, 8, 3, 2, batch_norm_between_layers=True), lambda: flows.MaskedAutoregressiveFlow(F, 8, 2, 2)]
)
def test_ready_made_flows(make_source: Any) -> None:
    torch.manual_seed(0)
    source = make_source()
    source.train()
    source.log_prob(torch.randn(64, F))  # running statistics
    perturbed(source)
    x, _ = data()
    torch.testing.assert_close(interop.load_parameters(source).log_prob(x), source.log_prob(x), rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize(("base", "size"), [(D.DiagonalNormal([F]), None), (D.ConditionalDiagonalNormal([F]), 2 * F)])
def test_bases(base: Any, size: int | None) -> None:
    source = perturbed(flows.Flow(T.ReversePermutation(F), base))
    x, context = data(size is not None, size=size or 1)
    torch.testing.assert_close(interop.load_parameters(source).log_prob(x, context), source.log_prob(x, context), rtol=0, atol=1e-10)


def flow_of(transform: Any, **options: Any) -> Any:
    return flows.Flow(transform, D.StandardNormal([F]), **options)


class Doubled(T.AffineCouplingTransform):
    """Changes what its parent computes."""

    def _scale_and_shift(self, transform_params: Tensor) -> Any:
        scale, shift = super()._scale_and_shift(transform_params)
        return 2 * scale, shift


class Halved(nets.MLP):
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return 0.5 * super().forward(inputs)


def unsupported() -> dict[str, tuple[Any, str]]:
    rqs = {"num_bins": 4, "tail_bound": 3.0}
    return {
        "transform": (flow_of(T.HouseholderSequence(F, 2)), "HouseholderSequence is not supported. Supported: ActNorm"),
        "subclass": (flow_of(Doubled(MASK, residual(None))), "Doubled is not supported"),
        "tails": (flow_of(T.PiecewiseRationalQuadraticCouplingTransform(MASK, residual(None), num_bins=4)), "tails=None is not supported"),
        "floor": (
            flow_of(T.PiecewiseRationalQuadraticCouplingTransform(MASK, residual(None), tails="linear", min_bin_width=1e-2, **rqs)),
            "min_bin_width=0.01 is not supported",
        ),
        "activation": (flow_of(T.AffineCouplingTransform(MASK, residual(None, activation=torch.sigmoid))), "activation sigmoid is not supported"),
        "net_norm": (flow_of(T.AffineCouplingTransform(MASK, residual(None, use_batch_norm=True))), "use_batch_norm=True"),
        "net": (flow_of(T.AffineCouplingTransform(MASK, lambda i, o: nn.Linear(i, o))), "Linear is not supported. Supported: nflows.nn.nets.ResidualNet"),
        "hidden_difference": (flow_of(T.AffineCouplingTransform(MASK, lambda i, o: Halved([i], [o], [8]))), "differ by up to"),
        "dim": (flow_of(T.Permutation(torch.tensor([1, 0]), dim=2)), "dim=2"),
        "base": (flows.Flow(T.ReversePermutation(F), D.MADEMoG(F, 8, F)), "MADEMoG is not supported"),
        "not_a_flow": (T.ReversePermutation(F), "ReversePermutation is not supported"),
    }


@pytest.mark.parametrize("name", list(unsupported()))
def test_unsupported(name: str) -> None:
    source, message = unsupported()[name]
    with pytest.raises(ConfigError, match=message):
        interop.load_parameters(source)


def test_training_mode_and_caches_are_left_alone() -> None:
    source = flow_of(T.CompositeTransform([T.LULinear(F, using_cache=True), T.BatchNorm(F)]))
    source._transform._transforms[1].running_var.fill_(1.0)
    source.train()
    before = {key: value.clone() for key, value in source.state_dict().items()}
    made = interop.load_parameters(source)
    assert all(part.training for part in source.modules()) and made.training and next(made.parameters()).dtype == torch.float32
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())


# -- wrappers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["affine_coupling", "spline_autoregressive"])
def test_transform_as_bijector(name: str) -> None:
    source = make(name, C)._transform
    wrapped = interop.to_flowkit(source)
    assert wrapped.in_shape == (F,) and wrapped.context_shape == (C,)
    x, context = data(True)
    z, log_det = wrapped.inverse(x.reshape(2, N // 2, F), context.reshape(2, N // 2, C))
    expected, log_abs_det = source(x, context)
    assert torch.equal(z.reshape(N, F), expected) and torch.equal(log_det.reshape(N), log_abs_det)
    back, log_det_back = wrapped(z, context.reshape(2, N // 2, C))
    torch.testing.assert_close(back.reshape(N, F), x, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-8)
    single, one = wrapped.inverse(x[0], context[0])
    torch.testing.assert_close(single, expected[0], rtol=0, atol=1e-12)
    assert one.shape == () and wrapped.inverse(x[:0], context[:0])[1].shape == (0,)
    assert (wrapped >> ~wrapped)(x, context)[1].abs().max() < 1e-8
    with pytest.raises(ShapeError):
        wrapped(x)
    (~wrapped)(x, context)[0].sum().backward()
    assert all(p.grad is not None for p in source.parameters())


def test_shape_that_is_not_told() -> None:
    with pytest.raises(ConfigError, match="Pass shape="):
        interop.to_flowkit(T.IdentityTransform())
    assert interop.to_flowkit(T.IdentityTransform(), shape=(F,)).in_shape == (F,)


def test_domain_and_missing_inverse() -> None:
    from flowkit.core.errors import DomainError, NotInvertibleError

    logit = interop.to_flowkit(T.Logit(), shape=(2,))  # data in the unit square
    with pytest.raises(DomainError):
        logit.inverse(torch.full((3, 2), 2.0))
    norm = interop.to_flowkit(T.BatchNorm(2).train())
    with pytest.raises(NotInvertibleError):
        norm(torch.randn(3, 2))


@pytest.mark.parametrize("embedded", [False, True])
def test_flow_as_flow(embedded: bool) -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, C)) if embedded else None
    source = perturbed(flows.Flow(T.CompositeTransform(layers(C)["affine_coupling"]), D.StandardNormal([F]), net))
    flow = interop.to_flowkit(source)
    x, context = data(True, size=5 if embedded else C)
    torch.testing.assert_close(flow.log_prob(x, context), source.log_prob(x, context), rtol=0, atol=1e-12)
    drawn, log_prob = flow.sample_and_log_prob((3,), context, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (3, N, F) and drawn.dtype == torch.float64
    torch.testing.assert_close(flow.log_prob(drawn, context), log_prob, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_prob[1], source.log_prob(drawn[1], context), rtol=0, atol=1e-8)
    with pytest.raises(ConfigError, match="not registered"):
        fk.save(flow, "never")


def test_base_as_distribution() -> None:
    source = perturbed(D.ConditionalDiagonalNormal([F], nn.Linear(C, 2 * F)))
    base = interop.to_flowkit(source)
    x, context = data(True)
    assert torch.equal(base.log_prob(x, context), source.log_prob(x, context))
    g = torch.Generator().manual_seed(0)
    drawn = base.sample((5000,), context[0], generator=g)
    mean, log_std = source._compute_params(context[:1])
    assert ((drawn.mean(0) - mean[0]).abs() < 5 * log_std[0].exp() / 5000**0.5).all()


def test_bijector_as_transform() -> None:
    inner = perturbed(fk.bijectors.Coupling(F, fk.univariates.RationalQuadraticSpline(4), (8,), context_features=C))
    seen = interop.to_nflows(inner)
    x, context = data(True)
    composite = T.CompositeTransform([seen, T.ReversePermutation(F), T.InverseTransform(seen)])
    assert isinstance(seen, T.Transform)
    z, log_det = seen(x, context)
    expected = inner.inverse(x, context)
    assert torch.equal(z, expected[0]) and torch.equal(log_det, expected[1])
    y, total = composite(x, context)
    back, total_back = composite.inverse(y, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(total_back, -total, rtol=0, atol=1e-9)


@pytest.mark.parametrize("c", [0, C])
def test_flow_as_nflows_flow(c: int) -> None:
    flow = perturbed(fk.flows.RealNVP(F, c, layers=2, hidden=(8,), standardize=False))
    flow.base.double()
    seen = interop.to_nflows(flow)
    x, context = data(bool(c))
    assert isinstance(seen, flows.Flow)
    assert torch.equal(seen.log_prob(x, context=context), flow.log_prob(x, context))
    assert torch.equal(seen.transform_to_noise(x, context), flow.to_latent(x, context))
    few = None if context is None else context[:3]
    lead = () if context is None else (3,)
    assert seen.sample(7, few).shape == seen.sample(7, few, batch_size=3).shape == (*lead, 7, F)
    drawn, log_prob = seen.sample_and_log_prob(6, few)
    assert drawn.shape == (*lead, 6, F) and log_prob.shape == (*lead, 6)
    for row in range(3 if c else 1):
        one, their = (drawn, log_prob) if few is None else (drawn[row], log_prob[row])
        torch.testing.assert_close(flow.log_prob(one, None if few is None else few[row]), their, rtol=0, atol=1e-9)
    looked_at = flows.Flow(seen._transform, seen._distribution)  # code that takes a flow apart
    torch.testing.assert_close(looked_at.log_prob(x, context), flow.log_prob(x, context), rtol=0, atol=1e-10)


def test_both_ways() -> None:
    source = make("spline_coupling", C)
    x, context = data(True)
    again = interop.to_nflows(interop.load_parameters(source))
    torch.testing.assert_close(again.log_prob(x, context), source.log_prob(x, context), rtol=0, atol=1e-10)


class Shifted(flows.Flow):
    def _log_prob(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        return super()._log_prob(inputs + 1, context)


def test_a_flow_that_is_more_than_its_parts() -> None:
    source = Shifted(T.ReversePermutation(F), D.StandardNormal([F]))
    for call in (interop.to_flowkit, interop.load_parameters):
        with pytest.raises(ConfigError, match="Shifted"):
            call(source)


@pytest.mark.parametrize("call", [interop.to_flowkit, interop.to_nflows])
def test_wrong_kind(call: Any) -> None:
    with pytest.raises(ConfigError, match="got Linear"):
        call(nn.Linear(2, 2))


def test_deep_untrained_flow() -> None:
    """Its samples overflow, and where they do not, rounding grows without measure: neither is taken for a difference."""
    torch.manual_seed(0)
    source = flows.MaskedAutoregressiveFlow(60, 64, 5, 2)
    x = torch.randn(5, 60)
    torch.testing.assert_close(interop.load_parameters(source).log_prob(x), source.log_prob(x), rtol=1e-4, atol=1e-4)


# -- the nets that hold what was taken over ---------------------------------------------------------------------------


@pytest.mark.parametrize("residual_blocks", [False, True])
def test_masks_say_what_depends_on_what(residual_blocks: bool) -> None:
    made = perturbed(interop.load_parameters(make("affine_autoregressive" + ("" if residual_blocks else "_feedforward"), C)))
    step = next(part for part in made.modules() if isinstance(part, fk.bijectors.Autoregressive))
    net: Any = step.conditioner
    x, context = data(True)
    jacobian = torch.func.vmap(torch.func.jacrev(net))(x, context).abs().amax(0)
    assert torch.equal(jacobian > 0, net.dependence())


def test_masked_net_that_breaks_the_order() -> None:
    free = fk.nets.MaskedLayers([torch.ones(6, 3, dtype=torch.bool), torch.ones(6, 6, dtype=torch.bool)])
    with pytest.raises(ConfigError, match="coordinate 0 would depend on coordinate 0"):
        fk.bijectors.Autoregressive(3, fk.univariates.Affine(), conditioner=free)
    with pytest.raises(ConfigError, match="out_features=6; got 5"):
        fk.bijectors.Autoregressive(3, fk.univariates.Affine(), conditioner=fk.nets.MLP(3, 5))
    with pytest.raises(ShapeError, match="each as wide as the one before is high"):
        fk.nets.MaskedLayers([torch.ones(4, 3, dtype=torch.bool), torch.ones(6, 5, dtype=torch.bool)])


def test_dropout_is_taken_over() -> None:
    source = flow_of(T.AffineCouplingTransform(MASK, residual(None, dropout_probability=0.5))).double()
    made = interop.load_parameters(source)
    x, _ = data()
    assert made.training and not torch.equal(made.log_prob(x), made.log_prob(x))
    assert torch.equal(made.eval().log_prob(x), made.log_prob(x))
