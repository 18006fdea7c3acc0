"""Measuring tasks along their adaptation, and averaging the metrics for the log."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from meta_lightning.engine.evaluation_plan import CurveOf, EvaluationPlan
from meta_lightning.functional import norm
from meta_lightning.functional.adapt import ends
from meta_lightning.functional.one_task_at_a_time import one_task_at_a_time
from meta_lightning.functional.task_kind import TaskKind
from meta_lightning.functional.tasks import Backend, map_tasks
from meta_lightning.types import Metrics, Params, Task

Judge = Callable[[Params, Tensor, Tensor], Metrics]
"""Maps adapted parameters, the predictions that they made, and targets to scalar metrics."""


def predict_one_task_at_a_time(curve_of: CurveOf, net: nn.Module) -> CurveOf:
    """Makes a curve predict one task at a time under vmap, see `one_task_at_a_time`.

    Args:
        curve_of: The curve.
        net: The net that predicts.
    """

    def predict_alone(predict: Callable[[Params, Task], Tensor], params: Params, task: Task) -> Tensor:
        with norm.fused(net):
            return one_task_at_a_time(lambda params, task: (predict(params, task), {}), params, task)[0]

    return lambda task: (
        prediction._replace(predict=partial(predict_alone, prediction.predict)) for prediction in curve_of(task)
    )


def measure(
    curve_of: CurveOf,
    net: nn.Module,
    judge: Judge,
    kind: TaskKind,
    tasks: Task,
    plan: EvaluationPlan,
    *,
    every_step: bool,
) -> Metrics:
    """The metrics of each task along its adaptation.

    Args:
        curve_of: Adapts to a task and predicts its queries.
        net: The net that predicts.
        judge: Computes the metrics of predictions.
        kind: The kind of the tasks.
        tasks: A meta-batch, ``[tasks, ...]``.
        plan: How to map over tasks.
        every_step: Measure after every step; otherwise only before the first and after the last.

    Returns:
        Each metric, ``[tasks, steps + 1]`` (``[tasks, 2]`` without ``every_step``), and the kind's certainty after the
        last step, ``[tasks, queries]``.
    """  # fmt: skip
    if plan.backend.loop == "split":
        curve_of = predict_one_task_at_a_time(curve_of, net)

    def measure_task(task: Task) -> Metrics:
        curve = curve_of(task)
        adapted = [*(curve if every_step else ends(curve))]
        predictions = [predict() for predict in adapted]
        judged = [judge(a.params, out, task.query.y) for a, out in zip(adapted, predictions, strict=True)]
        stacked = {name: torch.stack([metrics[name] for metrics in judged]) for name in judged[0]}
        return stacked | kind.certainty(predictions[-1], task.query.y)

    # Under vmap the fused kernels are wrong, see `EpisodeNorm`; of a split, the predictions alone take them.
    kernels = nullcontext() if plan.backend.batched else norm.fused(net)
    with kernels, norm.side_by_side(net, plan.side_by_side):
        results: Metrics = map_tasks(measure_task, tasks, plan.backend)
    return results


def before_adaptation(curve_of: CurveOf, net: nn.Module, judge: Judge, tasks: Task, backend: Backend) -> Metrics:
    """The metrics of a training batch before adaptation, averaged over tasks, under their names in the log."""
    if backend.loop == "split":
        curve_of = predict_one_task_at_a_time(curve_of, net)

    def measure_task(task: Task) -> Metrics:
        unadapted = next(curve_of(task))
        return judge(unadapted.params, unadapted(), task.query.y)

    metrics: Metrics = map_tasks(measure_task, tasks, backend)
    return {f"train/{name}_before": values.mean() for name, values in metrics.items()}


def averages(results: Metrics, stage: str, metric: str, *, before: bool) -> Metrics:
    """The averages over tasks that evaluation logs.

    Args:
        results: The results of `MetaModule.evaluate`.
        stage: ``val`` or ``test``, the first part of the names.
        metric: The metric that is logged beside the loss.
        before: Whether to include the metrics before adaptation.
    """
    means = {}
    for name in ("loss", metric):
        # In double precision the mean over all batches equals the report's. Apple's devices have no doubles.
        values = results[name] if results[name].device.type == "mps" else results[name].double()
        means[f"{stage}/{name}"] = values[:, -1].mean()
        if before:
            means[f"{stage}/{name}_before"] = values[:, 0].mean()
    return means
