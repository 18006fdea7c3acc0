"""From the results of a test to its report."""

from typing import get_args

import torch
from lightning import __version__ as lightning_version
from lightning.pytorch import Trainer
from torch import Tensor

from meta_lightning import statistics
from meta_lightning.algorithms.base import MetaModule
from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.functional import norm
from meta_lightning.report import Report
from meta_lightning.runs import Trained
from meta_lightning.statistics import Figure
from meta_lightning.types import Metrics
from meta_lightning.version import __version__

# Names of results beside those of the batch-norm protocols.
GIVEN, UNTRAINED, NEAREST, CHANCE = "as given", "untrained net", "nearest class mean", "chance"


def joined(parts: list[Metrics]) -> Metrics:
    """All tasks, by number."""
    results = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = results["index"].argsort()
    return {name: values[order] for name, values in results.items()}


def to_report(
    trainer: Trainer, module: MetaModule, results: dict[str, Metrics], seconds: float, trained: Trained | None
) -> Report:
    """The report of a test.

    Args:
        trainer: What ran it.
        module: What was tested.
        results: Of each task, by what was measured: `GIVEN`, the other batch-norm protocols and the baselines.
        seconds: All processes' time for `GIVEN`.
        trained: What the checkpoint remembers; None for the initialisation.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
    assert isinstance(data, EpisodicDataModule)
    given = results[GIVEN]
    metric = "accuracy" if "accuracy" in given else "mse"
    whole, last = statistics.mode(given[metric]), given[metric][:, -1]
    return Report(
        algorithm=type(module).__name__.removesuffix("Module"),
        benchmark=_benchmark(trainer, data),
        checkpoint=str(trainer.ckpt_path or "none: the untrained initialisation"),
        tasks=len(last),
        **data.eval_shape._asdict(),
        batch_norm=module.batch_norm,
        metric=metric,
        mean=whole.mean,
        ci95=whole.ci95,
        per_step=whole.per_step,
        episode_hash=data.episode_hash("test", len(last)),
        seconds_per_task=seconds / len(last),
        versions={"meta_lightning": __version__, "torch": str(torch.__version__), "lightning": lightning_version},
        source=data.source.fingerprint(),
        trained_on=None if trained is None else trained.data.get("source"),
        bootstrap95=statistics.bootstrap_interval(last),
        worst_tenth=statistics.worst_tenth(last, more_is_better=metric == "accuracy"),
        calibration_error=(
            statistics.calibration_error(given["confidence"], given["correct"]) if "confidence" in given else None
        ),
        modes=_modes(module.batch_norm, results, metric),
        baselines=_baselines(data.eval_shape.ways, results, metric),
        per_task=last.tolist(),
    )


def _modes(of: norm.Protocol, results: dict[str, Metrics], metric: str) -> dict[str, statistics.Mode]:
    """The protocols side by side, the run's own first; none where there is nothing to compare."""
    others = [name for name in get_args(norm.Protocol) if name in results]
    modes = {of: results[GIVEN]} | {name: results[name] for name in others}
    return {name: statistics.mode(found[metric]) for name, found in modes.items()} if others else {}


def _baselines(ways: int | None, results: dict[str, Metrics], metric: str) -> dict[str, Figure]:
    names = [name for name in (NEAREST, UNTRAINED) if name in results]
    values: dict[str, Tensor] = {name: results[name][metric] for name in names}
    chance = {CHANCE: Figure(1 / ways, 0.0)} if ways and names else {}
    return chance | {
        name: Figure(*statistics.mean_and_interval(of if of.ndim == 1 else of[:, -1])) for name, of in values.items()
    }


def _benchmark(trainer: Trainer, data: EpisodicDataModule) -> str:
    """The first part of the logger's name ``<benchmark>/<algorithm>``, or the source's name."""
    name = trainer.logger.name if trainer.logger else None
    return name.split("/")[0] if name and "/" in name else type(data.source).__name__
