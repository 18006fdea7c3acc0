"""The examples run and do what they say."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml

from meta_lightning import EpisodeShape
from meta_lightning.data import Sinusoid
from meta_lightning.data.episodes import keys
from meta_lightning.types import Examples


def test_maml_in_30_lines_learns(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "examples/maml_in_30_lines.py"
    history = runpy.run_path(str(path))["main"](meta_steps=500)
    assert sum(history[-100:]) < 0.9 * sum(history[:100])
    assert "meta-step 500: query loss after one step" in capsys.readouterr().out


def test_reptile_in_30_lines_learns(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = runpy.run_path(str(repository / "examples/reptile_in_30_lines.py"))["main"](meta_steps=500)
    assert sum(history[-100:]) < 0.8 * sum(history[:100])
    assert "meta-step 500: query loss after five steps" in capsys.readouterr().out


def test_maml_by_hand_has_the_meta_gradient_of_the_package(repository: Path) -> None:
    example = runpy.run_path(str(repository / "examples/maml_by_hand.py"))
    assert example["main"](meta_steps=1) < 1e-5
    torch.manual_seed(0)
    net = example["net"]().double()
    theta = {name: param.detach() for name, param in net.named_parameters()}
    tasks = Sinusoid().load("train").draw(keys(0, "train", torch.arange(3)), EpisodeShape(None, shots=5, queries=7))
    x, y = tasks.support
    tasks = tasks._replace(support=Examples(x.double(), y.double()), query=Examples(*(t.double() for t in tasks.query)))
    by_hand, others = example["by_hand"](net, theta, tasks), example["by_the_package"](net, theta, tasks)
    for name, gradient in by_hand.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-10, atol=1e-12)
        assert gradient.abs().max() > 1e-3


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
