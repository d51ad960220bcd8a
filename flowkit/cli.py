"""The command line: ``flowkit fit | sample | evaluate | diagnose | report | list | bench``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flowkit.core.errors import ConfigError, FlowkitError, UnknownNameError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
Changes = list[tuple[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after the program's name; default those of the process.

    Returns:
        0 done; 2 bad input, told in one line on standard error; 130 interrupted, a fit with a checkpoint written.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except FlowkitError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone, as in ``flowkit list | head``: nothing is left to tell
        return DONE
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _refuse(f"{what}. Choose another path.")
    except KeyboardInterrupt as stop:
        mend = f" A checkpoint is written; continue with: flowkit fit --resume {stop}" if str(stop) else ""
        sys.stderr.write(f"\nflowkit: interrupted.{mend}\n")
        return INTERRUPTED


def _run(words: list[str]) -> int:
    parser, commands = _parsers()
    if not words:
        parser.print_help()
        return DONE
    words, changes = _take_overrides(words)
    _check_words(words, parser, commands)
    try:
        options = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{_sentence(str(error))} See: flowkit {words[0]} --help") from None
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    return _COMMANDS[options.subcommand](options[options.subcommand], changes)


def _refuse(message: str) -> int:
    sys.stderr.write(f"flowkit: {' '.join(message.split())}\n")
    return BAD_INPUT


# -- commands ---------------------------------------------------------------------------------------------------


def _fit(options: Any, changes: Changes) -> int:
    from flowkit.experiment._numbers import with_error
    from flowkit.experiment.config import read_config
    from flowkit.experiment.record import CONFIG, REPORT, SAMPLES
    from flowkit.experiment.run import resume, start

    if options.config is None and options.resume is None:
        raise ConfigError("fit: expected a config; got none. Give the path of a .yaml file, or --resume RUN.")
    path = options.config
    if path is None and changes:
        path = f"{options.resume}/{CONFIG}"
    config = None if path is None else read_config(path, changes)
    if options.resume is not None:
        outcome = resume(options.resume, config, where=str(path))
    else:
        assert config is not None
        outcome = start(config, where=str(path))
    if outcome is None:  # another process of the same run tells
        return DONE
    m = outcome.metrics
    told = [(key, unit) for key, unit in (("nll", "nats"), ("bits_per_dim", "bits/dim"), ("baseline_nll", "nats"), ("log_z", "nats")) if key in m]
    labels = {"nll": f"{m.get('split', 'held-out')} NLL", "bits_per_dim": "bits/dim", "baseline_nll": "mixture NLL", "log_z": "log Z"}
    lines = [(labels[key], f"{with_error(m[key], m.get(f'{key}_error'))} {unit}") for key, unit in told]
    lines += [("report", str(outcome.folder / REPORT)), ("checkpoint", str(outcome.folder / "flow")), ("samples", str(outcome.folder / SAMPLES))]
    sys.stdout.write("".join(f"{label:<12} {text}\n" for label, text in lines))
    return DONE


def _sample(options: Any, changes: Changes) -> int:
    from flowkit.experiment.record import read_run
    from flowkit.experiment.samples import context_of, write_samples

    run = read_run(options.run, device=options.device)
    contexts = None if options.context is None else context_of(run, options.context)
    written = write_samples(
        run, options.output, options.n, seed=options.seed, contexts=contexts, temperature=options.temperature, progress=True
    )
    sys.stdout.write(f"{written.count:,} samples in {written.path}\n")
    return DONE


def _evaluate(options: Any, changes: Changes) -> int:
    from flowkit.experiment._meanings import text_table
    from flowkit.experiment.evaluate import evaluate_run
    from flowkit.experiment.record import finite, read_run

    metrics = evaluate_run(read_run(options.run, device=options.device), options.data)
    sys.stdout.write(json.dumps(finite(metrics), allow_nan=False) + "\n")
    sys.stdout.flush()
    sys.stderr.write(text_table(metrics))
    return DONE


def _diagnose(options: Any, changes: Changes) -> int:
    from flowkit.experiment.evaluate import diagnose_run
    from flowkit.experiment.record import finite, read_run

    diagnosis = diagnose_run(read_run(options.run, device=options.device), options.data, events=options.n)
    sys.stdout.write(json.dumps(finite(diagnosis.as_dict()), allow_nan=False) + "\n")
    sys.stdout.flush()
    sys.stderr.write(f"{diagnosis}\n")
    return DONE


def _report(options: Any, changes: Changes) -> int:
    from flowkit.experiment.report import write_report

    sys.stdout.write(f"{write_report(options.run, options.output, device=options.device)}\n")
    return DONE


def _list(options: Any, changes: Changes) -> int:
    from flowkit.experiment.listing import list_kind, list_kinds

    sys.stdout.write(list_kinds() if options.kind is None else list_kind(options.kind))
    return DONE


def _bench(options: Any, changes: Changes) -> int:
    from flowkit.bench import Setting, bench

    setting = Setting(options.device, options.threads, options.rounds, options.quick, options.op)
    given = [(flag, getattr(options, flag)) for flag in ("op", "suite", "threads", "rounds", "device", "out")]
    words = [f"--{flag} {value}" for flag, value in given if value not in (None, "auto")]
    command = " ".join(["flowkit bench", *words, *(["--quick"] if options.quick else [])])
    report = bench(options.suite, setting, json_path=options.json, plot_path=options.plot, out=options.out, command=command)
    sys.stdout.write("".join(f"not run: {name}: {reason}\n" for name, reason in report.skipped.items()))
    return DONE


_COMMANDS: dict[str, Callable[[Any, Changes], int]] = {
    "fit": _fit,
    "sample": _sample,
    "evaluate": _evaluate,
    "diagnose": _diagnose,
    "report": _report,
    "list": _list,
    "bench": _bench,
}


# -- words ------------------------------------------------------------------------------------------------------


def _parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of the program and those of its commands."""
    from jsonargparse import ArgumentParser

    from flowkit.core.version import __version__

    parser = ArgumentParser(prog="flowkit", exit_on_error=False, description="Normalizing flows: train, sample, evaluate.")
    parser.add_argument("--version", action="version", version=f"flowkit {__version__}", help="show the version and exit")
    made = parser.add_subcommands(required=True, title="commands", description="Each has its own --help.")
    commands: dict[str, ArgumentParser] = {}
    for name, words, fill in (
        ("fit", "train a flow from a config", _fit_flags),
        ("sample", "stream samples with their log-density into a file", _sample_flags),
        ("evaluate", "metrics as one JSON line, and a table on standard error", _evaluate_flags),
        ("diagnose", "per-layer invertibility error, conditioning, saturation and use of bins, as one JSON line and a table", _diagnose_flags),
        ("report", "write one self-contained HTML page", _report_flags),
        ("list", "every registered name with one line and its paper", _list_flags),
        ("bench", "side by side with the peers installed: verified, timed by turns, ratios", _bench_flags),
    ):
        commands[name] = ArgumentParser(exit_on_error=False, description=f"{words[0].upper()}{words[1:]}.")
        fill(commands[name])
        made.add_subcommand(name, commands[name], help=words)
    return parser, commands


