"""What an evaluation makes of predictions along adaptation, and of the figures of many tasks."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from meta_lightning.functional import losses, norm
from meta_lightning.functional.adapt import ends
from meta_lightning.functional.apart import apart
from meta_lightning.functional.tasks import Backend, map_tasks
from meta_lightning.types import Metrics, Params, Prediction, Task

# One task to what predicts its queries after 0, 1, ... steps; predictions and targets to scalar metrics.
CurveOf = Callable[[Task], Iterator[Prediction]]
Figures = Callable[[Tensor, Tensor], Metrics]


def predictions_of(curve_of: CurveOf, net: nn.Module, backend: Backend) -> CurveOf:
    """The predictions along adaptation, under ``split`` made one task at a time: see `apart`.

    Args:
        curve_of: Adapts to a task.
        net: What predicts.
        backend: How tasks are mapped over.
    """
    if backend.loop != "split":
        return curve_of

    def alone(predict: Callable[[Params, Task], Tensor], params: Params, task: Task) -> Tensor:
        with norm.fused(net):
            return apart(lambda own, one: (predict(own, one), {}), params, task)[0]

    return lambda task: (at._replace(predict=partial(alone, at.predict)) for at in curve_of(task))


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
