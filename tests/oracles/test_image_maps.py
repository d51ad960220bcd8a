"""Image maps against other implementations and closed forms; float64."""

from __future__ import annotations

from typing import Any

import nflows.transforms as peer
import pytest
import scipy.fft
import torch
from torch import Tensor, nn

from flowkit.bijectors import (
    DCT,
    AllInOneBlock,
    Autoregressive2d,
    BatchNorm,
    Conv1x1,
    Coupling,
    GlowStep,
    Haar,
    ImageCoupling,
    Multiscale,
    Squeeze,
    ToBox,
)
from flowkit.core.errors import ConfigError, DataError, ShapeError
from flowkit.distributions import StandardNormal
from flowkit.flows import Flow
from flowkit.nets import ConvNet, PixelCNN
from flowkit.testing._case import perturb
from flowkit.univariates import Affine, RationalQuadraticSpline, Shift

TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def perturbed(module: nn.Module) -> Any:
    perturb(module.double())
    return module


def assert_close(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> None:
    assert got.shape == want.shape
    assert float((got - want).detach().abs().max()) <= tolerance


def matrix_of(f: Any, shape: tuple[int, ...], context: Tensor | None = None) -> Tensor:
    """The matrix of a map that is affine in z, column by column."""
    size = int(torch.Size(shape).numel())
    context = None if context is None else context.expand(size + 1, -1)
    points = torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, *shape)
    out = f(points, context)[0].flatten(1)
    return (out[1:] - out[0]).T


# -- linear maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["identity", "rotation"])
@pytest.mark.parametrize("form", ["plu", "qr", "exp", "cayley"])
@pytest.mark.parametrize("channels", [2, 3])
def test_conv1x1_is_a_kronecker_product(form: Any, start: Any, channels: int) -> None:
    f = Conv1x1(channels, form, start=start).double()
    fresh = matrix_of(f, (channels, 1, 1))
    wanted = torch.eye(channels).double()
    assert_close(fresh if start == "identity" else fresh @ fresh.T, wanted, 1e-5)  # starts are drawn in float32
    if start == "rotation":
        assert float((fresh - wanted).detach().abs().max()) > 1e-2
        assert float(torch.linalg.det(fresh).detach()) == pytest.approx(1.0, abs=1e-5)
    perturb(f)
    pixel, image = matrix_of(f, (channels, 1, 1)), matrix_of(f, (channels, 2, 3))
    assert_close(image, torch.kron(pixel, torch.eye(6).double()))
    assert_close(f(images(1, channels, 2, 3))[1], torch.linalg.slogdet(image).logabsdet[None])


def test_conv1x1_conditional_has_a_matrix_per_sample() -> None:
    for form in ("plu", "qr", "exp", "cayley"):
        f = perturbed(Conv1x1(2, form, context_features=3, hidden=(4,)))  # type: ignore[arg-type]
        context = images(2, 3)
        _, log_det = f(images(2, 2, 2, 2), context)
        matrices = [matrix_of(f, (2, 2, 2), row[None]) for row in context]
        assert float((matrices[0] - matrices[1]).detach().abs().max()) > 1e-2
        assert_close(log_det, torch.stack([torch.linalg.slogdet(matrix).logabsdet for matrix in matrices]))


def test_conv1x1_against_nflows() -> None:
    theirs = perturbed(peer.OneByOneConvolution(3, identity_init=False))
    with torch.no_grad():
        theirs.bias.zero_()
    ours = Conv1x1(3).double()
    permutation, lower, upper = torch.linalg.lu(matrix_of(theirs, (3, 1, 1)).detach())
    weight = ours._weight
    gather = permutation.argmax(1)
    state = {"gather": gather, "scatter": gather.argsort(), "sign": upper.diagonal().sign()}
    values = {"log_diagonal": upper.diagonal().abs().log(), "factors": lower.tril(-1) + upper.triu(1)}
    weight.load_state_dict(state | {f"learned.values.{name}": value for name, value in values.items()})
    x = images(4, 3, 2, 5)
    for mine, other in ((ours, theirs), (ours.inverse, theirs.inverse)):
        for got, want in zip(mine(x), other(x), strict=True):
            assert_close(got, want)


