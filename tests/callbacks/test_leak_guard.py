from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from meta_lightning import EpisodicDataModule
from meta_lightning.algorithms import MAMLModule
from meta_lightning.callbacks import LeakGuard
from meta_lightning.types import Task

from ..algorithms.problems import FACES, Faces


class Marked(EpisodicDataModule):
    """Writes each query's label into its first pixel."""

    def on_after_batch_transfer(self, batch: Task, dataloader_idx: int) -> Task:
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        x = batch.query.x.clone()
        x[..., 0, 0, 0] = batch.query.y.float()
        return batch._replace(query=batch.query._replace(x=x))


class ReadsTheMark(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.one_hot(x[:, 0, 0, 0].long().clamp(0, 2), 3).float()


def warned(data: EpisodicDataModule, net: nn.Module, capsys: pytest.CaptureFixture[str]) -> list[str]:
    torch.manual_seed(0)
    module = MAMLModule(net, inner_lr=0.0, inner_steps=1, task_loop="loop")
    running = Trainer(
        max_steps=6, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[LeakGuard()],
        default_root_dir=Path.cwd(),
    )  # fmt: skip
    running.fit(module, datamodule=data)
    running.test(module, datamodule=data, verbose=False)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]


SHAPE = {"ways": 3, "shots": 2, "queries": 2, "meta_batch_size": 4, "val_tasks": 100, "test_tasks": 100}


def test_queries_that_give_their_labels_away_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    (warning,) = warned(Marked(Faces(), **SHAPE), ReadsTheMark(), capsys)
    assert warning.startswith("Warning: val/accuracy_before is 100.0%, and chance is 33.3%. Each task assigns")


def test_honest_tasks_are_not_suspected(capsys: pytest.CaptureFixture[str]) -> None:
    assert warned(EpisodicDataModule(Faces(), **SHAPE), FACES.net(), capsys) == []


def test_the_sanity_check_accuses_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """It runs on a few tasks, where chance has its way."""
    for seed in range(12):
        torch.manual_seed(seed)
        data = EpisodicDataModule(Faces(), **{**SHAPE, "queries": 1, "val_tasks": 4000, "eval_batch_size": 4})
        Trainer(
            max_steps=1, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[LeakGuard()], val_check_interval=None, limit_val_batches=2,
        ).fit(MAMLModule(FACES.net(), inner_lr=0.0), datamodule=data)  # fmt: skip
    assert "Warning" not in capsys.readouterr().out
