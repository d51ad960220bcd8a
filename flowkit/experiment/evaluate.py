"""How good a trained flow is, in numbers that JSON can hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, DataError, FlowkitError, NotInvertibleError
from flowkit.core.flow import Flow
from flowkit.core.progress import progress_bar
from flowkit.data import Split, read_table
from flowkit.evaluation import Coverage, Diagnosis, LatentNormality, bits_per_dim, coverage, diagnose, latent_normality
from flowkit.experiment._energies import weigh, weight_numbers
from flowkit.experiment.baseline import gaussian_mixture
from flowkit.experiment.config import Evaluation
from flowkit.experiment.pieces import Pieces, make_pieces
from flowkit.experiment.record import CONFIG, Run, Units

EXACT = "exact-sample"  # what a target's own samples are called where data have a split
MOST_CHECKED = 2000  # events in the checks of calibration
MOST_NUMBERS, NUMBERS_AT_A_TIME = 2**20, 2**17  # in events whose density is estimated along an ODE; such a solve keeps many copies


def measure(flow: Any, rows: Split, units: Units, options: Evaluation, *, train: Split | None = None, seed: int = 0) -> dict[str, Any]:
    """Held-out likelihood and calibration.

    A density that is estimated along an ODE is slow: it is measured on a random part of the rows, with 2^20 numbers at most.

    Args:
        flow: trained.
        rows: held-out events as the flow sees them.
        units: of the data.
        options: of the config.
        train: rows for the Gaussian mixture; without them, or with a context, there is no comparison.
        seed: of what is drawn.

    Returns:
        ``rows``, ``nll`` and ``nll_error`` in nats per event; ``nll_raw`` in raw units; ``bits_per_dim``; ``baseline*`` and
        the paired ``difference`` of NLLs (below 0 the flow is better); p-values of the checks. An error is one standard error.
    """
    if len(rows.x) < 2:
        raise DataError(f"evaluate: expected at least 2 rows; got {len(rows.x)}.")
    rows = beside(flow, affordable(flow, rows, seed))
    log_prob = _log_prob(flow, rows, options.batch_size, seed)
    metrics: dict[str, Any] = {"rows": len(log_prob), **_mean("nll", -log_prob)}
    outside = int(torch.isneginf(log_prob).sum())
    if outside:
        metrics["outside_support"] = outside
    if units.scale is not None:
        metrics["nll_raw"] = metrics["nll"] - units.log_det
    if units.levels is not None:
        metrics |= _mean("bits_per_dim", bits_per_dim(log_prob, rows.x[0].numel(), units.levels))
    if options.baseline and train is not None and rows.context is None:
        mixture = gaussian_mixture(train.x, rows.x, most=options.components, seed=seed)
        other = torch.from_numpy(mixture.log_prob)
        metrics |= {"baseline": mixture.words, **_mean("baseline_nll", -other)}
        if units.levels is not None:
            metrics["baseline_bits_per_dim"] = float(bits_per_dim(other, rows.x[0].numel(), units.levels).mean())
        metrics |= _mean("difference", other - log_prob)
    return metrics | check_numbers(*calibration(flow, rows, seed=seed))


def evaluate_run(run: Run, path: str | Path | None = None) -> dict[str, Any]:
    """Metrics of a run's flow on the rows of a file, or on its own test split.

    Raises:
        DataError: the rows cannot be used. ConfigError: neither a file nor a data set of the run is there.
    """
    config = run.config
    options = Evaluation() if config is None else Evaluation(**config.evaluation)
    seed = 0 if config is None else config.seed
    if path is not None:
        return {"data": str(path), **measure(run.flow, rows_from_file(run, path), run.units, options, seed=seed)}
    pieces = _pieces(run)
    if pieces.data is None:
        return measure_target(run.flow, pieces.target, options, seed=seed)
    split, rows = pieces.held_out
    return {"split": split, **measure(run.flow, rows, run.units, options, train=pieces.rows("train"), seed=seed)}


def diagnose_run(run: Run, path: str | Path | None = None, *, events: int = 1000) -> Diagnosis:
    """What the layers of a run's flow do to the rows of a file, or to its own held-out rows; to samples where it has no data.

    Raises:
        DataError: the rows cannot be used. ConfigError: neither a file nor a data set of the run is there.
    """
    if events < 1:
        raise ConfigError(f"diagnose: expected a number of events n >= 1; got {events}.")
    seed = 0 if run.config is None else run.config.seed
    generator = generator_for(run.flow, seed)
    if path is not None:
        rows = rows_from_file(run, path)
    else:
        pieces = _pieces(run)
        rows = Split(run.flow.sample((events,), generator=generator)) if pieces.data is None else pieces.held_out[1]
    rows = beside(run.flow, rows)
    return diagnose(run.flow, rows.x[:events], None if rows.context is None else rows.context[:events], generator=generator)


def _pieces(run: Run) -> Pieces:
    if run.config is None:
        raise ConfigError(f"{run.folder}: holds a saved flow but no run, so its test rows are not known. Give rows with --data FILE.")
    return make_pieces(run.config, str(run.folder / CONFIG))


def measure_target(flow: Any, target: Any, options: Evaluation, *, seed: int = 0) -> dict[str, Any]:
    """How well a flow covers a target density.

    Returns:
        ``ess`` as a share of the samples, ``log_z`` by importance sampling, the lower bound ``elbo`` and ``k_hat``; ``nll`` on exact samples where
        there are any. None for what is infinite.
    """
    generator = generator_for(flow, seed)
    target = target.to(generator.device)
    metrics = weight_numbers(weigh(flow, target, options.samples, batch_size=options.batch_size, generator=generator))
    if target.log_normalizer is not None:
        metrics["log_z_exact"] = float(target.log_normalizer)
    if getattr(target, "can_sample", False):
        exact = target.sample(options.samples, generator=generator)
        metrics |= {"split": EXACT, "rows": len(exact), **_mean("nll", -_log_prob(flow, Split(exact), options.batch_size, seed))}
    return metrics


def calibration(flow: Any, rows: Split, *, seed: int = 0) -> tuple[LatentNormality | None, Coverage | None]:
    """The checks of calibration that a flow allows, on at most 2,000 events; fewer of a continuous flow.

    Coverage is left out for bounds of a density, which rank events otherwise than it, and for estimates along an ODE.
    """
    solves, width = hasattr(flow, "field"), rows.x[0].numel()
    slow = is_slow(flow)
    most = max(2, NUMBERS_AT_A_TIME // width) if slow else MOST_CHECKED if rows.context is None or not solves else 300
    rows = beside(flow, Split(rows.x[:most], None if rows.context is None else rows.context[:most]))
    x, context = rows.x[:MOST_CHECKED], None if rows.context is None else rows.context[:MOST_CHECKED]
    latent, covered = None, None
    try:
        latent = latent_normality(flow, x, context)
    except (FlowkitError, NotImplementedError):
        latent = None  # another base, or events outside the support
    if slow or getattr(flow, "density", "exact") == "lower_bound":
        return latent, None
    samples = 2000 if context is None else 50 if solves else 200
    try:
        covered = coverage(flow, x, context, samples=samples, generator=generator_for(flow, seed))
    except (ConfigError, NotInvertibleError, NotImplementedError):
        covered = None
    return latent, covered


def check_numbers(latent: LatentNormality | None, covered: Coverage | None) -> dict[str, Any]:
    """P-values of the checks; that of the latents is for all dimensions together (Bonferroni)."""
    numbers: dict[str, Any] = {}
    if latent is not None:
        numbers["latent_p_value"] = min(1.0, float(latent.p_value.min()) * len(latent.p_value))
    if covered is not None:
        numbers["coverage_p_value"] = covered.p_value
    return numbers


def is_slow(flow: Any) -> bool:
    """Whether a density is estimated along an ODE."""
    return hasattr(flow, "field") and getattr(flow, "density", "exact") == "estimate"


def affordable(flow: Any, rows: Split, seed: int) -> Split:
    """Rows that are measured in bounded time, a random part of them in their own order."""
    most = max(2, MOST_NUMBERS // rows.x[0].numel())
    if not is_slow(flow) or len(rows.x) <= most:
        return rows
    kept = torch.randperm(len(rows.x), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return Split(rows.x[kept], None if rows.context is None else rows.context[kept])


def device_of(flow: torch.nn.Module) -> torch.device:
    """Where a model is."""
    return next((tensor.device for tensor in (*flow.parameters(), *flow.buffers())), torch.device("cpu"))


def generator_for(flow: torch.nn.Module, seed: int) -> torch.Generator:
    """A seeded generator on a model's device."""
    return torch.Generator(device_of(flow)).manual_seed(seed)


