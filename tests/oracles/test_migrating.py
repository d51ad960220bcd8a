"""The code in docs/migrating.md runs as it stands, block after block."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    if importlib.util.find_spec("pyro") is None:
        blocks = blocks[:2]
    names: dict[str, object] = {}
    validate = torch.distributions.Distribution._validate_args
    try:
        for number, block in enumerate(blocks):
            exec(compile(block, f"migrating.md, block {number}", "exec"), names)
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)
    assert (tmp_path / "moved" / "config.json").is_file()
