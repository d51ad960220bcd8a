"""Estimates of log det(I + J) for residual maps: bias of value and gradient, memory, and the inverse, beside normflows.

Both libraries get the same network object: a multilayer perceptron whose weights have spectral norms that multiply to L. The truth is
slogdet of the full Jacobian and its gradient by autograd. A call evaluates ROWS copies of one point; its mean is one draw (the number of terms
is shared by the rows of a call in both libraries), and standard errors are over calls. Gradients are compared along the true gradient and
along two fixed random directions of (x, all parameters).

    python benchmarks/residual_log_det.py            # 5,000 calls each, about 5 minutes; writes benchmarks/results/residual_log_det.md
    python benchmarks/residual_log_det.py 1000       # a quick look, writes nothing
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from flowkit.bijectors import ResidualOf

ROWS = 4
RATE = 0.1  # the variance is finite for L^2 < 0.9; at the 0.5 of the paper it would not be for L = 0.9
Draw = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A fixed perceptron D -> 32 -> 32 -> D whose weights' spectral norms multiply to ``lipschitz``.

    The first two weights are isometries W1, W2 and the last is S (W2 W1)' with S symmetric of eigenvalues -1 .. 0.6, so that the Jacobian
    comes near the bound and the series converges as slowly as it may.
    """

    context_features = 0

    def __init__(self, features: int, lipschitz: float, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.lipschitz, self.in_shape = lipschitz, (features,)
        generator = torch.Generator().manual_seed(seed)

        def isometry(rows: int, columns: int) -> Tensor:
            return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q

        first, second, frame = isometry(width, features), isometry(width, width), isometry(features, features)
        symmetric = frame @ torch.diag(torch.linspace(-1.0, 0.6, features, dtype=torch.float64)) @ frame.mT
        share = lipschitz ** (1 / 3)
        sizes = [(features, width), (width, width), (width, features)]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in sizes).double()
        with torch.no_grad():
            for layer, weight in zip(self.layers, (first, second, symmetric @ (second @ first).mT), strict=True):
                layer.weight.copy_(share * weight)
                layer.bias.copy_(0.5 + 0.1 * torch.randn(layer.bias.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = nn.functional.elu(layer(x))
        return self.layers[-1](x)


class Result(NamedTuple):
    """Bias in standard errors, spread and cost of one estimator."""

    value_bias: float  # (mean - truth) / standard error
    value_error: float  # mean - truth
    spread: float  # standard deviation of a call's mean
    gradient_bias: float  # largest of three directions, in standard errors
    gradient_ratio: float  # mean gradient along the true one, over its length
    milliseconds: float  # a call, forward and backward


def truth(net: Net, x: Tensor) -> tuple[float, list[Tensor]]:
    """log det(I + J) at one point and its gradient in x and every parameter."""
    x = x.detach().clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(net, x, create_graph=True)
    log_det = torch.linalg.slogdet(torch.eye(len(x), dtype=x.dtype) + jacobian).logabsdet
    gradients = torch.autograd.grad(log_det, [x, *net.parameters()], materialize_grads=True)
    return float(log_det.detach()), [gradient.detach() for gradient in gradients]


def study(draw: Draw, net: Net, x: Tensor, calls: int, rows: int = ROWS) -> Result:
    """Draw values and gradients ``calls`` times, each the mean of ``rows``."""
    wanted, gradients = truth(net, x)
    generator = torch.Generator().manual_seed(1)
    length = torch.stack([part.square().sum() for part in gradients]).sum().sqrt()
    ways = [[part / length for part in gradients]]
    for _ in range(2):
        random = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in gradients]
        ways.append([part / torch.stack([each.square().sum() for each in random]).sum().sqrt() for part in random])
    values, slopes, start = [], [], time.perf_counter()
    for _ in range(calls):
        point = x.detach().clone().requires_grad_()
        value = draw(point.expand(rows, -1)).mean()
        found = torch.autograd.grad(value, [point, *net.parameters()], allow_unused=True)
        values.append(float(value.detach()))
        slopes.append([sum(float((g * w).sum()) for g, w in zip(found, way, strict=True) if g is not None) for way in ways])
    spent = time.perf_counter() - start
    drawn, along = torch.tensor(values, dtype=torch.float64), torch.tensor(slopes, dtype=torch.float64)
    exact = torch.tensor([sum(float((g * w).sum()) for g, w in zip(gradients, way, strict=True)) for way in ways], dtype=torch.float64)
    error = drawn.std() / calls**0.5
    off = (along.mean(0) - exact) / (along.std(0) / calls**0.5)
    bias, ratio = float(drawn.mean() - wanted), float(along[:, 0].mean() / exact[0])
    return Result(bias / float(error), bias, float(drawn.std()), float(off.abs().max()), ratio, 1e3 * spent / calls)


def flowkit_draw(net: Net, seed: int = 0, **options: Any) -> Draw:
    """Our estimator, two sure terms as in normflows."""
    f = ResidualOf(net, log_det="roulette", terms=2, rate=RATE, **options)
    generator = torch.Generator().manual_seed(seed)
    return lambda x: f(x, generator=generator)[1]


def normflows_draw(net: Net, training: bool = True, **options: Any) -> Draw:
    """The estimator of normflows, which draws from the global generators of torch and numpy."""
    from normflows.flows.residual import iResBlock

    block = iResBlock(net, geom_p=RATE, n_exact_terms=2, **options).train(training)
    torch.manual_seed(0)
    numpy.random.seed(0)
    return lambda x: block._logdetgrad(x.clone())[1].squeeze(-1)


def saved_bytes(f: ResidualOf, x: Tensor) -> int:
    """Bytes kept for the backward pass of one forward call, parameters and inputs not counted twice."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value, log_det = f(x.clone().requires_grad_(), generator=torch.Generator().manual_seed(0))
        total = sum(kept.values())
        (value.sum() + log_det.sum()).backward()
    return total


def inverse_errors(net: Net, points: Tensor) -> dict[str, tuple[float, int]]:
    """Largest |z + g(z) - x| and evaluations of g, ours and that of normflows, at the same x."""
    from normflows.flows.residual import iResBlock

    f = ResidualOf(net)
    results = {}
    calls = [0]
    handle = net.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    with torch.no_grad():
        for name, solve in {"flowkit": lambda x: f.solve(x)[0], "normflows": iResBlock(net)._inverse_fixed_point}.items():
            calls[0] = 0
            z = solve(points)
            count = calls[0]
            results[name] = (float((z + net(z) - points).abs().max()), count)
    handle.remove()
    return results


def estimators(net: Net) -> dict[str, Draw]:
    """What is compared."""
    return {
        "flowkit roulette, Neumann gradient": flowkit_draw(net),
        "flowkit roulette, 4 orthogonal probes": flowkit_draw(net, probes=4),
        "normflows, training (its default)": normflows_draw(net, neumann_grad=True, grad_in_forward=True),
        "normflows, training, neumann_grad=False": normflows_draw(net, neumann_grad=False, grad_in_forward=False),
    }


def main(calls: int = 5_000) -> None:
    """Run every estimator on the same points and write the table."""
    lines = [
        f"{calls:,} calls of {ROWS} rows each ({calls:,} draws of the number of terms, {calls * ROWS:,} of the probes).",
        f"Geometric lengths, rate {RATE}, 2 sure terms; L = 0.9. Bias in standard errors: at most 3 passes. Times depend on what else the machine does.",
        "The gradient's is the largest of three directions; its ratio is the mean gradient along the true one, over the true length.",
        "",
        "| D | estimator | log det - truth | in standard errors | spread | gradient's bias | gradient's ratio | ms a call |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for features in (4, 16):
        net = Net(features, 0.9)
        x = torch.randn(features, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        for name, draw in estimators(net).items():
            r = study(draw, net, x, calls)
            cells = [str(features), name, f"{r.value_error:+.4f} (of {truth(net, x)[0]:.4f})", f"{r.value_bias:+.1f}", f"{r.spread:.3f}"]
            cells += [f"{r.gradient_bias:.1f}", f"{r.gradient_ratio:.3f}", f"{r.milliseconds:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    net = Net(16, 0.9)
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lines += ["", "Bytes kept for the backward pass of 256 rows, D = 16:", "", "| sure terms | Neumann gradient | gradient of the series |", "|---|---|---|"]
    for terms in (2, 10, 50):
        kept = [saved_bytes(ResidualOf(net, log_det="power_series", terms=terms, gradient=gradient), x) for gradient in ("neumann", "series")]
        lines.append(f"| {terms} | {kept[0]:,} | {kept[1]:,} |")
    lines += ["", "Inverse of 1,000 points, D = 16, float64: largest abs(z + g(z) - x), and evaluations of g:", ""]
    lines += ["| L | flowkit | normflows |", "|---|---|---|"]
    for bound in (0.5, 0.9, 0.97):
        found = inverse_errors(Net(16, bound), 3 * torch.randn(1000, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
        lines.append(f"| {bound} | {found['flowkit'][0]:.1e}, {found['flowkit'][1]} | {found['normflows'][0]:.1e}, {found['normflows'][1]} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if calls >= 5_000:
        from _report import heading, write

        write("residual_log_det.md", heading("Log-determinants of residual maps", ("flowkit", "torch", "normflows")) + "\n" + table)


if __name__ == "__main__":
    main(*(int(float(argument)) for argument in sys.argv[1:]))
