"""One page about a run, complete in itself: numbers, pictures, how to make it again."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.core.build import build
from flowkit.core.errors import CheckpointError, FlowkitError
from flowkit.core.registry import DATA
from flowkit.data import Dataset, Split
from flowkit.evaluation import Coverage, LatentNormality
from flowkit.experiment import _html as html
from flowkit.experiment._energies import TRUSTED, energy_picture, weigh
from flowkit.experiment._meanings import is_finite, rows_of
from flowkit.experiment._numbers import duration, p_value, rounded, with_error
from flowkit.experiment._pictures import as_png, curves, noise_to_data, samples_against
from flowkit.experiment.config import Evaluation
from flowkit.experiment.evaluate import EXACT, calibration, generator_for
from flowkit.experiment.pieces import as_events, make_target
from flowkit.experiment.record import METRICS, PICTURES, REPORT, Run, read_json, read_run
from flowkit.plots import coverage_plot, latent_qq
from flowkit.training.files import make_folder, write_bytes
from flowkit.training.run_folder import METRICS as HISTORY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXACT_SAMPLES, WEIGHED = 4000, 10_000  # of a target, and of the flow, in the pictures


def write_report(folder: str | Path, path: str | Path | None = None, *, device: str = "cpu") -> Path:
    """Write the report of a finished run: one HTML file without links to anything, and its pictures as PNG files beside it.

    Args:
        folder: of the run.
        path: of the file; default ``report.html`` in the folder.
        device: where the flow is sampled.

    Raises:
        CheckpointError: the folder holds no finished run.
    """
    run = read_run(folder, device=device)
    if run.config is None:
        raise CheckpointError(f"{folder}: holds a saved flow but no run, so there is nothing to report. Give the folder that 'flowkit fit' made.")
    target = run.folder / REPORT if path is None else Path(path)
    make_folder(target.parent, "report")
    write_bytes(target, _Page(run).text().encode())
    return target


class _Page:
    """What is gathered for a page, and its parts from top to bottom."""

    def __init__(self, run: Run) -> None:
        assert run.config is not None
        self.run, self.config = run, run.config
        self.metrics: dict[str, Any] = read_json(run.folder / METRICS) or {}
        self.history = _read_history(run.folder / HISTORY)
        self.target: Any = None
        self.rows, self.missing, self.train_rows = self._held_out()

    def text(self) -> str:
        """The document."""
        seen = [self._samples(), self._paths(), self._energies(), self._curves(), self._checks()]
        parts = [self._header(), self._cards(), *seen, self._table(), self._model(), self._again()]
        versions = " · ".join(f"{name} {self.metrics[name]}" for name in ("flowkit", "torch") if name in self.metrics)
        return html.page(f"{self.config.name}: flowkit report", [*(part for part in parts if part), html.footer(versions)])

    def _held_out(self) -> tuple[Split | None, str, int | None]:
        """The held-out rows as the flow sees them, or exact samples of a target; or why there are none."""
        if self.config.data is None:
            return (*self._exact(), None)
        try:
            data: Dataset = build(self.config.data, DATA, path="data")
            split = getattr(data, self.metrics.get("split", "test"))
            return as_events(split if len(split.x) > 1 else data.train, self.run.flow), "", len(data.train.x)
        except (FlowkitError, OSError) as error:
            return None, f"The data are not at hand, so what needs them is left out: {error}", None

    def _exact(self) -> tuple[Split | None, str]:
        """Exact samples of the target where it has any; or why it cannot be asked."""
        try:
            generator = generator_for(self.run.flow, self.config.seed)
            self.target = make_target(self.config.target).to(generator.device)
            return (Split(self.target.sample(EXACT_SAMPLES, generator=generator)) if getattr(self.target, "can_sample", False) else None), ""
        except (FlowkitError, OSError) as error:
            return None, f"The target is not at hand, so what needs it is left out: {error}"

    # -- parts --------------------------------------------------------------------------------------------------

    def _header(self) -> str:
        source = self.config.data if self.config.data is not None else self.config.target
        flow, what = _spoken(self.config.flow), _spoken(source)
        shape = " × ".join(map(str, self.run.units.event_shape))
        rows = f", {self.train_rows:,} training rows" if self.train_rows else ""
        what = what if self.config.target is None else f"the density of {what}, without data"
        lead = f"{flow[:1].upper()}{flow[1:]}, trained on {what} ({shape} {'numbers' if shape != '1' else 'number'} an event{rows}). {self._verdict()}".strip()
        meta = " · ".join(str(part) for part in (self.metrics.get("finished", "").replace("T", " "), self.run.folder, f"seed {self.config.seed}") if str(part))
        return html.header("flowkit report", self.config.name, lead, meta)

    def _verdict(self) -> str:
        m = self.metrics
        if is_finite(m.get("difference")) and m.get("difference_error"):
            gap, error = m["difference"], m["difference_error"]
            if abs(gap) < 2 * error:
                return f"On held-out data it is as good as a {m['baseline']}, within the error."
            return f"On held-out data it is {with_error(abs(gap), error)} nats an event {'better' if gap < 0 else 'worse'} than a {m['baseline']}."
        if is_finite(m.get("k_hat")) and m["k_hat"] > TRUSTED:
            return f"The weights to the target have a heavy tail (k_hat {rounded(m['k_hat'])}): trust neither log Z nor the effective sample size."
        return ""

    def _cards(self) -> str:
        m, items = self.metrics, []
        split = {"test": "Test", "validation": "Validation", "train": "Training", EXACT: "Exact-sample"}.get(m.get("split", "test"), "Test")
        if "bits_per_dim" in m:
            note = f"{with_error(m['nll'], m.get('nll_error'))} nats an event"
            items.append(html.card(f"{split} bits per dimension", *_value(m["bits_per_dim"], m.get("bits_per_dim_error")), note))
        elif "nll" in m:
            note = f"nats an event; {rounded(m['nll_raw'], m.get('nll_error'))} in raw units" if "nll_raw" in m else "nats an event"
            items.append(html.card(f"{split} NLL", *_value(m["nll"], m.get("nll_error")), note))
        if "ess" in m:
            items.append(html.card("Effective sample size", f"{100 * m['ess']:.1f} %", "", f"of {m['samples']:,} samples"))
            items.append(
                html.card(
                    "log Z",
                    *_value(m["log_z"], m.get("log_z_error")),
                    f"exact {rounded(m['log_z_exact'], m.get('log_z_error'))}" if "log_z_exact" in m else "nats",
                )
            )
        if "difference" in m:
            gap, error = m["difference"], m.get("difference_error") or 0.0
            mood = "" if gap is None or abs(gap) < 2 * error else "good" if gap < 0 else "bad"
            number, spread = _value(gap, error)
            sign = "+" if gap is not None and gap > 0 else ""
            items.append(html.card("Flow minus mixture", f"{sign}{number}", spread, f"nats an event; {m['baseline']}", mood))
        if "parameters" in m:
            items.append(html.card("Parameters", f"{m['parameters']:,}", "", f"{str(self.config.flow.get('name', 'flow')).replace('_', ' ')}"))
        if "steps" in m:
            best = f"best weights at step {m['best_step']:,}" if m.get("best_step") is not None else "last weights kept"
            items.append(html.card("Steps", f"{m['steps']:,}", "", best))
        if "seconds" in m:
            items.append(html.card("Training time", duration(m["seconds"]), "", f"on {m.get('device', 'cpu').replace('cpu', 'the CPU')}"))
        return html.cards(items) if items else ""

    def _samples(self) -> str:
        drawn = samples_against(self.run, self.rows, self.config.seed)
        if drawn is None:
            return html.section("Samples", self.missing or "The flow needs a context, and there are no data to take one from.")
        figure, words = drawn
        title = "Samples" if self.rows is None else "Samples against data" if self.target is None else "Samples against exact ones"
        return html.section(title, f"{words} {self.missing}".strip(), self._draw(figure, "samples", words))

    def _paths(self) -> str:
        drawn = noise_to_data(self.run, self.rows, self.config.seed)
        if drawn is None:
            return ""
        shown, words = drawn
        title = "From noise to data"
        if not isinstance(shown, bytes):
            return html.section(title, words, self._draw(shown, "paths", words))
        self._keep("paths.gif", shown)
        return html.section(title, words, html.picture(shown, words, int.from_bytes(shown[6:8], "little")))  # the width in a GIF's head

    def _energies(self) -> str:
        if self.target is None:
            return ""
        options, generator = Evaluation(**self.config.evaluation), generator_for(self.run.flow, self.config.seed)
        weighed = weigh(self.run.flow, self.target, min(options.samples, WEIGHED), batch_size=options.batch_size, generator=generator)
        drawn = energy_picture(weighed, None if self.rows is None else -self.target.log_density(self.rows.x).double().cpu())
        return "" if drawn is None else html.section("Energies", drawn[1], self._draw(drawn[0], "energies", "Histograms of energies."))

    def _curves(self) -> str:
        figure = curves(self.history)
        if figure is None:
            return ""
        best = self.metrics.get("best_step")
        words = f"The weights kept are those of step {best:,}, where the validation loss was lowest." if best is not None else "The last weights were kept."
        return html.section("Training", words, self._draw(figure, "training", "Loss against step."))

    def _checks(self) -> str:
        # a sampler learnt from an energy whose density is a bound noises data by a fixed rule: its latents are normal whatever it has learnt
        if self.rows is None or (self.target is not None and getattr(self.run.flow, "density", "exact") != "exact"):
            return ""
        latent, covered = calibration(self.run.flow, self.rows, seed=self.config.seed)
        halves = []
        if latent is not None:
            halves.append(html.column("Latents", self._of(_latent_words(latent)), self._draw(latent_qq(latent), "latents", "Quantiles of the latents.")))
        if covered is not None:
            halves.append(
                html.column("Coverage", self._of(_coverage_words(covered)), self._draw(coverage_plot(covered), "coverage", "Coverage of density regions."))
            )
        if not halves:
            return ""
        intro = "Two questions to a density that no likelihood answers: does it turn data into noise, and are its regions as probable as it says?"
        return html.section("Is it calibrated?", intro, html.pair(*halves) if len(halves) == 2 else halves[0])

    def _of(self, words: str) -> str:
        """Words about held-out data, for exact samples where these stand for them."""
        return words if self.target is None else words.replace("Held-out data", "Exact samples of the target").replace("the data", "the exact samples")

    def _table(self) -> str:
        rows = rows_of(self.metrics)
        return html.section("Metrics", "", html.table(("", "value", "± error", ""), rows)) if rows else ""

    def _model(self) -> str:
        intro = "From latent to data, one row a map."
        return html.section("The flow", intro, html.code(self.run.flow.summary())) if hasattr(self.run.flow, "summary") else ""

    def _again(self) -> str:
        folder = self.run.folder
        lines = [
            f"flowkit fit {folder}/config.yaml",
            f"flowkit sample {folder} -n 10000 -o samples.npz",
            f"flowkit evaluate {folder}",
        ]
        intro = "The config below, seed included, is the whole run: on the same machine it gives the same flow again."
        return html.section("How to make it again", intro, html.code("\n".join(lines)), html.yaml_code(self.config.as_yaml()))

    def _draw(self, figure: Figure, name: str, alt: str) -> str:
        """A figure in the page, and as a file beside it."""
        content = as_png(figure)
        self._keep(f"{name}.png", content)
        return html.picture(content, alt, 96 * figure.get_figwidth())

    def _keep(self, name: str, content: bytes) -> None:
        """A picture as a file beside the page."""
        make_folder(self.run.folder / PICTURES, "report")
        write_bytes(self.run.folder / PICTURES / name, content)


def _read_history(path: Path) -> dict[str, list[float]]:
    """The columns of ``metrics.csv``; empty where there is none."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in (rows[0] if rows else {})}


