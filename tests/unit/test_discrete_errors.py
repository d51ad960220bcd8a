"""What discrete flows refuse, and how they say it (O-7): who, expected, got, where, remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.errors import ConfigError, DomainError, FlowkitError, ShapeError
from flowkit.core.objective import Batch
from flowkit.data import Digits, DigitTokens
from flowkit.flows import DiscreteFlow
from flowkit.nets import TokenMLP, TokenTransformer
from flowkit.objectives import DiscreteFlowMatching
from flowkit.testing import check_distribution

ROWS = torch.arange(12).reshape(4, 3) % 5


def flow(**options: object) -> DiscreteFlow:
    torch.manual_seed(0)
    return DiscreteFlow(3, 5, (8,), **options)  # type: ignore[arg-type]


def with_value(value: float) -> Tensor:
    x = ROWS.double()
    x[2, 1] = value
    return x


@pytest.mark.parametrize(
    ("value", "remedy"),
    [(5.0, "levels=6"), (-1.0, "start at 0"), (1.5, "Quantise"), (float("nan"), "Quantise"), (float("inf"), "Quantise")],
)
def test_out_of_range_names_place_and_remedy(value: float, remedy: str) -> None:
    """O-7: discrete data out of range."""
    with pytest.raises(DomainError, match=rf"DiscreteFlowMatching: expected tokens 0 \.\. 4; got {value:g} at sample 2, token 1 .*{remedy}"):
        DiscreteFlowMatching().loss(flow(), Batch(with_value(value)))


def test_integers_out_of_range() -> None:
    x = ROWS.clone()
    x[3, 0] = 17
    with pytest.raises(DomainError, match=r"got 17 at sample 3, token 0 \(1 of 12 are out of range\)\. Build the flow with levels=18"):
        DiscreteFlowMatching(criterion="generalized_kl").loss(flow(), Batch(x))


def test_fit_names_the_row_of_the_data() -> None:
    """Batches are shuffled, but the message counts as the user does."""
    x = torch.zeros(200, 3, dtype=torch.int64)
    x[137, 2] = 5
    with pytest.raises(DomainError, match="got 5 at sample 137, token 2"):
        fk.fit(flow(), x, DiscreteFlowMatching(), max_epochs=1, batch_size=50, seed=0, progress=False)


def test_one_event() -> None:
    with pytest.raises(DomainError, match="got 9 at token 1"):
        flow().tokens(torch.tensor([0, 9, 0]))


def test_log_prob_is_minus_infinity_off_the_grid() -> None:
    """Flow.log_prob does not raise for values, as everywhere."""
    log_prob = flow().log_prob(torch.stack([with_value(value).float()[2] for value in (5.0, -1.0, 1.5, float("nan"), 2.0)]))
    assert torch.isneginf(log_prob[:4]).all() and torch.isfinite(log_prob[4])


def test_compiled_and_masked_losses_are_nan() -> None:
    """Where values cannot be looked at, a row out of range makes the loss NaN, and indexes nothing."""
    with fk.checks(values=False):
        assert torch.isnan(DiscreteFlowMatching().loss(flow(), Batch(with_value(7.0))).value)


REFUSED: list[tuple[type[FlowkitError], str, Callable[[], object]]] = [
    (ShapeError, "floating dtype; got torch.int64", lambda: flow().log_prob(ROWS)),
    (ShapeError, "integers, or of floats.*got torch.bool", lambda: DiscreteFlowMatching().loss(flow(), Batch(ROWS > 1))),
    (ShapeError, "got torch.complex64", lambda: flow().tokens(ROWS.to(torch.complex64))),
    (ShapeError, r"trailing shape \(3,\); got \(4, 2\)", lambda: flow().tokens(ROWS[:, :2])),
    (ShapeError, "got a context but declares none", lambda: flow().sample(2, torch.tensor(1))),
    (ShapeError, r"labels in -1 \.\. 1; got 2", lambda: flow(classes=2).sample(2, torch.tensor(2))),
    (ShapeError, "int64 labels; got torch.float32", lambda: flow(classes=2).log_prob(ROWS.float(), torch.ones(4))),
    (ConfigError, "source 'mask' or 'uniform'", lambda: flow(source="noise")),
    (ConfigError, "enumerates at most 1024 states", lambda: DiscreteFlow(64, 2, (8,), bound="quadrature")),
    (ConfigError, "levels to be an int >= 2", lambda: DiscreteFlow(2, 1)),
    (ConfigError, "steps", lambda: flow(steps=0)),
    (ConfigError, "power", lambda: flow(power=0.0)),
    (ConfigError, "corrector to be a finite number >= 0", lambda: flow(corrector=-1.0)),
    (ConfigError, "guidance to be a finite number, and 1 without classes", lambda: flow(guidance=2.0)),
    (ConfigError, "guidance", lambda: flow().guided(2.0)),
    (ConfigError, "temperature", lambda: flow().sample(2, temperature=-1.0)),
    (ConfigError, "criterion 'cross_entropy' or 'generalized_kl'", lambda: DiscreteFlowMatching(criterion="kl")),  # type: ignore[arg-type]
    (ConfigError, r"label_drop to be a number in \[0, 1\)", lambda: DiscreteFlowMatching(label_drop=1.0)),
    (ConfigError, "label_drop needs labels", lambda: DiscreteFlowMatching(label_drop=0.1).loss(flow(), Batch(ROWS))),
    (ConfigError, "expected a batch of data", lambda: DiscreteFlowMatching().loss(flow(), Batch())),
    (ConfigError, "expected a flow over tokens; got RealNVP", lambda: DiscreteFlowMatching().loss(fk.flows.RealNVP(3), Batch(ROWS))),
    (ConfigError, "multiple of heads=4; got 6", lambda: TokenTransformer(3, 5, 6)),
    (ConfigError, "form 'vector' or 'image'", lambda: DigitTokens(form="text")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("error", "message", "call"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_refused(error: type[FlowkitError], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message) as found:
        call()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("net", [TokenMLP(3, 5, (8, 8), classes=2), TokenTransformer(3, 5, 8, 2, heads=2, classes=2)], ids=["mlp", "transformer"])
def test_token_nets(net: torch.nn.Module) -> None:
    """Any batch; rows independent; tokens, their order, noise and labels are used; every parameter gets a gradient."""
    torch.manual_seed(0)
    net = net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens, noise, labels = torch.randint(6, (7, 3)), torch.rand(7, dtype=torch.float64), torch.tensor([0, 1, -1, 0, 1, -1, 0])
    out = net(tokens, noise, labels)
    assert out.shape == (7, 3, 5) and out.dtype == torch.float64
    assert net(tokens[:0], noise[:0], labels[:0]).shape == (0, 3, 5)
    torch.testing.assert_close(net(tokens[1], noise[1], labels[1]), out[1])
    torch.testing.assert_close(net(tokens[:6].reshape(2, 3, 3), noise[:6].reshape(2, 3), labels[:6].reshape(2, 3)).reshape(6, 3, 5), out[:6])
    for other in (net((tokens + 1) % 6, noise, labels), net(tokens, noise / 2, labels), net(tokens, noise, (labels + 2) % 3 - 1)):
        assert (other != out).flatten(1).any(1).all()
    distinct = torch.tensor([0, 1, 2])
    assert not torch.allclose(net(distinct, noise[0], labels[0]).flip(0), net(distinct.flip(0), noise[0], labels[0]))
    gradients = torch.autograd.grad(out.square().sum(), list(net.parameters()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_integer_context_free_surface() -> None:
    """The flow is an ordinary flow: torch view, fixed context, summary, saving."""
    labelled = flow(classes=2, steps=4, draws=4)
    fixed = labelled.condition(torch.tensor(1))
    drawn = fixed.sample((6,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, labelled.sample((6,), torch.tensor(1), torch.Generator().manual_seed(0)))
    assert torch.isfinite(labelled(torch.tensor(0)).log_prob(drawn)).all()
    assert "TokenJumps" in labelled.summary() and labelled.density == "lower_bound"
    cool = fixed.sample((6,), generator=torch.Generator().manual_seed(0), temperature=0.5)
    assert torch.equal(cool, labelled.sample((6,), torch.tensor(1), torch.Generator().manual_seed(0), temperature=0.5))


def test_saved_and_loaded(tmp_path: object) -> None:
    for model in (flow(classes=2), DiscreteFlow(3, 5, net=TokenTransformer(3, 5, 8, 1, heads=2), source="uniform")):
        fk.save(model, f"{tmp_path}/flow")
        loaded = fk.load(f"{tmp_path}/flow")
        labels = None if model.context_shape is None else torch.tensor([0, 1, -1, 0])
        first, second = (each.log_prob(ROWS.float(), labels, generator=torch.Generator().manual_seed(0)) for each in (model, loaded))
        assert torch.equal(first, second)


def test_drawn_bound_keeps_the_contract() -> None:
    """The conformance suite on a flow whose bound is drawn: only what it declares fails."""
    report = check_distribution(flow(steps=4, corrector=1.0, draws=8))
    assert set(report.expected_failures) == set(flow().known_failures) and len(report.passed) >= 12


def test_shared_weights() -> None:
    """with_sampler, with_bound and guided change what they say and share the rest."""
    model = flow(classes=2, power=2.0)
    other = model.with_sampler(steps=7, corrector=1.0).guided(2.0).with_bound("quadrature")
    assert (other.steps, other.corrector, other.guidance, other.bound, other.power, other.classes) == (7, 1.0, 2.0, "quadrature", 2.0, 2)
    assert {id(p) for p in other.parameters()} == {id(p) for p in model.parameters()}
    assert model.describe()["net"] is None and model.steps == 64


def test_digit_tokens_are_the_pixels_of_digits() -> None:
    tokens, pixels = DigitTokens(classes=True), Digits(form="vector", classes=True)
    assert torch.equal(tokens.test.x, (17 * pixels.test.x).floor())
    assert tokens.test.context is not None and pixels.test.context is not None and torch.equal(tokens.test.context, pixels.test.context)
    assert int(tokens.train.x.max()) == tokens.vocabulary - 1 and tokens.event_shape == (64,)
