"""Callbacks that a user adds in the YAML: Lightning's own, each of them once, and several checkpoints."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import callbacks
from lightning_utilities.core.imports import RequirementCache

from meta_lightning.cli import main

from .tiny import TINY

CONFIG = f"""{TINY}
  logger: {{class_path: CSVLogger, init_args: {{save_dir: logs, name: c}}}}
  enable_progress_bar: BAR
  callbacks: CALLBACKS
"""
RUN = Path("logs/c/version_0")
FIT = ["fit", "--config=config.yaml"]
EPOCHS = "it counts epochs, and training counts meta-steps: "
# Arguments, and what the refusal says; None for a callback that works. The table in docs/reliability.md is this one.
TABLE: dict[str, tuple[str, str | None]] = {
    "BackboneFinetuning": ("{}", EPOCHS + "it would never unfreeze"),
    "BaseFinetuning": ("{}", EPOCHS + "it would never unfreeze"),
    "BasePredictionWriter": ("{}", None),
    "BatchSizeFinder": ("{}", "set data.meta_batch_size"),
    "Callback": ("{}", None),
    "Checkpoint": ("{}", None),
    "DeviceStatsMonitor": ("{}", None if RequirementCache("psutil") else "pip install psutil"),
    "EMAWeightAveraging": ("{decay: 0.5}", None),
    "EarlyStopping": ("{monitor: val/loss}", None),
    "GradientAccumulationScheduler": ("{scheduling: {0: 2}}", "set data.meta_batch_size"),
    "LambdaCallback": ("{}", None),
    "LearningRateFinder": ("{}", "set model.optimizer.lr"),
    "LearningRateMonitor": ("{}", None),
    "ModelCheckpoint": ("{every_n_train_steps: 1, save_top_k: -1}", None),
    "ModelPruning": ("{pruning_fn: l1_unstructured}", EPOCHS + "it would prune after the last meta-step"),
    "ModelSummary": ("{}", None),
    "OnExceptionCheckpoint": ("{dirpath: saved}", "leave it out: every validation saves last.ckpt"),
    "ProgressBar": ("{}", None),
    "RichModelSummary": ("{}", None),
    "RichProgressBar": ("{}", None),
    "SpikeDetection": ("{}", "it needs a step that returns its loss"),
    "StochasticWeightAveraging": ("{swa_lrs: 0.1}", EPOCHS + "use WeightAveraging or EMAWeightAveraging"),
    "TQDMProgressBar": ("{}", None),
    "ThroughputMonitor": ("{batch_size_fn: tests.cli.test_callbacks.count_tasks}", None),
    "Timer": ("{duration: 00:00:10:00}", None),
    "WeightAveraging": ("{}", None),
}


def count_tasks(batch: Any) -> int:
    return len(batch.index)


def write_config(*added: tuple[str, str], bar: bool = False) -> None:
    entries = ", ".join(f"{{class_path: {name}, init_args: {arguments}}}" for name, arguments in added)
    Path("config.yaml").write_text(CONFIG.replace("CALLBACKS", f"[{entries}]").replace("BAR", str(bar).lower()))


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_the_table_has_every_callback_of_lightning() -> None:
    assert TABLE.keys() == {*callbacks.__all__}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.filterwarnings("ignore:.*flops_per_batch", "ignore:.*does not have many workers")
def test_a_callback_of_lightning_works_or_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, refusal = TABLE[name]
    write_config((name, arguments), bar="Bar" in name)
    code, err = main(FIT), capsys.readouterr().err
    if refusal is None:
        assert (code, "error" in err) == (0, False), err
        assert load(RUN / "checkpoints/last.ckpt")["global_step"] == 4
    else:
        assert code == 2
        assert f"trainer.callbacks holds {name}, which can't work here: " in err
        assert refusal in err
        assert not RUN.exists()  # refused before anything is written


def test_further_checkpoints_stand_beside_the_frameworks_own() -> None:
    write_config(
        ("ModelCheckpoint", "{every_n_train_steps: 1, save_top_k: -1}"),
        ("ModelCheckpoint", "{monitor: train/loss, every_n_train_steps: 1, filename: train}"),
        ("ModelCheckpoint", "{monitor: val/mse_before, filename: before}"),
        ("EarlyStopping", "{monitor: train/mse}"),
    )
    assert main(FIT) == 0
    names = {"best", "last", "train", "before", *(f"epoch=0-step={step}" for step in range(1, 5))}
    assert {path.stem for path in (RUN / "checkpoints").iterdir()} == names
    for step in range(1, 5):
        assert load(RUN / f"checkpoints/epoch=0-step={step}.ckpt")["global_step"] == step
    assert main([*FIT, "--ckpt_path=last", "--trainer.max_steps=5"]) == 0
    (fifth,) = (RUN / "checkpoints").glob("*step=5.ckpt")
    assert load(fifth)["global_step"] == 5


VALIDATION = "val/loss, val/mse, val/loss_before, val/mse_before"
TRAINING = (
    ", train/loss, train/mse, train/loss_before, train/mse_before, train/tasks_per_second, train/ms_per_meta_step"
)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("EarlyStopping", "{monitor: val/accuracy}",
         f"the monitor of EarlyStopping in trainer.callbacks is val/accuracy; expected one of {VALIDATION}"),
        ("ModelCheckpoint", "{monitor: train/acc}",
         f"the monitor of ModelCheckpoint in trainer.callbacks is train/acc; expected one of {VALIDATION}{TRAINING}"),
        ("ModelCheckpoint", "{monitor: val/loss, every_n_train_steps: 3}",
         "the monitor of ModelCheckpoint in trainer.callbacks is val/loss, and every_n_train_steps is set: it would "
         "judge weights by an earlier validation; leave every_n_train_steps out, since every validation is looked at"),
        ("ModelCheckpoint", "{train_time_interval: 00:00:00:10}",
         "trainer.callbacks holds ModelCheckpoint, which can't work here: its train_time_interval is not heeded with "
         "manual optimization; use every_n_train_steps"),
        ("ModelCheckpoint", "{every_n_epochs: 2}",
         "trainer.callbacks holds ModelCheckpoint, which can't work here: its every_n_epochs is never reached, because "
         "training counts meta-steps; use every_n_train_steps"),
        ("EMAWeightAveraging", "{update_starting_at_step: 2}",
         "trainer.callbacks holds EMAWeightAveraging, which can't work here: its update_starting_at_step is 2, and "
         "validations before that would measure the weights that training began with; set it below "
         "trainer.val_check_interval, which is 2"),
        ("ModelCheckpoint", "{save_on_exception: true}",
         "trainer.callbacks holds ModelCheckpoint, which can't work here: its save_on_exception may save half an "
         "update; every validation saves last.ckpt"),
        ("ModelCheckpoint", "{filename: best}",
         "trainer.callbacks holds ModelCheckpoint, which can't work here: its filename best is that of the framework's "
         "own checkpoint; give it another one"),
    ],
)  # fmt: skip
def test_what_a_callback_would_silently_not_do_is_refused(
    name: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config((name, arguments))
    assert main(FIT) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not RUN.exists()


def test_a_callback_that_is_there_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_config(*[("EarlyStopping", "{monitor: val/loss}")] * 2)
    assert main(FIT) == 2
    assert "error: trainer: Found more than one stateful callback of type `EarlyStopping`" in capsys.readouterr().err


def test_a_metric_of_training_that_comes_later_than_validations_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_config(("EarlyStopping", "{monitor: train/loss}"))
    assert main([*FIT, "--trainer.log_every_n_steps=50"]) == 2
    assert "which is logged every 50 meta-steps, and validations come every 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["EMAWeightAveraging", "WeightAveraging"])
@pytest.mark.parametrize("steps", [3, 4])
def test_averaged_weights_resume_as_the_uninterrupted_run(name: str, steps: int) -> None:
    """Stopped between validations, and at one."""
    write_config((name, "{decay: 0.5}" if name == "EMAWeightAveraging" else "{}"))
    assert main([*FIT, "--trainer.max_steps=6"]) == 0
    assert main([*FIT, f"--trainer.max_steps={steps}"]) == 0
    assert main([*FIT, "--trainer.max_steps=6", "--ckpt_path=last"]) == 0
    whole, resumed = (load(RUN.with_name(f"version_{run}") / "checkpoints/last.ckpt") for run in (0, 1))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]), (part, key)
    assert not torch.equal(whole["state_dict"]["net.0.weight"], whole["current_model_state"]["net.0.weight"])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_averaged_weights_are_those_that_are_validated_saved_and_tested(capsys: pytest.CaptureFixture[str]) -> None:
    """Also: without the callback, the run is not resumed from its average."""
    write_config(("EMAWeightAveraging", "{decay: 0.5}"))
    assert main([*FIT, "--trainer.max_steps=2"]) == 0
    for name in ("best", "last"):
        assert main(["validate", *FIT[1:], f"--ckpt_path={name}"]) == 0
    rows = csv.DictReader((RUN / "metrics.csv").read_text().splitlines())
    measured = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert measured == pytest.approx([measured[0]] * 3, rel=1e-5)
    write_config()
    assert main([*FIT, "--ckpt_path=last"]) == 2
    assert "holds averaged weights, and trainer.callbacks has no WeightAveraging" in capsys.readouterr().err
    assert main(["test", *FIT[1:], "--ckpt_path=last"]) == 0
