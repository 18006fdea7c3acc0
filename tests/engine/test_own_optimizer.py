"""The user's own outer optimizer: groups, `configure_optimizers`, hyper-parameters, and what can't work."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import lr_scheduler

from meta_lightning import MAMLModule, MetaSGDModule
from meta_lightning.algorithms import MetaModule
from meta_lightning.cli import main
from meta_lightning.engine.outer_loop import try_outer_loop
from meta_lightning.errors import ConfigError
from meta_lightning.nets import MLP

from ..algorithms.problems import SINUSOIDS

pytestmark = pytest.mark.filterwarnings("default")  # Lightning warns of short runs


def trainer(steps: int = 2) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, accelerator="cpu",
        limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def net() -> nn.Module:
    return MLP(1, 1, hidden=[3])


def grouped(params: Any) -> torch.optim.Optimizer:
    params = [*params]
    weights, biases = [p for p in params if p.ndim > 1], [p for p in params if p.ndim == 1]
    return torch.optim.SGD([{"params": weights}, {"params": biases, "lr": 0.0}], lr=0.1)


class Grouped(torch.optim.AdamW):
    """Decay on matrices alone."""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1) -> None:
        params = [*params]
        matrices, others = [p for p in params if p.ndim > 1], [p for p in params if p.ndim == 1]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay)


class Counting(torch.optim.SGD):
    """Keeps state in its groups, as optimizers without a rate do."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.defaults["count"] = 0
        for group in self.param_groups:
            group["count"] = 0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] += 1
        return super().step(closure)


def command(*more: str, model: dict[str, Any] | None = None, algorithm: str = "MAMLModule") -> list[str]:
    """A short run of the command line."""
    config = {
        "model": {
            "class_path": algorithm,
            "init_args": {
                "net": {"class_path": "MLP", "init_args": {"in_features": 1, "out_features": 1, "hidden": [3]}},
                **(model or {}),
            },
        },
        "data": {"source": {"class_path": "Sinusoid"}, "shots": 3, "queries": 3, "val_tasks": 2, "test_tasks": 2},
        "trainer": {
            "max_steps": 2, "val_check_interval": 2, "enable_progress_bar": False, "enable_model_summary": False,
            "accelerator": "cpu", "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": "r"}},
        },
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "--config=run.yaml", *more]


def saved() -> dict[str, Any]:
    content: dict[str, Any] = torch.load("logs/r/version_0/checkpoints/last.ckpt", weights_only=True)
    return content


@pytest.mark.parametrize("schedule", [None, lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0, 1)])
def test_groups_stay_as_they_were_made(schedule: Any) -> None:
    module = MAMLModule(net(), optimizer=grouped, lr_scheduler=schedule)
    before = {name: param.detach().clone() for name, param in module.named_parameters()}
    trainer().fit(module, SINUSOIDS.data())
    moved = {name: not torch.equal(before[name], param) for name, param in module.named_parameters()}
    assert moved == {name: "weight" in name for name in before}
    assert module.settings()["optimizer.lr"] == [0.1, 0.0]


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_resumed_run_keeps_groups_and_takes_changes(scheduled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = {"class_path": "torch.optim.lr_scheduler.ConstantLR", "init_args": {"factor": 1.0}}
    model: dict[str, Any] = {"optimizer": {"class_path": f"{__name__}.Grouped", "init_args": {"lr": 0.01}}}
    arguments = command(model=model | ({"lr_scheduler": schedule} if scheduled else {}))
    assert main(arguments) == 0
    for changes, expected in (
        ([], [(0.01, 0.1), (0.01, 0.0)]),
        (["--model.optimizer.weight_decay=0.2"], [(0.01, 0.2), (0.01, 0.0)]),
    ):
        steps = 4 + len(changes)
        code = main([*arguments, f"--trainer.max_steps={steps}", "--ckpt_path=last", *changes])
        if scheduled and changes:
            assert code == 2
            assert "model.optimizer.weight_decay is [0.2, 0.0], but [0.1, 0.0] in" in capsys.readouterr().err
            return
        assert code == 0
        groups = saved()["optimizer_states"][0]["param_groups"]
        assert [(group["lr"], group["weight_decay"]) for group in groups] == expected


def test_state_that_an_optimizer_keeps_in_its_groups_is_resumed() -> None:
    arguments = command(model={"optimizer": {"class_path": f"{__name__}.Counting"}})
    assert main(arguments) == 0
    assert main([*arguments, "--trainer.max_steps=4", "--ckpt_path=last"]) == 0
    assert saved()["optimizer_states"][0]["param_groups"][0]["count"] == 4


class Own(MetaSGDModule):
    """Chooses its optimizer in Lightning's usual way."""

    form = "optimizer"

    def configure_optimizers(self) -> Any:
        assert self.trainer.max_steps  # as people ask for the length of the run
        groups = [{"params": self.net.parameters(), "lr": 1e-3}, {"params": self.rates.parameters(), "lr": 1e-5}]
        optimizer = torch.optim.Adam(groups)
        scheduled = self.form in ("scheduled", "lists", "epochs", "schedules")
        half = lr_scheduler.ConstantLR(optimizer, 0.5, 100) if scheduled else None  # it changes the rate
        return {
            "optimizer": optimizer,
            "list": [optimizer],
            "dict": {"optimizer": optimizer},
            "scheduled": {"optimizer": optimizer, "lr_scheduler": {"scheduler": half, "interval": "step"}},
            "lists": ([optimizer], [half]),
            "two": [torch.optim.Adam(self.net.parameters()), torch.optim.Adam(self.rates.parameters())],
            "none": None,
            "epochs": {"optimizer": optimizer, "lr_scheduler": {"scheduler": half, "interval": "epoch"}},
            "schedules": ([optimizer], [half, half]),
            "metric": {"optimizer": optimizer, "lr_scheduler": lr_scheduler.ReduceLROnPlateau(optimizer)},
        }[self.form]


class OwnScheduled(Own):
    form = "scheduled"


@pytest.mark.parametrize("form", ["optimizer", "list", "dict", "scheduled", "lists"])
def test_every_form_of_configure_optimizers_trains(form: str) -> None:
    module = Own(net())
    module.form = form
    run = trainer()
    run.fit(module, SINUSOIDS.data())
    factor = 0.5 if form in ("scheduled", "lists") else 1.0
    assert [group["lr"] for group in run.optimizers[0].param_groups] == [1e-3 * factor, 1e-5 * factor]


@pytest.mark.parametrize("algorithm", ["Own", "OwnScheduled"])
def test_a_run_with_its_own_optimizer_is_resumed_and_tested(algorithm: str) -> None:
    arguments = command(algorithm=f"{__name__}.{algorithm}")
    assert main(arguments) == 0
    assert main([*arguments, "--trainer.max_steps=4", "--ckpt_path=last"]) == 0
    assert saved()["settings"]["optimizer.lr"] == [1e-3, 1e-5]
    assert main(["test", *arguments[1:], "--ckpt_path=last"]) == 0


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("two", "configure_optimizers returns 2 optimizers, but a meta-step steps one optimizer: return one with a"),
        ("none", "configure_optimizers returns NoneType, but a meta-step steps one"),
        ("epochs", "configure_optimizers returns a schedule with interval epoch, but a schedule is stepped once per"),
        ("schedules", "configure_optimizers returns 2 schedules; expected one at most"),
        ("metric", "model.lr_scheduler is ReduceLROnPlateau, which needs a metric"),
    ],
)
def test_other_forms_are_refused(form: str, message: str) -> None:
    module = Own(net())
    module.form = form
    with pytest.raises(ConfigError, match=message):
        trainer().fit(module, SINUSOIDS.data())


