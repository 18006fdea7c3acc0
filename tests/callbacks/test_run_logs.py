"""Which event files a run has, with which tags at which steps: from the command line and from Python."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from meta_lightning import MAMLModule, load_run
from meta_lightning.callbacks import AdaptationPlots, Checkpoints, TestReport
from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.nets import MLP

from ..cli.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")  # as it should, when a run goes on

RUN = Path("logs/tiny/version_0")
CONFIG = f"""{TINY.replace("every_n_validations: 0", "every_n_validations: 1")}
  enable_progress_bar: false
  num_sanity_val_steps: 2
  logger: {{class_path: TensorBoardLogger, init_args: {{save_dir: logs, name: tiny}}}}
"""
COMMAND = ["--config=tiny.yaml"]


def folders() -> set[Path]:
    """The folders that TensorBoard shows as runs, and the folders of versions."""
    return {path.parent for path in Path().rglob("events.out.tfevents.*")} | {*Path().rglob("version_*")}


def events(run: Path = RUN) -> EventAccumulator:
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return accumulator


def steps(tag: str, run: Path = RUN) -> list[int]:
    return [event.step for event in events(run).Scalars(tag)]


def layout(run: Path = RUN) -> dict[str, list[str]]:
    (event,) = events(run).Tensors(metadata.CONFIG_SUMMARY_TAG)
    (category,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    return {chart.title: [*chart.multiline.tag] for chart in category.chart}


def rows(run: Path, name: str) -> list[str]:
    """The steps at which a `CSVLogger` logged a value."""
    with (run / "metrics.csv").open() as file:
        return [row["step"] for row in csv.DictReader(file) if row.get(name)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command line trained: four meta-steps, a validation after each second."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.yaml").write_text(CONFIG)
        assert main(["fit", *COMMAND]) == 0
    return folder


@pytest.fixture
def run(trained: Path) -> Path:
    shutil.copytree(trained, ".", dirs_exist_ok=True)
    return RUN


def test_curves_and_pictures_of_a_training_count_meta_steps_alike(run: Path) -> None:
    assert folders() == {run}
    written = events()
    assert "epoch" not in written.Tags()["scalars"]
    assert steps("train/loss") == [1, 2, 3, 4]
    assert steps("val/loss") == steps("val/mse_before") == [2, 4]
    assert [event.step for event in written.Images("figures/curve")] == [2, 4]
    assert steps("val/loss_best") == [4]


def test_training_and_validation_of_a_metric_share_a_chart(run: Path) -> None:
    tags = {metric: [f"train/{metric}$", f"val/{metric}$"] for metric in ("loss", "loss_before", "mse", "mse_before")}
    assert layout() == tags


def test_a_resumed_run_goes_on_where_it_was(run: Path) -> None:
    assert main(["fit", *COMMAND, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    assert folders() == {run}
    assert steps("train/loss") == [1, 2, 3, 4, 5, 6]
    assert steps("val/loss") == [2, 4, 6]


def test_an_evaluation_is_logged_in_the_run_of_its_checkpoint_at_its_meta_step(run: Path) -> None:
    best = run / "checkpoints/best.ckpt"
    at = torch.load(best, weights_only=True)["global_step"]
    assert main(["test", *COMMAND, "--ckpt_path=best"]) == 0
    assert steps("test/loss") == steps("test/mse_ci95") == [at]
    assert main(["test", *COMMAND, f"--ckpt_path={best}"]) == 0
    assert main(["validate", *COMMAND, "--ckpt_path=last"]) == 0
    assert steps("test/loss") == [at, at]
    assert steps("val/loss") == [2, 4, 4]
    assert "epoch" not in events().Tags()["scalars"]
    assert folders() == {run}


def test_so_are_checkpoints_that_lie_elsewhere(run: Path) -> None:
    """Under another name than the logger's, and several at once."""
    moved = [Path("kept/one/version_3"), Path("kept/another")]
    for folder in moved:
        shutil.copytree(run, folder)
    last = moved[1] / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)  # of another training
    content["state_dict"] = {name: value + 1 for name, value in content["state_dict"].items()}
    torch.save(content | {"step_seed": 1}, last)
    before = folders()
    files = f"--ckpt_path=[{moved[0]}/checkpoints/last.ckpt, {last}]"
    assert main(["test", *COMMAND, files]) == 0
    assert main(["validate", *COMMAND, f"--ckpt_path={last}", "--trainer.logger.name=nothing"]) == 0
    assert folders() == before
    assert not Path("logs/nothing").exists()
    assert [steps("test/loss", folder) for folder in moved] == [[4], [4]]
    assert steps("val/loss", moved[1]) == [2, 4, 4]


