"""Evaluations that are not finite are named, are never the best, and are no success."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from meta_lightning.algorithms import MAMLModule
from meta_lightning.callbacks import Checkpoints
from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.errors import NotFiniteError
from meta_lightning.nets import MLP
from meta_lightning.types import Task


class Spoilt(MAMLModule):
    """MAML whose net is spoilt in evaluations from ``spoilt_from`` meta-steps on, for tasks above 1."""

    spoilt_from = 0

    def predict(self, net_params: dict[str, Tensor], task: Task) -> Tensor:
        spoilt = (task.index > 1) & (not self.training and self.global_step >= self.spoilt_from)
        return torch.where(spoilt, torch.nan, super().predict(net_params, task))


def run(folder: Path, spoilt_from: int) -> tuple[Trainer, Spoilt, EpisodicDataModule]:
    torch.manual_seed(0)
    module = Spoilt(MLP(1, 1, [3]), inner_lr=0.01, inner_steps=1, eval_inner_steps=1)
    module.spoilt_from = spoilt_from
    data = EpisodicDataModule(Sinusoid(), queries=2, meta_batch_size=2, eval_batch_size=3, val_tasks=14, test_tasks=4)
    trainer = Trainer(
        max_steps=4, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=2, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[Checkpoints()], default_root_dir=folder,
    )  # fmt: skip
    return trainer, module, data


@pytest.mark.parametrize(("spoilt_from", "best"), [(0, None), (3, 2)])
def test_a_validation_that_is_not_finite_is_named_and_never_the_best(
    tmp_path: Path, spoilt_from: int, best: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, module, data = run(tmp_path, spoilt_from)
    trainer.fit(module, datamodule=data)
    said = capsys.readouterr().out
    tasks = "tasks [2, 3, 4, 5, 6, 7, 8, 9, 10, 11] and 2 more"
    assert f"Warning: val/loss or its metric is not finite for {tasks} at meta-step 4;" in said
    assert said.count("Warning") == (1 if best else 2)
    file = tmp_path / "checkpoints/best.ckpt"
    assert (torch.load(file, weights_only=True)["global_step"] if file.exists() else None) == best
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_from_python_an_evaluation_that_is_not_finite_raises(tmp_path: Path, stage: str) -> None:
    trainer, module, data = run(tmp_path, 0)
    with pytest.raises(NotFiniteError, match=r"^(val|test)/loss or its metric is not finite for tasks \[2, 3"):
        getattr(trainer, stage)(module, datamodule=data)


def test_a_test_that_is_not_finite_has_no_report_and_is_no_success(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(repository / "configs/sinusoid/maml.yaml"), "--trainer.accelerator=cpu"]
    config += ["--data.test_tasks=3", "--data.val_tasks=3", "--untrained=true"]
    for command, stage in (("test", "test"), ("validate", "val")):
        assert main([command, *config, "--model.inner_lr=1e30"]) == 1
        message = f"error: {stage}/loss or its metric is not finite for tasks [0, 1, 2]: adaptation diverged"
        assert message in capsys.readouterr().err
    assert not [*Path("logs").rglob("*report*")]
    assert not [*Path("logs").rglob("*.md")]
    assert main(["test", *config]) == 0
    (report,) = Path("logs").rglob("test_report.json")
    assert json.loads(report.read_text())["mean"] > 0