def test_conv1x1_against_pyro() -> None:
    transforms = pytest.importorskip("pyro.distributions.transforms")
    theirs = transforms.GeneralizedChannelPermute(channels=3).double()
    ours = Conv1x1(3).double()
    both = theirs.LU.detach()
    gather = theirs.permutation.argmax(1)
    state = {"gather": gather, "scatter": gather.argsort(), "sign": both.diagonal().sign()}
    values = {"log_diagonal": both.diagonal().abs().log(), "factors": both.tril(-1) + both.triu(1)}
    ours._weight.load_state_dict(state | {f"learned.values.{name}": value for name, value in values.items()})
    x = images(4, 3, 2, 5)
    y, log_det = ours(x)
    assert_close(y, theirs(x))
    assert_close(log_det, theirs.log_abs_det_jacobian(x, y))


def test_haar_against_freia() -> None:
    modules = pytest.importorskip("FrEIA.modules")
    x = images(3, 2, 4, 6)
    for order in ("channel", "wavelet"):
        theirs = modules.HaarDownsampling([(2, 4, 6)], order_by_wavelet=order == "wavelet").double()
        ours = Haar(2, order=order).double()  # type: ignore[arg-type]
        assert_close(ours(x)[0], theirs([x])[0][0])
    matrix = matrix_of(ours, (2, 4, 6))
    assert_close(matrix @ matrix.T, torch.eye(48).double())


def test_haar_of_a_constant_image() -> None:
    y = Haar(1).double()(torch.full((1, 2, 2), 3.0).double())[0]
    assert y.flatten().tolist() == [6.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(5,), (2, 4, 3), (1, 1, 7)])
def test_dct_against_scipy(shape: tuple[int, ...]) -> None:
    x = images(3, *shape)
    axes = (-1,) if len(shape) == 1 else (-2, -1)
    y, log_det = DCT(shape)(x)
    assert_close(y, torch.as_tensor(scipy.fft.dctn(x.numpy(), axes=axes, norm="ortho")))
    assert_close(DCT(shape, axes=(0,)).inverse(x)[0], torch.as_tensor(scipy.fft.idct(x.numpy(), axis=1, norm="ortho")))
    assert log_det.tolist() == [0.0] * 3


def test_dct_stays_exact_in_float64() -> None:
    """Built under float32, long axes: the round trip is at rounding level of the input's dtype."""
    f = DCT((700,))
    x = images(2, 700)
    assert_close(f.inverse(f(x)[0])[0], x, 1e-12)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_squeeze_is_pixel_unshuffle(factor: int) -> None:
    x = images(2, 3, 12, 24)
    f = Squeeze(3, factor)
    assert torch.equal(f(x)[0], nn.functional.pixel_unshuffle(x, factor))
    assert torch.equal((~f)(f(x)[0])[0], x)


def test_squeeze_against_freia() -> None:
    modules = pytest.importorskip("FrEIA.modules")
    x = images(2, 3, 4, 6)
    for order, legacy in (("channel", False), ("position", True)):
        theirs = modules.IRevNetDownsampling([(3, 4, 6)], legacy_backend=legacy).double()
        assert torch.equal(Squeeze(3, order=order)(x)[0], theirs([x])[0][0])  # type: ignore[arg-type]