def _spoken(tree: Any) -> str:
    """A description as a noun: an article for a flow's, the bare words for data."""
    if not isinstance(tree, dict):
        return str(tree).replace("_", " ")
    name = str(tree.get("name", "")).replace("_", " ")
    part = tree.get("dataset") or tree.get("path")
    return f"{part} ({name})" if part else name


def _value(value: Any, error: Any) -> tuple[str, str]:
    """What a card shows large, and small beside it."""
    shown = with_error(value, error)
    number, _, rest = shown.partition(" ± ")
    return number, f"± {rest}" if rest else ""


def _latent_words(check: LatentNormality) -> str:
    smallest = min(1.0, float(check.p_value.min()) * len(check.p_value))
    verdict = "no departure from the normal is seen" if smallest > 0.05 else "the latents are not quite normal"
    count = f"for all {len(check.p_value)} dimensions" if len(check.p_value) > 1 else ""
    return f"Held-out data turned into latents should be standard normal: {verdict} (Kolmogorov-Smirnov, {p_value(smallest)} {count}".rstrip() + ")."


def _coverage_words(check: Coverage) -> str:
    off = float((check.observed - check.levels).mean())
    lean = "too wide" if off > 0 else "too narrow"
    verdict = "it does" if check.p_value > 0.05 else f"the flow is {lean} on the whole"
    return f"A region that the flow gives 90 % should hold 90 % of the data: {verdict} ({p_value(check.p_value)})."
