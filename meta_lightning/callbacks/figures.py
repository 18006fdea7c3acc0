"""Pictures of what adaptation does, in TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_lightning import drawing
from meta_lightning.algorithms.base import MetaModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional import losses
from meta_lightning.functional.tasks import count, map_tasks
from meta_lightning.statistics import per_step
from meta_lightning.types import Metrics, Params, Prediction, Task


class Figures(Callback):
    """Draws a task, the adaptation curve, and how far each layer moved; training never notices.

    The first tasks of the validation are adapted to once more for it, on the first process alone. Only what is logged
    to TensorBoard is drawn, and nothing in ``fast_dev_run`` and Lightning's check before training. A validation that is
    drawn costs 0.3 to 0.5 s of one core more, nearly all of it matplotlib's (measured on a busy machine with the
    configs of MAML: adapting takes 0.02 s on sinusoids, 0.1 s on Omniglot); the others cost nothing.

    Args:
        every_n_validations: The first validation that a process makes is drawn, then every n-th, and where training
            ends; 0 for no pictures.
        tasks: Over how many tasks curve and movement are averaged, or as many as are evaluated at once.

    Raises:
        ConfigError: If a number is below 0, or there is no task.
    """

    def __init__(self, every_n_validations: int = 5, tasks: int = 8) -> None:
        if every_n_validations < 0:
            raise ConfigError(
                f"figures.every_n_validations is {every_n_validations}; expected 1 or more, or 0 for no pictures"
            )
        if tasks < 1:
            raise ConfigError(
                f"figures.tasks is {tasks}; expected 1 or more (no pictures: figures.every_n_validations 0)"
            )
        self._every = every_n_validations
        self._count = tasks
        self._tasks: Task | None = None
        self._validations = 0
        self._drawn_at = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        self._tasks, self._validations, self._drawn_at = None, 0, -1

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Task, *args: Any, **kwargs: Any
    ) -> None:
        """Keeps the first tasks, which are the same in every validation."""
        if self._tasks is None and self._wanted(trainer):
            self._tasks = tree_map(lambda tensor: tensor[: self._count].clone(), batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, if it is time."""
        if not self._wanted(trainer):
            return
        if self._validations % self._every == 0:
            self._draw(trainer, pl_module)
        self._validations += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws where training ended."""
        if self._drawn_at != trainer.global_step:
            self._draw(trainer, pl_module)
        self._tasks = None

    def _wanted(self, trainer: Trainer) -> bool:
        return (
            self._every > 0
            and trainer.state.fn == "fit"
            and not trainer.sanity_checking
            and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by Lightning's connectors
            and trainer.is_global_zero
            and any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        )

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        if self._tasks is None:
            return
        assert isinstance(module, MetaModule)
        with _aside(trainer, module):
            seen = _look(module, self._tasks)
        self._drawn_at = trainer.global_step
        for name, figure in _pictures(module, self._tasks, seen).items():
            image = drawing.pixels(figure)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"figures/{name}", image, trainer.global_step, dataformats="HWC")


class _Seen(NamedTuple):
    """What adaptation did to some tasks, on the CPU.

    Attributes:
        predictions: For the queries after 0, 1, ... steps, ``[tasks, steps + 1, queries, out]``.
        metric: ``[tasks, steps + 1]``.
        moved: The size of each layer's change over the size of its parameters at the start, ``[tasks]``.
    """

    predictions: Tensor
    metric: Tensor
    moved: Metrics


def _look(module: MetaModule, tasks: Task) -> _Seen:
    params, buffers = module.learnable(), dict(module.named_buffers())

    def one(task: Task) -> _Seen:
        predictions, ends = [], list[Prediction]()
        for prediction in module.curve(params, buffers, task):
            predictions.append(prediction())
            ends[1:] = [prediction]  # the first and the last; those between are let go
        stacked = torch.stack(predictions)
        moved = moved_by_layer(ends[0].params, ends[-1].params) if module.has_inner_loop else {}
        return _Seen(stacked, losses.metric(stacked, task.query.y), moved)

    # Doubles, since numpy knows nothing of bfloat16.
    seen: _Seen = tree_map(lambda tensor: tensor.cpu().double(), map_tasks(one, tasks, module.backend))
    return seen


def moved_by_layer(start: Params, end: Params) -> Metrics:
    """How far each layer moved: the norm of its parameters' change over their norm at the start.

    Args:
        start: Parameters, named ``layer.weight``.
        end: The same after adaptation.

    Returns:
        Scalars by layer; infinite for one that starts at zero and moves.
    """
    layers: dict[str, list[str]] = {}
    for name in start:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)

    def size(tensors: list[Tensor]) -> Tensor:
        return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()

    moved = {layer: size([end[name] - start[name] for name in names]) for layer, names in layers.items()}
    return {
        layer: torch.where(change > 0, change / size([start[name] for name in layers[layer]]), change)
        for layer, change in moved.items()
    }


def _pictures(module: MetaModule, tasks: Task, seen: _Seen) -> dict[str, Figure]:
    first: Task = tree_map(lambda tensor: tensor[0].cpu(), tasks)
    pictures = {}
    if (figure := drawing.task(first, seen.predictions[0])) is not None:
        pictures["task"] = figure
    steps = seen.metric.shape[1] - 1
    if steps:
        metric = losses.metric_name(first.query.y)
        pictures["curve"] = drawing.curve(per_step(seen.metric), metric, count(tasks))
        pictures["movement"] = drawing.movement(seen.moved, steps)
    return pictures


@contextmanager
def _aside(trainer: Trainer, module: MetaModule) -> Iterator[None]:
    """Evaluates without a trace: modes and the states of random generators are given back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.precision_plugin.val_step_context():
            yield
    finally:
        for part in training:
            part.training = True