def _fit_flags(parser: ArgumentParser) -> None:
    parser.description = (
        "Train a flow from a config into runs/<name>-<time>/, with metrics, samples and a report. Any value of the config can be changed by its "
        "dotted path, read as YAML: --flow.bins 16, --objective.name maximum_likelihood, --flow.hidden.0 32."
    )
    parser.add_argument("config", type=str | None, nargs="?", help="YAML file with the keys name, seed, data | target, flow, objective, training, evaluation")
    parser.add_argument("--resume", type=str | None, metavar="RUN", help="continue the run in this folder exactly where it stopped")
    from flowkit.experiment.config import training_parameters

    for name, (annotation, default) in training_parameters().items():
        parser.add_argument(f"--training.{name}", type=annotation, default=default, metavar=name.upper())


def _sample_flags(parser: ArgumentParser) -> None:
    _run_flag(parser)
    parser.add_argument("-n", type=int, default=10_000, help="number of samples")
    parser.add_argument("-o", "--output", type=str, default="samples.npz", help="file: .npz, .csv, .parquet, or .png for pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--context", type=str | None, help="for a conditional flow: a label, or a list of numbers")
    parser.add_argument("--temperature", type=float, default=1.0, help="scales the spread of the base")


def _evaluate_flags(parser: ArgumentParser) -> None:
    _run_flag(parser)
    parser.add_argument("--data", type=str | None, metavar="FILE", help=".csv, .npy, .npz or .parquet in the data's own units; default the test split")


