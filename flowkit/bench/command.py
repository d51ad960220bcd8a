"""What ``flowkit bench`` does: run a suite, show its tables, write JSON, Markdown and the plot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from flowkit.bench.markdown import markdown
from flowkit.bench.picture import picture
from flowkit.bench.report import Report
from flowkit.bench.run import run, suite_named
from flowkit.bench.setting import Setting
from flowkit.core.errors import ConfigError

PICTURES = (".png", ".pdf", ".svg")


def bench(
    suite: str | None, setting: Setting, *, json_path: str | None = None, plot_path: str | None = None, out: str | None = None, command: str = "flowkit bench"
) -> Report:
    """Run a suite with a progress line and tables on the terminal.

    Args:
        suite: its name; default ``ops``, the only one that takes ``setting.op``.
        setting: device, threads, rounds, sizes, op.
        json_path, plot_path: files to write.
        out: folder for NAME.md, NAME.json and NAME.png.
        command: that the table should name.
    """
    if setting.op is not None and suite not in (None, "ops"):
        raise ConfigError(f"bench: expected --op or --suite; got both, and suite '{suite}' has no ops. Leave one out.")
    name = suite or "ops"
    suite_named(name)
    files = {kind: Path(path) for kind, path in (("json", json_path), ("png", plot_path)) if path is not None}
    for path in files.values():
        if not path.parent.is_dir():
            raise ConfigError(f"bench: expected a file in a folder that exists; got {path}. Make {path.parent} first.")
    if "png" in files and files["png"].suffix.lower() not in PICTURES:
        raise ConfigError(f"bench: expected --plot to end in one of {', '.join(PICTURES)}; got {files['png']}.")
    if out is not None:
        _make_folder(Path(out))
    from flowkit.bench.terminal import watching

    with watching() as (watch, show):
        report = run(name, setting, command=command, watch=watch, done=show)
    written = dict(files)
    if out is not None:
        stem = name if setting.op is None else setting.op
        write_json(report, Path(out, f"{stem}.json"))
        picture(report, Path(out, f"{stem}.png"))
        Path(out, f"{stem}.md").write_text(markdown(report, f"{stem}.png"), encoding="utf-8")
    if "json" in written:
        write_json(report, written["json"])
    if "png" in written:
        picture(report, written["png"])
    return report


def _make_folder(path: Path) -> None:
    """Before anything is measured."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"bench: expected --out to be a folder that can be made; got {path}: {error.strerror}.") from None


def write_json(report: Report, path: Path) -> None:
    """A report as a JSON file; numbers that are not finite as null, which is all that JSON has for them."""
    path.write_text(json.dumps(_finite(report.as_dict()), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
