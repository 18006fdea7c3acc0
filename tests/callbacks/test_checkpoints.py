from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from meta_lightning.algorithms import MAMLModule
from meta_lightning.callbacks import Checkpoints
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.data.manifest import write_manifest
from meta_lightning.nets import MLP


@pytest.mark.parametrize(
    ("monitor", "given", "used"),
    [
        ("val/loss", None, "min"),
        ("val/accuracy", None, "max"),
        ("val/mse", None, "min"),
        ("val/accuracy", "min", "min"),
    ],
)
def test_more_accuracy_is_better_unless_said_otherwise(monitor: str, given: str | None, used: str) -> None:
    assert Checkpoints(monitor, given).mode == used


pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def fit(folder: Path, steps: int, ckpt_path: Path | None = None, **changed: Any) -> Trainer:
    """Trains or resumes a run whose early and late validations have scores of their own."""
    torch.manual_seed(0)
    data: dict[str, Any] = {"queries": 2, "meta_batch_size": 2, "val_tasks": 4}
    data |= {
        key: changed.pop(key)
        for key in ("val_tasks", "eval_seed", "shots", "train_shots", "episodes")
        if key in changed
    }
    monitor = changed.pop("monitor", "val/loss")
    module = MAMLModule(MLP(1, 1, [3]), **{"inner_lr": 0.01, "inner_steps": 1, "eval_inner_steps": 1, **changed})
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=2, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[Checkpoints(monitor), EarlyStopping("val/loss", patience=100)], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, datamodule=EpisodicDataModule(Sinusoid(), **data), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture
def unbeatable(tmp_path: Path) -> Path:
    """A checkpoint whose best score no validation reaches."""
    fit(tmp_path, 2)
    path = tmp_path / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    for key, state in content["callbacks"].items():
        if key.startswith("Checkpoints"):
            state["best_model_score"] = torch.tensor(1e-9)
        if key.startswith("EarlyStopping"):
            state["best_score"] = torch.tensor(1e-9)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"val_tasks": 6}, "data.val_tasks is 6 here, 4 in the checkpoint"),
        ({"eval_seed": 1}, "data.eval_seed is 1 here, 0 in the checkpoint"),
        ({"shots": 3, "train_shots": 1},
         "data.ways, data.shots, data.queries is [None, 3, 2] here, [None, 1, 2] in the checkpoint"),
        ({"eval_inner_steps": 2}, "model.eval_inner_steps is 2 here, 1 in the checkpoint"),
        ({"monitor": "val/mse"}, "checkpoint.monitor or checkpoint.mode is val/mse, min here, others before"),
        ({"episodes": Path("x.json")}, "the hash of data.episodes is "),
    ],
    ids=str,
)  # fmt: skip
def test_a_best_that_can_not_be_compared_is_forgotten(
    unbeatable: Path, changed: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(EpisodicDataModule(Sinusoid(), queries=2, val_tasks=4).manifest("val"), Path("x.json"))
    capsys.readouterr()
    trainer = fit(unbeatable.parents[1], 4, unbeatable, **changed)
    out = capsys.readouterr().out
    assert f"Note: {said}" in out
    assert "the former best is forgotten, and the next validation replaces best.ckpt\n" in out
    assert float(trainer.checkpoint_callback.best_model_score) > 1e-9
    assert float(trainer.early_stopping_callback.best_score) > 1e-9
    assert torch.load(unbeatable.with_name("best.ckpt"), weights_only=True)["global_step"] == 4


@pytest.mark.parametrize(
    "changed", [{}, {"inner_steps": 2}, {"inner_lr": 0.02}, {"grad_clip": 1.0}, {"first_order": True}], ids=str
)
def test_a_best_that_can_be_compared_is_kept(
    unbeatable: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(unbeatable.parents[1], 4, unbeatable, **changed)
    assert float(trainer.checkpoint_callback.best_model_score) == pytest.approx(1e-9)
    assert "forgotten" not in capsys.readouterr().out