def test_squeeze_orders() -> None:
    x = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[10.0, 11.0], [12.0, 13.0]]])
    ordered = {order: Squeeze(2, order=order)(x)[0].flatten().tolist() for order in ("channel", "position", "checkerboard")}  # type: ignore[arg-type]
    assert ordered["channel"] == [0, 1, 2, 3, 10, 11, 12, 13]
    assert ordered["position"] == [0, 10, 1, 11, 2, 12, 3, 13]
    assert ordered["checkerboard"] == [0, 10, 3, 13, 1, 11, 2, 12]
    tall = torch.arange(6.0).reshape(1, 3, 2)
    assert Squeeze(1, (3, 1))(tall)[0].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert Squeeze(1, (1, 2))(tall)[0].flatten().tolist() == [0, 2, 4, 1, 3, 5]
    with pytest.raises(ShapeError, match="multiples"):
        Squeeze(1)(torch.zeros(1, 3, 4))


# -- normalisation ----------------------------------------------------------------------------------------------


def test_batch_norm_against_torch() -> None:
    """With the same running statistics it is torch's layer in eval mode, in train mode too, and has an inverse."""
    ours, theirs = perturbed(BatchNorm((3, None, None))), nn.BatchNorm2d(3, momentum=0.1).double()
    ours.initialized.fill_(True)
    for _ in range(3):
        batch = 2 + 3 * images(50, 3, 4, 4)
        theirs(batch)
        ours.update(batch)
    count = 50 * 16
    with torch.no_grad():
        assert_close(ours.mean.flatten(), theirs.running_mean)  # type: ignore[arg-type]
        left = 0.9**3  # of the initial variance; torch's running variance divides by n - 1
        assert_close((ours.var.flatten() - left) * count / (count - 1) + left, theirs.running_var)  # type: ignore[arg-type]
        theirs.running_var.copy_(ours.var.flatten())  # type: ignore[union-attr]
        theirs.weight.copy_(ours.log_scale.exp().flatten())
        theirs.bias.copy_(ours.shift.flatten())
    x = images(5, 3, 4, 4)
    wanted = theirs.eval()(x)
    for mode in (True, False):
        y, log_det = ours.train(mode)(x)
        back, back_log_det = ours.inverse(y)
        assert_close(y, wanted)
        assert_close(back, x)
        assert_close(log_det, -back_log_det)


@pytest.mark.parametrize("inverse", [False, True])
def test_batch_norm_initialises_once(inverse: bool) -> None:
    f = BatchNorm((2,), eps=1e-12).double()
    with torch.no_grad():
        f.shift.fill_(0.5 if inverse else 0.0)
    out = f.initialize(4 + 3 * images(100, 2), inverse=inverse)
    assert_close(out.mean(0), torch.zeros(2).double(), 1e-8)
    assert_close(out.std(0, correction=0), torch.ones(2).double(), 1e-8)
    before = f.mean.clone()
    f.initialize(images(10, 2))
    assert torch.equal(f.mean, before)
    with pytest.raises(DataError, match="constant"):
        f.update(torch.ones(4, 2).double())


# -- coupling and blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["checkerboard", "checkerboard_reversed"])
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 2, 4), (1, 1, 2), (1, 3, 1)])
def test_checkerboard_maps_one_colour(mask: Any, shape: tuple[int, int, int]) -> None:
    f = perturbed(ImageCoupling(shape[0], Affine(), (8,), mask))
    x = images(2, *shape)
    y, _ = f(x)
    odd = (torch.arange(shape[1])[:, None] + torch.arange(shape[2])) % 2 == (mask == "checkerboard")
    assert torch.equal(y != x, odd.expand_as(x))
    matrix = torch.autograd.functional.jacobian(lambda v: f(v)[0], x[0]).reshape(x[0].numel(), -1)  # type: ignore[no-untyped-call]
    among = matrix[odd.expand(shape).flatten()][:, odd.expand(shape).flatten()]
    assert_close(among, torch.diag(among.diagonal()))  # no mapped pixel sees another one


@pytest.mark.parametrize(("mask", "mapped"), [("channel", [1, 2]), ("channel_reversed", [0, 1])])
def test_channel_mask(mask: Any, mapped: list[int]) -> None:
    f = perturbed(ImageCoupling(3, RationalQuadraticSpline(bins=3, bound=10.0), (8,), mask))
    x = images(2, 3, 3, 5)
    moved = (f(x)[0] != x).flatten(2)
    assert [c for c in range(3) if bool(moved[:, c].all())] == mapped
    assert not bool(moved[:, [c for c in range(3) if c not in mapped]].any())


