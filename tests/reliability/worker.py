"""What each of several processes does; `test_processes.py` starts it and reads what it leaves: ``<name>_<rank>.pt``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import (
    AdaptationPlots,
    Checkpoints,
    GracefulStop,
    HyperParameters,
    TestReport,
    Throughput,
    checkpoints,
)
from meta_lightning.cli import main as command_line
from meta_lightning.errors import ConfigError, DivergedError
from meta_lightning.reporting import plots

from ..algorithms.cases import CASES, Case

NAMES = ["maml, 3 steps", "fomaml, 3 steps", "reptile, adam", "meta-sgd, 1 step", "protonet, euclidean"]
BY_NAME = {case.name: case for case in CASES if case.name in NAMES}
COMPARED = 20
SINUSOID = [
    "--config", str(Path(__file__).parents[2] / "configs/sinusoid/maml.yaml"), "--trainer.max_steps=2",
    "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=10", "--data.eval_batch_size=4",
    "--data.meta_batch_size=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip
EPISODES = [
    "episodes", "--config", str(Path(__file__).parents[2] / "configs/glyphs_5w1s/maml.yaml"), "--data.test_tasks=50",
]  # fmt: skip
EVERY_SEED = "--ckpt_path=logs/sinusoid/maml/version_*/checkpoints/last.ckpt"
COLLECTIVES: list[str] = []  # that were made in this process


def make(name: str, **options: Any) -> MetaModule:
    """Plain gradient descent outside, since Adam enlarges what rounding does to small gradients."""
    torch.manual_seed(0)
    case = BY_NAME[name.removesuffix(", frozen part")]
    net = case.problem.net()
    net.first.requires_grad_(requires_grad=not name.endswith("frozen part"))
    return case.make(net, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05), **options)


class Witness(Callback):
    """Keeps the episodes of this process, the parameters on the way, and the validations."""

    def __init__(self) -> None:
        self.collectives: list[int] = []  # of each meta-step
        self._before = 0
        self.episodes: list[int] = []
        self.on_the_way: dict[str, Tensor] = {}
        self.values: list[dict[str, float]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self._before = len(COLLECTIVES)

    def on_train_batch_end(self, trainer: Trainer, module: MetaModule, outputs: Any, tasks: Any, number: int) -> None:
        self.collectives.append(len(COLLECTIVES) - self._before)
        self.episodes += tasks.index.tolist()
        if trainer.global_step == COMPARED:
            self.on_the_way = weights(module)

    def on_validation_end(self, trainer: Trainer, module: MetaModule) -> None:
        self.values.append({name: value.item() for name, value in trainer.callback_metrics.items() if "val" in name})


def trainer(steps: int, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu", callbacks=[*callbacks],
        enable_checkpointing=any(isinstance(callback, Checkpoints) for callback in callbacks),
        **{"default_root_dir": Path.cwd(), "val_check_interval": COMPARED, "logger": False, **options},
    )  # fmt: skip


def train(name: str, steps: int, **options: Any) -> dict[str, Any]:
    case: Case = BY_NAME[name.removesuffix(", frozen part")]
    module, witness = make(name), Witness()
    trainer(steps, witness, **options).fit(module, datamodule=case.problem.data())
    seen = ("collectives", "episodes", "on_the_way", "values")
    return {"end": weights(module), **{name: getattr(witness, name) for name in seen}}


def weights(module: MetaModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def main(folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"devices": processes, "strategy": "ddp"}
    rank = int(os.environ["RANK"])
    os.chdir(folder)
    count_collectives()

    def leave(name: str, made: Any) -> None:
        torch.save(made, folder / f"{name}_{rank}.pt")

    for name in [*BY_NAME, "maml, 3 steps, frozen part"]:
        leave(name, train(name, 200, **options))
    for name in ("maml, 3 steps", "reptile, adam"):
        leave(f"resumed {name}", stop_and_resume(name, rank, options))
    leave("diverged", diverge(rank, options))
    leave("full", fill_disk(rank, options))
    leave("pictures", draw(options))
    test = trainer(1, TestReport(), **options)
    test.test(make("maml, 3 steps"), datamodule=BY_NAME["maml, 3 steps"].problem.data(), verbose=False)
    torch.set_num_threads(1 + rank)
    assert command_line([*EPISODES, f"--output=episodes_{rank}.json"]) == 0
    for seed in (0, 1):
        assert command_line(["fit", *SINUSOID, "--trainer.devices=2", f"--seed_everything={seed}"]) == 0
    assert command_line(["test", *SINUSOID, "--trainer.devices=2", EVERY_SEED]) == 0


def count_collectives() -> None:
    for name in ("all_reduce", "all_gather", "all_gather_object", "reduce", "broadcast_object_list", "barrier"):
        true = getattr(torch.distributed, name)

        def counted(*args: Any, _true: Callable[..., Any] = true, _name: str = name, **options: Any) -> Any:
            COLLECTIVES.append(_name)
            return _true(*args, **options)

        setattr(torch.distributed, name, counted)


def stop_and_resume(name: str, rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """SIGTERM at one process alone; both stop, and what is resumed ends where the uninterrupted run ends."""

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 6 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def module() -> MetaModule:
        torch.manual_seed(0)
        return BY_NAME[name].make(
            BY_NAME[name].problem.net(dropout=0.2),
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 5),
        )

    data, last = BY_NAME[name].problem.data, Path(f"{name}/checkpoints/last.ckpt")
    options = {**options, "val_check_interval": 4, "default_root_dir": Path(name)}
    whole, first, second = (module() for _ in range(3))
    trainer(12, **options).fit(whole, datamodule=data())
    code: Any = None
    try:
        trainer(12, Interrupt(), Checkpoints(), GracefulStop(), **options).fit(first, datamodule=data())
    except SystemExit as ended:
        code = ended.code
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    saved = torch.load(last, weights_only=True)["global_step"]
    resumed = trainer(12, **options)
    resumed.fit(second, datamodule=data(), ckpt_path=last, weights_only=True)
    return {"code": code, "saved": saved, "whole": weights(whole), "end": weights(second)}


def draw(options: dict[str, Any]) -> dict[str, Any]:
    """A run with everything that TensorBoard gets, and one without: which process drew, and who waited for whom."""
    images: list[Any] = []
    true = plots.pixels
    plots.pixels = lambda figure: images.append(figure) or true(figure)
    options = {**options, "log_every_n_steps": 2, "val_check_interval": 3}
    made: dict[str, list[Callback]] = {"with": [AdaptationPlots(1), Throughput(), HyperParameters()], "without": []}
    left: dict[str, Any] = {}
    for name, callbacks in made.items():
        before, module = len(COLLECTIVES), make("maml, 3 steps")
        running = trainer(6, *callbacks, **options, logger=TensorBoardLogger(".", name=name))
        running.fit(module, datamodule=BY_NAME["maml, 3 steps"].problem.data())
        left[name] = {"collectives": COLLECTIVES[before:], "end": weights(module)}
    plots.pixels = true
    return {**left, "images": len(images)}


def fill_disk(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """The first process can't save; the other, which never does, must not wait for it."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    saved, checkpoints.save_whole = checkpoints.save_whole, full
    try:
        trainer(3, Checkpoints(), **options).fit(
            make("maml, 3 steps"), datamodule=BY_NAME["maml, 3 steps"].problem.data()
        )
    except ConfigError as error:
        return {"error": str(error)}
    finally:
        checkpoints.save_whole = saved
    return {}


def diverge(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """A loss that is not finite on one process alone, at the third meta-step, for the later of its two tasks."""
    module = make("maml, 3 steps")
    plain = module.query_metrics

    def broken(net_params: Any, task: Any) -> dict[str, Tensor]:
        figures = plain(net_params, task)
        return {**figures, "loss": torch.where(task.index == 11, torch.nan, figures["loss"])}

    module.query_metrics = broken
    running = trainer(12, **options)
    try:
        running.fit(module, datamodule=BY_NAME["maml, 3 steps"].problem.data())
    except DivergedError as error:
        return {"error": str(error), "step": running.global_step, "end": weights(module)}
    return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
