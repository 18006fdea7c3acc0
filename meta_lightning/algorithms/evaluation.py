"""What an evaluation makes of predictions along adaptation, and of the figures of many tasks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from meta_lightning.functional import losses
from meta_lightning.functional.adapt import ends
from meta_lightning.functional.tasks import Backend, map_tasks
from meta_lightning.types import Metrics, Prediction, Task

# One task to what predicts its queries after 0, 1, ... steps; predictions and targets to scalar metrics.
CurveOf = Callable[[Task], Iterator[Prediction]]
Figures = Callable[[Tensor, Tensor], Metrics]


def measure(curve_of: CurveOf, figures: Figures, tasks: Task, backend: Backend, *, every_step: bool) -> Metrics:
    """The figures of each task along its adaptation.

    Args:
        curve_of: Adapts to a task.
        figures: Judges predictions.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: How to map over tasks.
        every_step: After every step; else before the first and after the last alone.

    Returns:
        Each metric ``[tasks, steps + 1]``; for classes also ``confidence`` and ``correct`` after the last step,
        ``[tasks, queries]``.
    """

    def one(task: Task) -> Metrics:
        curve = curve_of(task)
        predictions = [predict() for predict in (curve if every_step else ends(curve))]
        found = [figures(at, task.query.y) for at in predictions]
        stacked = {name: torch.stack([at[name] for at in found]) for name in found[0]}
        return stacked | losses.certainty(predictions[-1], task.query.y)

    results: Metrics = map_tasks(one, tasks, backend)
    return results


def before_adaptation(curve_of: CurveOf, figures: Figures, tasks: Task, backend: Backend) -> Metrics:
    """Training's figures on the queries before adaptation, averaged over tasks."""
    found = map_tasks(lambda task: figures(next(curve_of(task))(), task.query.y), tasks, backend)
    return {f"train/{name}_before": values.mean() for name, values in found.items()}


def averages(results: Metrics, stage: str, metric: str, *, before: bool) -> Metrics:
    """What is logged of some tasks: means over them after adaptation and, if asked, before.

    Args:
        results: As `MetaModule.evaluate` gives them.
        stage: ``val`` or ``test``: the first part of the names.
        metric: ``accuracy`` or ``mse``, logged beside the loss.
        before: Whether there is a before.
    """
    means = {}
    for name in ("loss", metric):
        # Doubles, so that the mean over all batches is that of the report; Apple's devices have none.
        values = results[name] if results[name].device.type == "mps" else results[name].double()
        means[f"{stage}/{name}"] = values[:, -1].mean()
        if before:
            means[f"{stage}/{name}_before"] = values[:, 0].mean()
    return means