def test_image_coupling_starts_at_the_identity_and_refuses_what_cannot_be_split() -> None:
    x = images(2, 2, 3, 3)
    assert_close(ImageCoupling(2, RationalQuadraticSpline(bins=4)).double()(x)[0], x, 1e-6)  # starts are set in float32
    with pytest.raises(ConfigError, match="checkerboard"):
        ImageCoupling(1, Shift())
    with pytest.raises(ShapeError, match="two pixels"):
        ImageCoupling(1, Shift(), mask="checkerboard")(torch.zeros(1, 1, 1))
    with pytest.raises(ConfigError, match="one size"):
        ImageCoupling(2, RationalQuadraticSpline(bound=(0.0, 1.0), ends="bounded"))


def test_options_per_coordinate_are_per_channel() -> None:
    spline = RationalQuadraticSpline(bins=3, bound=2.0, ends=["linear", "bounded", "linear"])
    for f in (perturbed(ImageCoupling((3, 2, 2), spline, (4,))), perturbed(Autoregressive2d((3, 2, 2), spline, (4,)))):
        assert torch.isfinite(f.domain.low_buffer).flatten(1).all(1).tolist() == [False, True, False]
        z = images(4, 3, 2, 2).clamp(-1.9, 1.9)
        x, log_det = f(z)
        back, back_log_det = f.inverse(x)
        assert_close(back, z, 1e-9)
        assert_close(back_log_det, -log_det, 1e-9)
        far = torch.full((3, 2, 2), 5.0, dtype=torch.float64)
        far[1] = 0.0
        assert bool((f(far)[0][2] == 5.0).all())  # linear tails: the identity outside the spline