class Own(Callback):
    """Logs a value of the user's own, and one at a step that the user gives."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        pl_module.log("own", 1.0)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict({"own_at": 1.0, "step": 70.0})


def trainer(logger: Any, steps: int = 2) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=2, log_every_n_steps=1,
        logger=logger, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Checkpoints(), TestReport(baselines=False), AdaptationPlots(every_n_validations=1)],
        default_root_dir=Path.cwd(),
    )  # fmt: skip


def make() -> tuple[MAMLModule, EpisodicDataModule]:
    data = EpisodicDataModule(Sinusoid(), shots=5, queries=5, meta_batch_size=2, val_tasks=2, test_tasks=2)
    return MAMLModule(MLP(1, 1, [4]), check_derivative=False), data


def test_from_python_all_steps_folders_and_charts_are_those_of_the_command_line() -> None:
    module, data = make()
    first = trainer(TensorBoardLogger("logs", "tiny"))
    first.callbacks.append(Own())
    first.fit(module, data)
    first.test(module, data, ckpt_path="best", verbose=False)
    assert "epoch" not in events().Tags()["scalars"]
    assert steps("own") == steps("train/loss") == [1, 2]
    assert steps("val/loss") == steps("test/mse_ci95") == [2]
    assert steps("own_at") == steps("test/loss") == [70]  # Lightning takes a step from what is logged
    assert layout()["mse"] == ["train/mse$", "val/mse$"]
    resumed = trainer(TensorBoardLogger("logs", "tiny", version=0), steps=4)
    resumed.fit(*make(), ckpt_path=RUN / "checkpoints/last.ckpt")
    assert steps("train/loss") == [1, 2, 3, 4]
    assert steps("val/loss") == [2, 4]
    assert folders() == {RUN}


def test_weights_in_memory_are_logged_at_the_meta_steps_that_they_took(run: Path) -> None:
    module, data, record = load_run(run)
    own, mine = trainer(TensorBoardLogger("logs", "loaded")), Path("logs/loaded/version_0")
    own.test(module, data, verbose=False)
    own.fit(module.train(), data)
    own.test(module, data, verbose=False)
    taken = [record.meta_steps, record.meta_steps + 2]
    assert steps("test/loss", mine) == taken
    assert steps("val/loss", mine) == [event.step for event in events(mine).Images("figures/curve")] == taken[1:]
    assert folders() == {run, mine}


@pytest.mark.parametrize("logger", [True, TensorBoardLogger, CSVLogger], ids=["default", "tensorboard", "csv"])
def test_loggers_return_to_their_own_folder_after_the_evaluation(run: Path, logger: Any) -> None:
    """A trainer that tested a run of somebody's, then trains a run of its own, then tests both."""
    module, data = make()
    own = trainer(logger if logger is True else logger("mine", "a"))
    checkpoint = run / "checkpoints/last.ckpt"
    own.validate(module, data, ckpt_path=checkpoint, verbose=False)
    own.test(module, data, ckpt_path=checkpoint, verbose=False)
    assert folders() == {run}
    assert not Path("mine").exists()
    assert not Path("lightning_logs").exists()
    module, _ = make()
    own.fit(module, data)
    mine = Path("lightning_logs" if logger is True else "mine/a", "version_0")
    assert folders() == {run, mine}
    own.test(module, data, ckpt_path=checkpoint, verbose=False)
    own.test(module, data, ckpt_path="last", verbose=False)
    assert folders() == {run, mine}
    if logger is CSVLogger:
        assert [rows(run, name) for name in ("val/loss", "test/loss")] == [["4"], ["4", "4"]]
        assert [rows(mine, name) for name in ("train/loss", "val/loss", "test/loss")] == [["1", "2"], ["2"], ["2"]]
    else:
        assert steps("test/loss") == [4, 4]
        assert steps("test/loss", mine) == steps("val/loss", mine) == [2]


def test_a_folder_that_can_not_be_written_is_left_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meta_lightning.callbacks import run_logs
    from meta_lightning.errors import ConfigError

    def refuse(paths: list[Path]) -> None:
        raise ConfigError("read-only")

    before = events().Tags()
    monkeypatch.setattr(run_logs, "check_writable", refuse)
    module, data = make()
    trainer(TensorBoardLogger("mine", "a")).validate(
        module, data, ckpt_path=run / "checkpoints/last.ckpt", verbose=False
    )
    assert steps("val/loss", Path("mine/a/version_0")) == [4]
    assert events().Tags() == before