class Saving(MAMLModule):
    def __init__(self, net: nn.Module, inner_lr: float = 0.01, extra: float = 1.0, **shared: Any) -> None:
        super().__init__(net, inner_lr=inner_lr, **shared)
        self.save_hyperparameters()


def test_save_hyperparameters_leaves_a_checkpoint_that_can_be_read() -> None:
    arguments = command(algorithm=f"{__name__}.Saving", model={"extra": 2.0})
    assert main(arguments) == 0
    content = saved()
    assert content["hyper_parameters"]["extra"] == 2.0
    assert "optimizer" not in content["hyper_parameters"]
    assert main([*arguments, "--trainer.max_steps=4", "--ckpt_path=last"]) == 0
    assert main(["test", *arguments[1:], "--ckpt_path=last"]) == 0
    assert Saving.load_from_checkpoint("logs/r/version_0/checkpoints/last.ckpt").hparams["extra"] == 2.0


def test_load_from_checkpoint_restores_the_settings() -> None:
    assert main(command(model={"inner_lr": 0.05, "inner_steps": 3, "eval_inner_steps": 4})) == 0
    loaded = MAMLModule.load_from_checkpoint("logs/r/version_0/checkpoints/last.ckpt", net=net())
    assert (loaded.inner_lr, loaded.inner_steps, loaded.eval_inner_steps) == (0.05, 3, 4)


def one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2)


def tabulated(optimizer: Any) -> Any:
    return lr_scheduler.LambdaLR(optimizer, [1.0, 0.5, 0.1].__getitem__)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": torch.optim.LBFGS},
         r"model.optimizer is LBFGS, whose step fails \(.*closure.*\); expected an optimizer that takes dense grad"),
        ({"optimizer": lambda params: torch.optim.SparseAdam([*params])},
         r"model.optimizer is SparseAdam, whose step fails"),
        ({"lr_scheduler": one_cycle},
         "model.lr_scheduler.total_steps is 2, but trainer.max_steps is 3, and OneCycleLR can't go on after its end; "
         "set total_steps to 3, or max_steps to 2"),
        ({"lr_scheduler": tabulated},
         r"model.lr_scheduler is LambdaLR, which ends at meta-step 3 \(list index out of range\), but "
         "trainer.max_steps is 3; make the schedule last as long, or set max_steps to 2"),
    ],
    ids=["closure", "sparse", "one cycle", "table"],
)  # fmt: skip
def test_what_can_not_work_is_refused_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(3).fit(MAMLModule(net(), **settings), SINUSOIDS.data())
    if "lr_scheduler" in settings:
        try_outer_loop(MAMLModule(net(), **settings), trainer(2))


def test_the_command_line_refuses_before_a_run_folder_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("--model.optimizer=torch.optim.LBFGS")) == 2
    assert "error: model.optimizer is LBFGS, whose step fails" in capsys.readouterr().err
    assert not Path("logs").exists()


def test_the_trial_changes_nothing() -> None:
    module: MetaModule = MAMLModule(net(), optimizer=lambda params: torch.optim.AdamW(params, lr=1.0, weight_decay=0.5))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.random.get_rng_state()
    try_outer_loop(module, trainer())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(param.grad is None for param in module.parameters())
    assert torch.equal(random, torch.random.get_rng_state())
