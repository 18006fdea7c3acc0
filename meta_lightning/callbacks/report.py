"""Turns the results of `test` into a report."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning import __version__ as lightning_version
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.report import Report, per_step, to_screen, write
from meta_lightning.runs import run_folder
from meta_lightning.version import __version__


class TestReport(Callback):
    """Collects each task's results, prints the table and writes it beside the checkpoint's run."""

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self) -> None:
        self._results: list[dict[str, Tensor]] = []
        self._seconds = 0.0
        self._started = 0.0

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier test."""
        self._results = []
        self._seconds = 0.0

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keeps the results on the CPU; the copy waits for the device, so the clock is right."""
        self._results.append({name: values.cpu() for name, values in outputs.items()})
        self._seconds += time.perf_counter() - self._started

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and writes the report, once over all processes."""
        parts = self._results
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for of_rank in gathered for part in of_rank]
        log_dir = trainer.log_dir  # tells the other processes too: all must ask
        if not trainer.is_global_zero:
            return
        results = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = results["index"].argsort()
        report = self._report(trainer, pl_module, {name: values[order] for name, values in results.items()})
        Console().print(to_screen(report))
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
            return
        folder = run_folder(Path(str(trainer.ckpt_path))) if trainer.ckpt_path else Path(log_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        write(report, folder)
        print(f"Report: {folder / 'test_report.md'} and test_report.json")

    def _report(self, trainer: Trainer, module: LightningModule, results: dict[str, Tensor]) -> Report:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
        assert isinstance(module, MetaModule)
        assert isinstance(data, EpisodicDataModule)
        (metric,) = set(results) - {"index", "loss"}
        curve = per_step(results[metric])
        return Report(
            algorithm=type(module).__name__.removesuffix("Module"),
            benchmark=_benchmark(trainer, data),
            checkpoint=str(trainer.ckpt_path or "none: the untrained initialisation"),
            tasks=len(results["index"]),
            **data.eval_shape._asdict(),
            batch_norm=module.batch_norm,
            metric=metric,
            mean=curve[-1].mean,
            ci95=curve[-1].ci95,
            per_step=curve,
            episode_hash=data.episode_hash("test", len(results["index"])),
            seconds_per_task=self._seconds * trainer.world_size / len(results["index"]),
            versions={
                "meta_lightning": __version__,
                "torch": str(torch.__version__),
                "lightning": lightning_version,
            },
        )


def _benchmark(trainer: Trainer, data: EpisodicDataModule) -> str:
    """The first part of the logger's name ``<benchmark>/<algorithm>``, or the source's name."""
    name = trainer.logger.name if trainer.logger else None
    return name.split("/")[0] if name and "/" in name else type(data.source).__name__