def beside(flow: torch.nn.Module, rows: Split) -> Split:
    """Rows on a model's device."""
    device = device_of(flow)
    return Split(rows.x.to(device), None if rows.context is None else rows.context.to(device))


def rows_from_file(run: Run, path: str | Path) -> Split:
    """Rows in a file as the flow of a run sees them.

    Columns are found by the names of the run's table, else by position, and are in raw units. Arrays may have the shape of
    the events. A conditional flow needs an .npz file with arrays ``x`` and ``context``, the context as the flow takes it.

    Raises:
        DataError: the file cannot be read, or its columns are not those of the run.
    """
    path, units, flow = Path(path), run.units, run.flow
    if flow.context_shape is not None or (len(units.event_shape) > 1 and path.suffix.lower() in (".npy", ".npz")):
        raw, context = _arrays(path, conditional=flow.context_shape is not None)
    else:
        table = read_table(path)
        if units.names is not None and set(units.names) <= set(table.names):
            table = read_table(path, units.names)
        raw, context = torch.from_numpy(table.values), None
    width = math.prod(units.event_shape)
    if raw[:1].numel() != width:
        names = f" ({', '.join(units.names)})" if units.names and width <= 20 else ""
        raise DataError(f"{path}: expected {width} columns{names}; got {raw[:1].numel()}. Give the columns that the flow was fitted on.")
    dtype = next((p.dtype for p in flow.parameters() if p.is_floating_point()), torch.float32)
    x = units.standardize(raw.flatten(1).double()).to(dtype)
    if context is not None and context.is_floating_point():
        context = context.to(dtype)
    return Split(x.reshape(-1, *_sizes(flow, units)), context)


