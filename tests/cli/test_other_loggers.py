"""Runs whose logger has no folder of its own, as that of Weights & Biases: where they lie, and what finds them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger

from meta_lightning.cli import main

from .tiny import TINY

CLASS = "tests.cli.test_other_loggers.Boards"
FIT = ["fit", "--config=tiny.yaml"]


class Boards(Logger):
    """Names things as `WandbLogger` does: its name is the project, its version an id that comes with the first use."""

    made = 0

    def __init__(
        self, name: str | None = None, save_dir: str = ".", project: str = "board", id: str | None = None
    ) -> None:
        super().__init__()
        self._save_dir, self._project, self._id = save_dir, project, id
        self.metrics: list[str] = []

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._id

    @property
    def experiment(self) -> None:
        if self._id is None:
            Boards.made += 1
            self._id = f"id{Boards.made}"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics += metrics

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _config() -> None:
    Path("tiny.yaml").write_text(TINY)


def test_a_run_has_a_folder_that_best_and_last_find(capsys: pytest.CaptureFixture[str]) -> None:
    logger = [f"--trainer.logger={CLASS}", "--trainer.logger.project=my board", "--trainer.logger.name=first try"]
    run = Path("my board/version_0")
    assert main([*FIT, *logger]) == 0
    out = capsys.readouterr().out
    assert f"\nRun: {run}\n" in out
    assert f"test --config '{run}/config.yaml' --ckpt_path '{run}/checkpoints/best.ckpt'" in out
    assert "tensorboard" not in out
    for path in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (run / path).is_file()
    assert main([*FIT, *logger]) == 0  # a run of its own
    assert main([*FIT, *logger, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    assert main(["test", *FIT[1:], *logger, "--ckpt_path=best"]) == 0
    out = capsys.readouterr().out
    assert out.count("Checkpoint: my board/version_1/checkpoints/") == 2
    steps = [torch.load(run.with_name(f"version_{n}") / "checkpoints/last.ckpt", weights_only=True)["global_step"]
             for n in (0, 1)]  # fmt: skip
    assert steps == [4, 6]
    assert {path.name for path in run.with_name("version_1").iterdir()} == {
        ".lock", "config.yaml", "config_changes.yaml", "checkpoints", "test_report.json", "test_report.md",
        "model_card.md",
    }  # fmt: skip
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "my board"}  # and nothing by the id


def test_the_printed_command_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, f"--trainer.logger={CLASS}", "--trainer.logger.save_dir=a"]) == 0
    line = re.search(r"Test it: python -m meta_lightning (.+)", capsys.readouterr().out)
    assert line
    assert main(line[1].split()) == 0
    assert Path("a/board/version_0/test_report.json").is_file()


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_beside_a_logger_with_a_folder_the_run_lies_there(first: bool) -> None:
    both = [f"{{class_path: {CLASS}}}", "{class_path: CSVLogger, init_args: {save_dir: logs, name: c}}"]
    logger = f"--trainer.logger=[{', '.join(both if first else both[::-1])}]"
    assert main([*FIT, logger]) == 0
    assert main([*FIT, logger, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    run = Path("logs/c/version_0")
    assert {path.parent for path in Path().rglob("last.ckpt")} == {run / "checkpoints"}
    assert {path.parent for path in Path().rglob("config.yaml")} == {run}
    assert {path.parent for path in Path().rglob("metrics.csv")} == {run}


def test_the_initialisation_is_reported_in_a_folder_of_its_own() -> None:
    assert main(["test", *FIT[1:], f"--trainer.logger={CLASS}", "--untrained=true"]) == 0
    assert Path("board/version_0/test_report.json").is_file()
