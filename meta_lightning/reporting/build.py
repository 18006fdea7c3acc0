"""Builds the report of a test from its results."""

from typing import get_args

import torch
from lightning import __version__ as lightning_version
from lightning.pytorch import Trainer

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.engine.trainer_parts import datamodule_of
from meta_lightning.functional import norm
from meta_lightning.functional.task_kind import KINDS
from meta_lightning.reporting import statistics
from meta_lightning.reporting.report import Report
from meta_lightning.reporting.statistics import Estimate, ProtocolResult
from meta_lightning.runs.checkpoint import TrainingRecord
from meta_lightning.types import Metrics
from meta_lightning.version import __version__

# Names of results besides those of the batch-norm protocols.
CONFIGURED, UNTRAINED, NEAREST, CHANCE = "as configured", "untrained net", "nearest class mean", "chance"


def concatenate_tasks(parts: list[Metrics]) -> Metrics:
    """Concatenates the results of batches and sorts them by the tasks' numbers.

    Args:
        parts: The results of each batch; ``[tasks, ...]`` by name, with the tasks' numbers under ``index``.

    Example:
        >>> parts = [{"index": torch.tensor([1]), "mse": torch.tensor([0.5])}]
        >>> parts += [{"index": torch.tensor([0]), "mse": torch.tensor([0.25])}]
        >>> concatenate_tasks(parts)["mse"].tolist()
        [0.25, 0.5]
    """
    results = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = results["index"].argsort()
    return {name: values[order] for name, values in results.items()}


def build_report(
    trainer: Trainer,
    module: MetaModule,
    results: dict[str, Metrics],
    record: TrainingRecord | None,
    *,
    seconds: float,
    measuring: float,
) -> Report:
    """Builds the report of a test.

    Args:
        trainer: The trainer that ran the test.
        module: The module that was tested.
        results: The results of all tasks by the name of the measurement: `CONFIGURED`, the other batch-norm protocols
            and the baselines.
        record: The training that the weights went through; None for an untrained net.
        seconds: The time that the whole test took.
        measuring: The time that all measurements took, summed over processes.
    """
    data = datamodule_of(trainer)
    assert isinstance(data, EpisodicDataModule)
    configured = results[CONFIGURED]
    kind = next(kind for kind in KINDS if kind.metric in configured)
    overall, last_step = statistics.protocol_result(configured[kind.metric]), configured[kind.metric][:, -1]
    calibration_error = None
    if "confidence" in configured:
        calibration_error = statistics.calibration_error(configured["confidence"], configured["correct"])
    return Report(
        algorithm=type(module).__name__.removesuffix("Module"),
        benchmark=_benchmark(trainer, data),
        checkpoint=origin(trainer.ckpt_path, record),
        tasks=len(last_step),
        **data.eval_shape._asdict(),
        batch_norm=norm.in_use(module.net, module.batch_norm),
        metric=kind.metric,
        mean=overall.mean,
        ci95=overall.ci95,
        per_step=overall.per_step,
        episode_hash=data.episode_hash("test", len(last_step)),
        seconds_per_task=measuring / len(last_step),
        seconds=seconds,
        versions={"meta_lightning": __version__, "torch": str(torch.__version__), "lightning": lightning_version},
        source=data.source.fingerprint(),
        trained_on=None if record is None else record.data.get("source"),
        bootstrap95=statistics.bootstrap_interval(last_step),
        worst_tenth=statistics.worst_tenth(last_step, higher_is_better=kind.higher_is_better),
        calibration_error=calibration_error,
        by_batch_norm=_by_batch_norm(norm.in_use(module.net, module.batch_norm), results, kind.metric),
        baselines=_baselines(data.eval_shape.ways, results, kind.metric),
        per_task=last_step.tolist(),
    )


def origin(path: object, record: TrainingRecord | None) -> str:
    """What weights were measured, and how they came into memory.

    Args:
        path: The checkpoint that the trainer loaded for the test; None if it loaded none.
        record: The training that the weights went through; None before the first.

    Example:
        >>> origin(None, TrainingRecord(2000, 0, {}, {}))
        'the weights in memory after 2,000 meta-steps'
    """
    if path:
        return str(path)
    if record is None:
        return "none: the weights in memory, with no meta-step taken"
    steps = f"{record.meta_steps:,} meta-step{'s' * (record.meta_steps != 1)}"
    return f"the weights in memory after {steps}{f', loaded from {record.path}' if record.path else ''}"


def _by_batch_norm(configured: str, results: dict[str, Metrics], metric: str) -> dict[str, ProtocolResult]:
    """The result under each protocol, the configured one first; empty if no other protocol was measured."""
    others = {name: results[name] for name in get_args(norm.Protocol) if name in results}
    by_protocol = {configured: results[CONFIGURED], **others} if others else {}
    return {name: statistics.protocol_result(result[metric]) for name, result in by_protocol.items()}


def _baselines(ways: int | None, results: dict[str, Metrics], metric: str) -> dict[str, Estimate]:
    values = {name: results[name][metric] for name in (NEAREST, UNTRAINED) if name in results}
    last_steps = {name: value if value.ndim == 1 else value[:, -1] for name, value in values.items()}
    chance = {CHANCE: Estimate(1 / ways, 0.0)} if ways and values else {}
    return chance | {name: Estimate(*statistics.mean_and_interval(value)) for name, value in last_steps.items()}


def _benchmark(trainer: Trainer, data: EpisodicDataModule) -> str:
    """The first part of a logger's name ``<benchmark>/<algorithm>``, or else the name of the source's class."""
    name = trainer.logger.name if trainer.logger else None
    return name.split("/")[0] if name and "/" in name else type(data.source).__name__
