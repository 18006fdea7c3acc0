"""The examples run and do what they say."""

import runpy
from pathlib import Path

import pytest


def test_maml_in_30_lines_learns(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "examples/maml_in_30_lines.py"
    history = runpy.run_path(str(path))["main"](meta_steps=500)
    assert sum(history[-100:]) < 0.9 * sum(history[:100])
    assert "meta-step 500: query loss after one step" in capsys.readouterr().out
