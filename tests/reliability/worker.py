"""What each of several processes does; `test_processes.py` starts it and reads what it leaves: ``<name>_<rank>.pt``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import Checkpoints, GracefulStop, TestReport
from meta_lightning.errors import DivergedError

from ..algorithms.cases import CASES, Case

NAMES = ["maml, 3 steps", "fomaml, 3 steps", "reptile, adam", "meta-sgd, 1 step", "protonet, euclidean"]
BY_NAME = {case.name: case for case in CASES if case.name in NAMES}
COMPARED = 20


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
        self.episodes: list[int] = []
        self.on_the_way: dict[str, Tensor] = {}
        self.values: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: MetaModule, outputs: Any, tasks: Any, number: int) -> None:
        self.episodes += tasks.index.tolist()
        if trainer.global_step == COMPARED:
            self.on_the_way = weights(module)

    def on_validation_end(self, trainer: Trainer, module: MetaModule) -> None:
        self.values.append({name: value.item() for name, value in trainer.callback_metrics.items() if "val" in name})


def trainer(steps: int, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=COMPARED, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, accelerator="cpu",
        enable_checkpointing=any(isinstance(callback, Checkpoints) for callback in callbacks),
        default_root_dir=Path.cwd(), callbacks=[*callbacks], **options,
    )  # fmt: skip


def train(name: str, steps: int, **options: Any) -> dict[str, Any]:
    case: Case = BY_NAME[name.removesuffix(", frozen part")]
    module, witness = make(name), Witness()
    trainer(steps, witness, **options).fit(module, datamodule=case.problem.data())
    return {
        "end": weights(module), "episodes": witness.episodes, "on_the_way": witness.on_the_way, "values": witness.values
    }  # fmt: skip


def weights(module: MetaModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def main(folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"devices": processes, "strategy": "ddp"}
    rank = int(os.environ["RANK"])
    os.chdir(folder)

    def leave(name: str, made: Any) -> None:
        torch.save(made, folder / f"{name}_{rank}.pt")

    for name in [*BY_NAME, "maml, 3 steps, frozen part"]:
        leave(name, counting_collectives(lambda name=name: train(name, 200, **options)))
    leave("resumed", stop_and_resume(rank, options))
    leave("diverged", diverge(rank, options))
    test = trainer(1, TestReport(), **options)
    test.test(make("maml, 3 steps"), datamodule=BY_NAME["maml, 3 steps"].problem.data(), verbose=False)


def counting_collectives(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Counts those of the training loop: its validations reduce their means."""
    true, calls = torch.distributed.all_reduce, []
    torch.distributed.all_reduce = lambda *args, **options: (calls.append(args[0].numel()), true(*args, **options))[1]
    try:
        return {**run(), "collectives": calls}
    finally:
        torch.distributed.all_reduce = true


def stop_and_resume(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """SIGTERM at one process alone; both stop, and what is resumed ends where the uninterrupted run ends."""

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 6 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    data = BY_NAME["maml, 3 steps"].problem.data
    whole, first, second = (make("maml, 3 steps") for _ in range(3))
    trainer(12, **options).fit(whole, datamodule=data())
    code: Any = None
    try:
        trainer(12, Interrupt(), Checkpoints(), GracefulStop(), **options).fit(first, datamodule=data())
    except SystemExit as ended:
        code = ended.code
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    saved = torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"]
    resumed = trainer(12, **options)
    resumed.fit(second, datamodule=data(), ckpt_path="checkpoints/last.ckpt", weights_only=True)
    return {"code": code, "saved": saved, "whole": weights(whole), "end": weights(second)}


def diverge(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """A loss that is not finite on one process alone, at the third meta-step, for the later of its two tasks."""
    module = make("maml, 3 steps")
    plain = module.query_figures

    def broken(net_params: Any, task: Any) -> dict[str, Tensor]:
        figures = plain(net_params, task)
        return {**figures, "loss": torch.where(task.index == 11, torch.nan, figures["loss"])}

    module.query_figures = broken
    running = trainer(12, **options)
    try:
        running.fit(module, datamodule=BY_NAME["maml, 3 steps"].problem.data())
    except DivergedError as error:
        return {"error": str(error), "step": running.global_step, "end": weights(module)}
    return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