def test_multiscale_of_a_bounded_image() -> None:
    """Outside the first stage's box the density is zero, inside it is finite."""
    to_unit = ToBox(torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    flow = Flow(StandardNormal(16), Multiscale((1, 4, 4), [~to_unit >> Squeeze(1) >> GlowStep(4, (4,)), GlowStep(2, (4,))])).double()
    x = torch.rand(3, 1, 4, 4).double()
    x[1, 0, 2, 2] = 2.0
    assert torch.isfinite(flow.log_prob(x)).tolist() == [True, False, True]
    sample = flow.sample(50)
    assert bool(((sample >= 0) & (sample <= 1)).all())


def test_coupling_of_single_pixels_is_the_vector_coupling() -> None:
    """On 1 x 1 images a convolution is a linear map of the centre weights."""
    ours, vector = perturbed(ImageCoupling(4, Affine(), (6, 6))), perturbed(Coupling(4, Affine(), (6, 6)))
    with torch.no_grad():
        for conv, linear in zip((ours._net.first, ours._net.middle[0], ours._net.last), (*vector._net.layers[::2], vector._net.last), strict=True):
            middle = conv.kernel_size[0] // 2
            linear.weight.copy_(conv.weight[..., middle, middle])
            linear.bias.copy_(conv.bias)
    x = images(5, 4)
    (image, image_log_det), (flat, log_det) = ours(x[..., None, None]), vector(x)
    assert_close(image.flatten(1), flat)
    assert_close(image_log_det, log_det)


def test_conv_net() -> None:
    net = perturbed(ConvNet(2, 3, (4, 5, 6), context_features=2))
    context = images(7, 2)
    for height, width in ((3, 5), (1, 1)):
        x = images(7, 2, height, width)
        out = net(x, context)
        assert out.shape == (7, 3, height, width)
        assert_close(net(x[0], context[0]), out[0])
        assert bool((net(x, context + 1) != out).all())
    assert net(x[:0], context[:0]).shape == (0, 3, 1, 1)


def test_glow_step_reaches_its_normalisation() -> None:
    step = GlowStep(4, (8,)).double()
    x = 3 + 2 * images(64, 4, 2, 2)
    step.initialize(x)
    norm = step.chain[0]
    assert bool(norm.initialized)  # type: ignore[arg-type]
    y = norm(x)[0].transpose(0, 1).flatten(1)
    assert_close(y.mean(1), torch.zeros(4).double())
    assert_close(y.std(1, correction=0), torch.ones(4).double())


@pytest.mark.parametrize("context_features", [0, 2])
@pytest.mark.parametrize("mixing", ["hard", "soft"])
def test_all_in_one_block_against_freia(mixing: Any, context_features: int) -> None:
    modules = pytest.importorskip("FrEIA.modules")

    def subnet(size_in: int, size_out: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size_in, 8), nn.ReLU(), nn.Linear(8, size_out))

    conditions = [(context_features,)] if context_features else []
    options = {"affine_clamping": 1.5, "global_affine_type": "EXP", "permute_soft": mixing == "soft"}
    theirs = modules.AllInOneBlock([(4,)], conditions, subnet_constructor=subnet, **options).double()
    ours = perturbed(AllInOneBlock(4, (8,), clamp=1.5, mixing=mixing, context_features=context_features))
    coupling, norm, mix = ours.chain
    with torch.no_grad():
        first, last = theirs.subnet[0], theirs.subnet[2]
        first.weight.copy_(coupling._net.layers[0].weight)
        first.bias.copy_(coupling._net.layers[0].bias)
        # ours gives (shift, raw) per feature with log-scale 1.5 tanh(raw / 1.5); theirs all scales, then all shifts, a tenth of each
        rows = torch.tensor([1, 3, 0, 2])
        unit = torch.tensor([1 / 1.5, 1 / 1.5, 1.0, 1.0], dtype=torch.float64) * 10
        last.weight.copy_(coupling._net.last.weight[rows] * unit[:, None])
        last.bias.copy_(coupling._net.last.bias[rows] * unit)
        theirs.global_scale.copy_(norm.log_scale[None])
        theirs.global_offset.copy_(norm.shift[None])
        matrix = matrix_of(mix, (4,))
        theirs.w_perm.copy_(matrix)
        theirs.w_perm_inv.copy_(matrix.T)
    assert_close(matrix @ matrix.T, torch.eye(4).double(), 1e-14)
    x, context = images(6, 4), images(6, 2) if context_features else None
    wanted, log_det = theirs([x], c=[context] if context_features else [])
    got, own_log_det = ours(x, context)
    assert_close(got, wanted[0])
    assert_close(own_log_det, log_det)


# -- multiscale -------------------------------------------------------------------------------------------------


def glow(shape: tuple[int, int, int] = (1, 8, 8)) -> Multiscale:
    return Multiscale(shape, [Squeeze(1) >> GlowStep(4, (8,)), Squeeze(2) >> GlowStep(8, (8,)), GlowStep(4, (8,))])


def test_multiscale_latents_round_trip() -> None:
    f = perturbed(glow())
    assert f.latent_shapes == [(2, 4, 4), (4, 2, 2), (4, 2, 2)]
    x = images(3, 1, 8, 8)
    z, log_det = f.inverse(x)
    parts = f.split(z)
    assert [tuple(part.shape[1:]) for part in parts] == f.latent_shapes
    assert torch.equal(f.join(parts), z)
    back, back_log_det = f(f.join(parts))
    assert_close(back, x)
    assert_close(back_log_det, -log_det)
    with pytest.raises(ShapeError, match="missing"):
        f.join(parts[:-1])
    jacobian = torch.autograd.functional.jacobian(lambda v: f.inverse(v)[0], x[0]).reshape(64, 64)  # type: ignore[no-untyped-call]
    assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[0], 1e-8)


