"""The HPARAMS tab, through the command line."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from meta_lightning.cli import main

RUN = Path("logs/sinusoid/maml/version_0")
SHORT = [
    "--trainer.max_steps=4", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu", "--data.val_tasks=3",
    "--data.test_tasks=5", "--data.meta_batch_size=2", "--figures.every_n_validations=0", "--data.queries=4",
]  # fmt: skip


@pytest.fixture
def config(repository: Path) -> list[str]:
    return ["--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT]


def events() -> EventAccumulator:
    accumulator = EventAccumulator(str(RUN))
    accumulator.Reload()
    return accumulator


def content(written: EventAccumulator, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(written.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)


def test_settings_stand_beside_the_figures_that_the_run_has(config: list[str]) -> None:
    config = [*config, "--model.inner_lr=0.02"]
    assert main(["fit", *config]) == 0
    assert main(["test", *config, "--ckpt_path=best", "--report.baselines=false"]) == 0
    written = events()
    session = content(written, "session_start_info").session_start_info
    assert session.group_name == "sinusoid/maml/version_0"
    found = session.hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
    assert settings["model"] == "MAMLModule"
    assert settings["model.net"] == "MLP"
    assert (settings["model.inner_lr"], settings["model.optimizer.lr"], settings["data.seed"]) == (0.02, 0.001, 0)
    assert settings["data.meta_batch_size"] == 2
    experiment = content(written, "experiment").experiment
    columns = [metric.name.tag for metric in experiment.metric_infos]
    here = ["test/mse", "val/mse_best", "val/mse", "test/loss", "val/loss_best", "val/loss"]
    assert columns == [*here, "test/accuracy", "val/accuracy_best", "val/accuracy"]
    assert {*here} - {*written.Tags()["scalars"]} == {"val/mse_best"}  # the tab reads its figures there
    first = [info.name for info in experiment.hparam_infos if info.differs]  # those that it shows unasked
    assert {*first} == {"data.seed", "model", "model.inner_lr", "model.inner_steps", "model.optimizer.lr"}
    assert {info.name for info in experiment.hparam_infos} == {*settings}


def test_the_best_validation_is_one_point_and_no_made_up_figure_is_written(config: list[str]) -> None:
    assert main(["fit", *config]) == 0
    written = events()
    (best,) = written.Scalars("val/loss_best")
    assert best.value == min(event.value for event in written.Scalars("val/loss"))
    assert best.step == 4
    assert len(written.Scalars("val/loss")) == 4
    assert "hp_metric" not in written.Tags()["scalars"]
