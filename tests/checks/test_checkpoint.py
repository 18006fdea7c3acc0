"""Checkpoints with edited entries are refused by the name of the entry, and nothing changes."""

import copy
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from meta_lightning.algorithms import MAMLModule
from meta_lightning.callbacks import Checkpoints
from meta_lightning.checks.checkpoint import check_restorable, check_resumable
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.errors import ConfigError
from meta_lightning.nets import MLP
from meta_lightning.runs.checkpoint import Checkpoint

LOOP = "epoch_loop.manual_optimization.optim_step_progress"
BEST = "Checkpoints{'monitor': 'val/loss', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, 'train_time_interval': None}"  # noqa: E501 - Lightning's key


def model(scheduled: bool = True) -> MAMLModule:
    torch.manual_seed(0)
    schedule = (lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3)) if scheduled else None
    return MAMLModule(MLP(1, 1, [3]), inner_lr=0.01, inner_steps=1, eval_inner_steps=1, lr_scheduler=schedule)


def data() -> EpisodicDataModule:
    return EpisodicDataModule(Sinusoid(), queries=2, meta_batch_size=2, val_tasks=2)


def trainer(folder: Path, steps: int = 4) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=2, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[Checkpoints()], default_root_dir=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    """Checkpoints of a run with a schedule, and of one without."""
    saved = {}
    for scheduled in (True, False):
        folder = tmp_path_factory.mktemp("run")
        trainer(folder).fit(model(scheduled), datamodule=data())
        saved[scheduled] = (folder / "checkpoints/last.ckpt").read_bytes()
    return saved


def check(checkpoint: dict[str, Any], scheduled: bool = True, stage: str = "fit") -> None:
    """Checks a checkpoint as the command line does before it creates a run folder."""
    path, module, running = Path("x.ckpt"), model(scheduled), trainer(Path.cwd())
    torch.save(checkpoint, path)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loops = copy.deepcopy(running.fit_loop.state_dict())
    try:
        read = Checkpoint.read(path)
        if stage == "fit":
            check_resumable(read, module.settings(), data().state_dict(), module.step_seed)
        check_restorable(stage, read, module, running)
    finally:
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert running.fit_loop.state_dict() == loops
        assert running.checkpoint_callback.state_dict()["best_model_score"] is None


def load(file: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(file), weights_only=True)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("scheduled", [True, False])
def test_a_checkpoint_of_fit_is_accepted(whole: dict[bool, bytes], scheduled: bool, stage: str) -> None:
    check(load(whole[scheduled]), scheduled, stage)


def test_a_checkpoint_from_before_the_first_meta_step_is_accepted(whole: dict[bool, bytes]) -> None:
    checkpoint = load(whole[False])
    checkpoint["optimizer_states"][0]["state"] = {}
    checkpoint["global_step"] = checkpoint["loops"]["fit_loop"][LOOP]["total"]["completed"] = 0
    check(checkpoint, scheduled=False)


EDITS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda it: it.update(loops="x"), "loops is x; expected dict, as `fit` writes it"),
    (lambda it: it.update(callbacks=[]), "callbacks is []; expected dict"),
    (lambda it: it.update(optimizer_states={}), "optimizer_states is {}; expected list"),
    (lambda it: it.update(global_step="3"), "global_step is 3; expected int"),
    (lambda it: it.update(settings="x\n" * 500), r"settings is 'x\nx\nx"),
    (lambda it: it["settings"].update(inner_lr=torch.ones(2)), "settings is {'adapt_loss': False, "),
    (lambda it: it.update(EpisodicDataModule=[1]), "EpisodicDataModule is [1]; expected dict of numbers and words"),
    (lambda it: it.update(step_seed=None), "step_seed is None; expected int"),
    (lambda it: it.update({"pytorch-lightning_version": "new"}), "pytorch-lightning_version can't be restored ("),
    (lambda it: it["state_dict"].update({"net.0.bias": torch.tensor([1, torch.nan, 1])}), "net.0.bias holds NaN"),
    (lambda it: it["state_dict"].pop("net.0.bias"), "state_dict can't be restored (Error(s) in loading state_dict"),
    (lambda it: it["optimizer_states"][0]["state"].update({0: torch.ones(2)}), "optimizer_states can't be restored ("),
    (lambda it: it["optimizer_states"].clear(), "optimizer_states is []; expected a list of 1"),
    (lambda it: it["optimizer_states"][0].pop("param_groups"), "optimizer_states can't be restored ('param_groups')"),
    (lambda it: it["optimizer_states"][0]["param_groups"][0]["params"].pop(), "optimizer_states can't be restored ("),
    (lambda it: it["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(7)), "optimizer_states can't be rest"),
    (lambda it: it["optimizer_states"][0]["state"][0].pop("exp_avg"), "optimizer_states can't be restored ('exp_avg')"),
    (lambda it: it["optimizer_states"][0]["state"].pop(0), "optimizer_states lacks 1 of 4 parameters"),
    (lambda it: it["optimizer_states"][0]["state"][0].update(exp_avg=torch.full((3, 1), torch.inf)),
     "optimizer_states holds values that are not finite"),
    (lambda it: it["lr_schedulers"].append({}), "expected a list of 1, as `fit` wrote it"),
    (lambda it: it["lr_schedulers"].__setitem__(0, 3), "lr_schedulers can't be restored ("),
    (lambda it: it["lr_schedulers"][0].update(step_size=0), "lr_schedulers can't be restored ("),
    (lambda it: it["callbacks"].update({BEST: [1]}), "callbacks.Checkpoints can't be restored ("),
    (lambda it: it["callbacks"][BEST].update(best_model_score=torch.ones(2)), "callbacks.Checkpoints can't be rest"),
    (lambda it: it["callbacks"][BEST].update(best_model_score=torch.tensor(torch.nan)), "(best_model_score is NaN)"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), EDITS, ids=range(len(EDITS)))
def test_an_edited_entry_is_named(
    whole: dict[bool, bytes], edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    checkpoint = load(whole[True])
    edit(checkpoint)
    with pytest.raises(ConfigError, match=rf"^x\.ckpt: .*{re.escape(message)}") as refused:
        check(checkpoint)
    assert str(refused.value).isprintable()
    assert str(refused.value).endswith(("check --ckpt_path", "use another checkpoint"))
    assert len(str(refused.value)) < 600


def test_paths_of_a_checkpoint_are_not_those_of_the_run(whole: dict[bool, bytes], tmp_path: Path) -> None:
    """Lightning deletes the former best file, which must therefore be one of this run."""
    checkpoint = load(whole[False])
    precious = tmp_path / "precious.txt"
    precious.write_text("")
    folder = tmp_path / "run/checkpoints"
    state = checkpoint["callbacks"][BEST]
    lure = f"{folder}/../../precious.txt"
    state |= {"dirpath": str(folder), "best_model_path": lure, "kth_best_model_path": lure}
    state |= {"best_model_score": torch.tensor(1e9), "kth_value": torch.tensor(1e9)}
    state["best_k_models"] = {lure: torch.tensor(1e9)}
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    running = trainer(tmp_path / "run", steps=8)
    running.fit(model(scheduled=False), datamodule=data(), ckpt_path=tmp_path / "theirs.ckpt", weights_only=True)
    assert (folder / "best.ckpt").is_file()
    assert running.checkpoint_callback.best_model_score < 1e9
    assert precious.exists()