def test_multiscale_against_the_steps_by_hand() -> None:
    f = perturbed(glow())
    x = images(3, 1, 8, 8)
    h, first = f.stages[0](x)
    g, second = f.stages[1](h[:, :2])
    last, third = f.stages[2](g[:, :4])
    z, log_det = f.inverse(x)
    for got, want in zip(f.split(z), (h[:, 2:], g[:, 4:], last), strict=True):
        assert_close(got, want)
    assert_close(log_det, first + second + third)


def test_multiscale_initialises_every_stage_and_samples() -> None:
    f = glow().double()
    flow = Flow(StandardNormal(64), f).double()
    flow.initialize(5 + 2 * images(256, 1, 8, 8))
    assert all(bool(module.initialized) for module in f.modules() if hasattr(module, "initialized"))
    assert flow.sample(3).shape == (3, 1, 8, 8)
    assert flow.log_prob(images(2, 1, 8, 8)).shape == (2,)


def test_multiscale_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="split"):
        Multiscale((1, 4, 4), [BatchNorm((1, None, None)), BatchNorm((1, None, None))])
    with pytest.raises(ShapeError, match="reaches stage 1"):
        Multiscale((1, 4, 4), [Squeeze(1), GlowStep(4, (8,))])


# -- raster order -----------------------------------------------------------------------------------------------


def dependence(f: Any, shape: tuple[int, int, int]) -> Tensor:
    """Whether output i depends on input j, both in raster order (rows, columns, channels)."""
    matrix = torch.autograd.functional.jacobian(f, images(*shape))  # type: ignore[no-untyped-call]
    outputs = matrix.shape[0] // shape[0]
    matrix = matrix.reshape(shape[0], outputs, *shape[1:], *shape).abs().amax(1)
    size = int(torch.Size(shape).numel())
    return matrix.permute(1, 2, 0, 4, 5, 3).reshape(size, size) > 0


@pytest.mark.parametrize(("channels", "kernel"), [(1, 3), (3, 3), (2, 5)])
def test_pixel_cnn_sees_all_before_and_nothing_after(channels: int, kernel: int) -> None:
    """On an image as high as the window, every number depends on exactly those before it: no leak and no blind spot in reach."""
    net = perturbed(PixelCNN(channels, 2, (6, 6, 6), kernel=kernel, activation="tanh"))
    shape = (channels, 4, 3)
    size = channels * 12
    assert net.rows_above >= 4
    assert torch.equal(dependence(net, shape), torch.ones(size, size, dtype=torch.bool).tril(-1))


def test_pixel_cnn_with_a_context() -> None:
    net = perturbed(PixelCNN(2, 3, (4,), context_features=2, activation="tanh"))
    x, context = images(5, 2, 3, 3), images(5, 2)
    out = net(x, context)
    assert out.shape == (5, 6, 3, 3)
    assert bool((net(x, context + 1) != out).all())
    assert_close(net(x[0], context[0]), out[0])


def test_autoregressive_2d_is_triangular_in_raster_order() -> None:
    f = perturbed(Autoregressive2d((2, 3, 3), Affine(), (6, 6), activation="tanh"))
    assert torch.equal(dependence(lambda v: f(v)[0], (2, 3, 3)), torch.ones(18, 18, dtype=torch.bool).tril())


def test_autoregressive_2d_inverse_on_rows_in_reach() -> None:
    """Images higher than the net can see: the inverse uses only the rows in reach, and is still exact; any size goes."""
    f = perturbed(Autoregressive2d(2, RationalQuadraticSpline(bins=3), (4,), context_features=1, activation="tanh"))
    for height, width in ((6, 3), (1, 2)):
        z, context = images(3, 2, height, width), images(3, 1)
        x, log_det = f(z, context)
        back, back_log_det = f.inverse(x, context)
        assert_close(back, z, 1e-9)
        assert_close(back_log_det, -log_det, 1e-9)


def test_autoregressive_2d_starts_at_the_identity() -> None:
    z = images(2, 3, 2, 2)
    assert_close(Autoregressive2d(3, RationalQuadraticSpline(bins=4)).double()(z)[0], z, 1e-6)