def _diagnose_flags(parser: ArgumentParser) -> None:
    _evaluate_flags(parser)
    parser.add_argument("-n", type=int, default=1000, help="most events to examine")


def _report_flags(parser: ArgumentParser) -> None:
    _run_flag(parser)
    parser.add_argument("-o", "--output", type=str | None, help="HTML file; default report.html in the run")


def _list_flags(parser: ArgumentParser) -> None:
    parser.add_argument("kind", type=str | None, nargs="?", help="bijectors, flows, objectives, data, ...; default an overview")


def _bench_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--suite", type=str | None, metavar="NAME", help="ops, density, sampling, fit or growth; default ops")
    parser.add_argument("--op", type=str | None, metavar="NAME", help="one op of the suite ops, with all its examples")
    parser.add_argument("--json", type=str | None, metavar="FILE", help="write what was found, with versions and machine")
    parser.add_argument("--plot", type=str | None, metavar="FILE", help="write a picture, .png")
    parser.add_argument("--out", type=str | None, metavar="FOLDER", help="write NAME.md, NAME.json and NAME.png there")
    parser.add_argument("--threads", type=int | None, help="of torch and JAX; default torch's own number")
    parser.add_argument("--rounds", type=int | None, help="of each comparison; default the suite's")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: shows that everything runs, not how fast")


def _run_flag(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="folder that 'flowkit fit' made, or a saved flow")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")


def _take_overrides(words: list[str]) -> tuple[list[str], Changes]:
    """Take ``--a.b value`` and ``--a.b=value`` out of the words of ``fit``, and the config's own top keys."""
    if words[0] != "fit":
        return words, []
    from flowkit.experiment.config import KEYS

    rest, changes, left = [], [], iter(words)
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or ("." not in name and name not in KEYS):
            rest.append(word)
            continue
        if not equals:
            value = next(left, "--")
            if value.startswith("--"):
                raise ConfigError(f"--{name}: expected a value after it. Write --{name} VALUE or --{name}=VALUE.")
        changes.append((name, value))
    return rest, changes


def _check_words(words: list[str], parser: ArgumentParser, commands: dict[str, ArgumentParser]) -> None:
    """Refuse unknown commands and flags with the nearest name."""
    command = words[0]
    if command.startswith("-"):
        known = _flags(parser)
        if command not in known:
            raise UnknownNameError(f"no flag {command}. {nearest(command, known)} See: flowkit --help")
        return
    if command not in commands:
        raise UnknownNameError(f"no command '{command}'. {nearest(command, commands)} See: flowkit --help")
    known = _flags(commands[command])
    for word in words[1:]:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            raise UnknownNameError(f"{command}: no flag {flag}. {nearest(flag, known)} See: flowkit {command} --help")


def _flags(parser: ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("-")]


def _sentence(text: str) -> str:
    """What a parser complains about, as one sentence."""
    text = " ".join(text.split()).rstrip(".")
    text = re.sub(r"Parser key \"([^\"]+)\": Expected an? <class '(\w+)'>\. Got value: (.*)", r"\1: expected \2; got \3", text)
    return f"{text}."
