"""The examples run and do what they say."""

import runpy
from pathlib import Path

import pytest
import yaml


def test_maml_in_30_lines_learns(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "examples/maml_in_30_lines.py"
    history = runpy.run_path(str(path))["main"](meta_steps=500)
    assert sum(history[-100:]) < 0.9 * sum(history[:100])
    assert "meta-step 500: query loss after one step" in capsys.readouterr().out


def test_nearest_class_mean_is_measured_on_the_episodes_of_the_config(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(repository / "examples/nearest_class_mean.py"))
    config = yaml.safe_load((repository / "configs/glyphs_5w1s/maml.yaml").read_text())["data"]
    data = example["glyphs"]()
    assert data.eval_shape == (config["ways"], config["shots"], config["queries"])
    assert data.test_tasks == config["test_tasks"]
    assert 0.5 < example["main"](data) < 0.6
    assert f"episodes {data.episode_hash('test')}" in capsys.readouterr().out