def _sizes(flow: Any, units: Units) -> tuple[int, ...]:
    shape = tuple(flow.event_shape)
    return (math.prod(units.event_shape),) if len(shape) == 1 else units.event_shape


def _arrays(path: Path, *, conditional: bool) -> tuple[Tensor, Tensor | None]:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give the path of a .csv, .npy, .npz or .parquet file.")
    wanted = ("x", "context") if conditional else ("x",)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # a damaged file fails in numpy, zipfile or zlib
        remedy = "A conditional flow needs an .npz with x and context." if conditional else "Save it with numpy.save."
        raise DataError(f"{path}: not a readable NumPy file ({' '.join(str(error).split())[:120]}). {remedy}") from None
    for name in wanted:
        if name not in arrays or arrays[name].dtype.kind not in "biuf" or not np.isfinite(arrays[name]).all() or arrays[name].ndim == 0:
            raise DataError(f"{path}: expected an array '{name}' of finite numbers; it holds {', '.join(arrays)}. Save it with numpy.savez.")
    x = torch.from_numpy(np.ascontiguousarray(arrays["x"], dtype=np.float64))
    if not conditional:
        return x, None
    context = torch.from_numpy(np.ascontiguousarray(arrays["context"]))
    context = context if context.is_floating_point() else context.long()
    if len(context) != len(x):
        raise DataError(f"{path}: {len(x)} rows of x but {len(context)} of context.")
    return x, context


def _log_prob(flow: Any, rows: Split, batch_size: int, seed: int) -> Tensor:
    """Log-densities (N,), float64 on the CPU, evaluated in parts."""
    options: dict[str, Any] = {"batch_size": batch_size, "generator": generator_for(flow, seed)} if isinstance(flow, Flow) else {}
    with torch.no_grad():
        log_prob = _slow_log_prob(flow, rows, batch_size, options["generator"]) if is_slow(flow) else flow.log_prob(rows.x, rows.context, **options)
    if not isinstance(log_prob, Tensor):
        raise ConfigError(f"evaluate: {type(flow).__name__} gives no density in the data space, so it has no NLL.")
    return log_prob.double().cpu()


def _slow_log_prob(flow: Any, rows: Split, batch_size: int, generator: torch.Generator) -> Tensor:
    """Log-densities a few rows at a time, with a bar on standard error where somebody looks at it."""
    size = max(1, min(batch_size, NUMBERS_AT_A_TIME // rows.x[0].numel()))
    parts = []
    with progress_bar("evaluate", len(rows.x), show=len(rows.x) > size) as advance:
        for start in range(0, len(rows.x), size):
            context = None if rows.context is None else rows.context[start : start + size]
            parts.append(flow.log_prob(rows.x[start : start + size], context, generator=generator))
            advance(len(parts[-1]))
    return torch.cat(parts)


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """A mean and its standard error, NaN of one value."""
    values = values.double()
    return {name: float(values.mean()), f"{name}_error": float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan}
