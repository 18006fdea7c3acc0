"""Plots of adaptation in TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.optional import OptionalWork
from meta_lightning.engine.trainer_parts import is_dry_run
from meta_lightning.engine.training_record import meta_steps_of
from meta_lightning.errors import ConfigError
from meta_lightning.functional.tasks import count, map_tasks
from meta_lightning.reporting import plots
from meta_lightning.reporting.statistics import per_step
from meta_lightning.types import Metrics, Params, Prediction, Task


class AdaptationPlots(Callback):
    """Plots a task, the adaptation curve, and how far each layer moves, without any effect on training.

    The first process adapts to the first validation tasks once more and logs the plots to its TensorBoard loggers.
    Nothing is plotted without such a logger, in ``fast_dev_run``, or in Lightning's sanity check before training. After
    an error nothing more is plotted; a warning says so, and the run continues. The plots of one validation take 0.3 to
    0.5 s of one core, nearly all of it in matplotlib. Adaptation takes 0.02 s of that on sinusoids and 0.1 s on
    Omniglot (measured on a busy machine with the MAML configs). Validations without plots cost nothing extra.

    Args:
        every_n_validations: Interval between validations with plots. The first validation of a process and the end of
            training always have plots. 0 disables all plots.
        tasks: The number of tasks that the curve and the movement are averaged over, limited to the tasks of the first
            evaluation batch.

    Raises:
        ConfigError: If ``every_n_validations`` is below 0 or ``tasks`` is below 1.

    Example:
        >>> trainer = Trainer(callbacks=[AdaptationPlots(every_n_validations=10)], logger=False)
        >>> any(isinstance(callback, AdaptationPlots) for callback in trainer.callbacks)
        True
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
        self._pictures = OptionalWork("pictures", "figures.every_n_validations 0 turns them off")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the state of an earlier run."""
        self._tasks, self._validations, self._drawn_at = None, 0, -1

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Task, *args: Any, **kwargs: Any
    ) -> None:
        """Stores the first tasks, which are the same in every validation."""
        if self._tasks is None and self._wanted(trainer):
            with self._pictures.attempt():
                self._tasks = tree_map(lambda tensor: tensor[: self._count].clone(), batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs plots if they are due, and at every validation histograms of learned parameters outside the net."""
        if not self._wanted(trainer):
            return
        with self._pictures.attempt():
            _log_histograms(trainer, pl_module)
            if self._validations % self._every == 0:
                self._draw(trainer, pl_module)
        self._validations += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs plots of the final parameters, unless a validation at this step has done so."""
        if self._drawn_at != trainer.global_step and not self._pictures.failed:
            with self._pictures.attempt():
                self._draw(trainer, pl_module)
        self._tasks = None

    def _wanted(self, trainer: Trainer) -> bool:
        return (
            self._every > 0
            and not self._pictures.failed
            and trainer.state.fn == "fit"
            and not trainer.sanity_checking
            and not is_dry_run(trainer)
            and trainer.is_global_zero
            and bool(_loggers(trainer))
        )

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        if self._tasks is None:
            return
        assert isinstance(module, MetaModule)
        with _isolated_evaluation(trainer, module):
            curves = _adaptation_curves(module, self._tasks)
        self._drawn_at = trainer.global_step
        for name, figure in _make_figures(module, self._tasks, curves).items():
            image = plots.pixels(figure)
            for logger in _loggers(trainer):
                logger.experiment.add_image(f"figures/{name}", image, meta_steps_of(module), dataformats="HWC")


def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _log_histograms(trainer: Trainer, module: LightningModule) -> None:
    """Logs histograms of learned parameters outside the net, such as ``rates/0.weight``."""
    for name, parameter in module.named_parameters():
        group, _, rest = name.partition(".")
        if group != "net" and parameter.requires_grad:
            for logger in _loggers(trainer):
                logger.experiment.add_histogram(f"{group}/{rest}", parameter.detach(), meta_steps_of(module))


class _AdaptationCurves(NamedTuple):
    """Predictions, metric and movement while a model adapts to tasks; on the CPU.

    Attributes:
        predictions: Query predictions after 0, 1, ... steps, ``[tasks, steps + 1, queries, out]``.
        metric: The metric of these predictions, ``[tasks, steps + 1]``.
        moved: The relative change of each layer, see `moved_by_layer`, ``[tasks]`` by layer.
    """

    predictions: Tensor
    metric: Tensor
    moved: Metrics


def _adaptation_curves(module: MetaModule, tasks: Task) -> _AdaptationCurves:
    params, buffers = module.learnable(), dict(module.named_buffers())
    kind = module.task_kind(tasks.query.y)

    def adaptation_curve(task: Task) -> _AdaptationCurves:
        predictions, ends = [], list[Prediction]()
        for prediction in module.curve(params, buffers, task):
            predictions.append(prediction())
            ends[1:] = [prediction]  # only the first and the last, to free the memory of those between
        stacked = torch.stack(predictions)
        moved = moved_by_layer(ends[0].params, ends[-1].params) if module.has_inner_loop else {}
        return _AdaptationCurves(stacked, kind.measure(stacked, task.query.y), moved)

    # Converted to double because numpy has no bfloat16.
    curves: _AdaptationCurves = tree_map(
        lambda tensor: tensor.cpu().double(), map_tasks(adaptation_curve, tasks, module.backend)
    )
    return curves


def moved_by_layer(start: Params, end: Params) -> Metrics:
    """The relative change of each layer: the norm of its parameters' change, divided by their norm at the start.

    Args:
        start: Parameters before adaptation, with names such as ``layer.weight``.
        end: The same parameters after adaptation.

    Returns:
        A scalar for each layer; infinite if the layer starts at zero and moves.

    Example:
        >>> moved_by_layer({"0.weight": torch.tensor([3.0, 4.0])}, {"0.weight": torch.tensor([3.0, 5.0])})
        {'0': tensor(0.2000)}
    """
    layers: dict[str, list[str]] = {}
    for name in start:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)

    def norm(tensors: list[Tensor]) -> Tensor:
        return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()

    moved = {layer: norm([end[name] - start[name] for name in names]) for layer, names in layers.items()}
    return {
        layer: torch.where(change > 0, change / norm([start[name] for name in layers[layer]]), change)
        for layer, change in moved.items()
    }


def _make_figures(module: MetaModule, tasks: Task, curves: _AdaptationCurves) -> dict[str, Figure]:
    first: Task = tree_map(lambda tensor: tensor[0].cpu(), tasks)
    figures = {}
    if (figure := plots.task(first, curves.predictions[0])) is not None:
        figures["task"] = figure
    steps = curves.metric.shape[1] - 1
    if steps:
        figures["curve"] = plots.curve(per_step(curves.metric), module.task_kind(first.query.y), count(tasks))
        figures["movement"] = plots.movement(curves.moved, steps)
    return figures


@contextmanager
def _isolated_evaluation(trainer: Trainer, module: MetaModule) -> Iterator[None]:
    """Sets evaluation mode; restores the modules' modes and the random states of torch at the end."""
    in_training_mode = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.precision_plugin.val_step_context():
            yield
    finally:
        for submodule in in_training_mode:
            submodule.training = True
