"""The examples run and do what they say."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn

from meta_lightning import EpisodeShape, MAMLModule
from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Sinusoid, Table
from meta_lightning.data.episodes import keys
from meta_lightning.nets import MLP
from meta_lightning.types import Examples, Task


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


OWN = ["own_net", "own_algorithm", "own_source"]
TINY = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.val_tasks=2",
    "--data.meta_batch_size=2", "--data.eval_batch_size=2", "--figures.every_n_validations=0",
    "--model.check_derivative=false",
]  # fmt: skip


@pytest.mark.filterwarnings("default")  # Lightning warns of short runs
@pytest.mark.parametrize("page", OWN)
def test_a_class_of_ones_own_runs_as_its_page_says(
    page: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (repository / f"docs/{page}.md").read_text()
    folder, command = re.findall(r"```bash\nPYTHONPATH=(\w+) python -m meta_lightning (.+)\n```", text)[0]
    monkeypatch.syspath_prepend(repository / folder)
    arguments = [str(repository / word) if word.startswith("configs/") else word for word in shlex.split(command)]
    assert main([*arguments, *TINY]) == 0
    said = capsys.readouterr().out
    assert "Run: " in said
    config = yaml.safe_load(next(Path().rglob("config.yaml")).read_text())
    block = yaml.safe_load(re.findall(r"```yaml\n(.+?)```", text, re.DOTALL)[0])  # the page has the same as YAML
    assert set(flat(block)) - {"model.class_path=MAMLModule"} <= {
        line.replace("meta_lightning.nets.mlp.", "").replace("meta_lightning.nets.", "") for line in flat(config)
    }


def flat(settings: object, key: str = "") -> list[str]:
    if not isinstance(settings, dict):
        return [f"{key}={settings}"]
    return [line for name, value in settings.items() for line in flat(value, f"{key}.{name}" if key else name)]


def test_the_code_of_the_page_on_sources_runs(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.+?)```", (repository / "docs/own_source.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, type] = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out == "torch.Size([4, 5, 8])\n"
    Path("pictures").mkdir()
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (20, 30), (20 * number, 0, 0)).save(f"pictures/{'abcd'[number % 4]}_{number}.png")
    tables = {split: names["Prefixed"]("pictures", image_size=8).load(split) for split in ("train", "val", "test")}
    assert sorted(name for table in tables.values() for name in table.names) == ["a", "b", "c", "d"]
    assert {int(count) for table in tables.values() for count in table.counts} == {3}


def test_the_own_algorithm_is_pulled_to_its_start(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "examples")
    monkeypatch.delitem(sys.modules, "own_algorithm", raising=False)
    from own_algorithm import ProximalMAML

    torch.manual_seed(0)
    net = nn.Linear(3, 1).double()
    support = Examples(torch.randn(5, 3).double(), torch.randn(5, 1).double())
    task = Task(support, support, torch.tensor(0), torch.tensor(0))
    pulled, plain = ProximalMAML(net, inner_lr=0.1, pull=0.7), MAMLModule(net, inner_lr=0.1)
    start, first, second = pulled.trajectory(pulled.learnable(), {}, task, 2, first_order=False)
    _, expected, without = plain.trajectory(plain.learnable(), {}, task, 2, first_order=False)
    for name in start:  # one step has nothing to pull at, and the next is pulled back by the way it went
        torch.testing.assert_close(first[name], expected[name])
        torch.testing.assert_close(second[name], without[name] - 0.1 * 0.7 * (first[name] - start[name]))


def test_maml_on_linear_tasks_beats_one_regression_for_all_and_comes_near_to_one_for_each(repository: Path) -> None:
    example = runpy.run_path(str(repository / "examples/linear_tasks.py"))
    example["write_tasks"](Path("linear.csv"))
    counts = {"meta_batch_size": 16, "eval_batch_size": 100, "val_tasks": 100, "test_tasks": 200}
    data = EpisodicDataModule(Table("linear.csv", task="task", target="y"), shots=10, queries=10, **counts)
    torch.manual_seed(0)
    module = MAMLModule(
        MLP(3, 1, hidden=[]), inner_lr=0.3, inner_steps=3, eval_inner_steps=20, check_derivative=False,
        optimizer=lambda params: torch.optim.Adam(params, lr=0.02),
    )  # fmt: skip
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_steps=100, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=100, num_sanity_val_steps=0,
        **options,
    )  # fmt: skip
    trainer.fit(module, data)
    (measured,) = trainer.test(module, data, verbose=False)
    pooled, ridge = example["baselines"](data).values()
    assert 0.5 < pooled < 0.8
    assert 0.02 < ridge < 0.04  # not below the noise, 0.3**2 / 4.75
    assert measured["test/mse"] < 1.2 * ridge
    assert measured["test/mse_before"] > 0.9 * pooled  # adaptation it is


def test_the_example_of_linear_tasks_prints_its_figures(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(repository / "examples/linear_tasks.py"), run_name="__main__")
    assert "the noise alone: MSE 0.0189 (times 4.75 in the unit of the column)" in capsys.readouterr().out
