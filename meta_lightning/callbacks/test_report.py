"""Writes the report of a test."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.progress import MetaStepProgress
from meta_lightning.console import notify, show
from meta_lightning.engine.finite import not_finite
from meta_lightning.engine.trainer_parts import is_dry_run
from meta_lightning.engine.training_record import meta_steps_of
from meta_lightning.errors import ConfigError, NotFiniteError, name_tasks
from meta_lightning.files import check_writable, write_whole
from meta_lightning.functional import norm
from meta_lightning.functional.prototypes import nearest_class_mean
from meta_lightning.functional.task_kind import CLASSIFICATION
from meta_lightning.functional.tasks import Backend, map_tasks
from meta_lightning.reporting.build import CONFIGURED, NEAREST, UNTRAINED, build_report, concatenate_tasks
from meta_lightning.reporting.model_card import to_card
from meta_lightning.reporting.report import DEFAULT_NAME, Report, files, to_scalars, to_screen
from meta_lightning.runs.checkpoint import TrainingRecord
from meta_lightning.runs.folders import folder_of, run_folder
from meta_lightning.types import Metrics, Task

_CARD = "model_card.md"


class TestReport(Callback):
    """Collects the results of each task, prints them as tables and writes them to the checkpoint's run folder.

    Args:
        all_batch_norms: Evaluate the same weights under the other batch-norm protocols as well. ``support_plus_one``
            takes several times as long as the others.
        baselines: Evaluate baselines without training as well: chance, the untrained net (as long as another test),
            and the nearest class mean of the inputs.
        name: The files' name without folder and extension. The model card is written only with the default name;
            another name leaves the earlier report and its model card unchanged.

    Attributes:
        report: The report of the last test, on the first process.

    Raises:
        ConfigError: If the name is not a file name.

    Example:
        >>> from meta_lightning import load_run
        >>> module, data, record = load_run("logs/sinusoid/maml/version_0")
        >>> trainer = Trainer(callbacks=[TestReport(name="on_new_tasks")], logger=False)
        >>> # trainer.test(module, datamodule=data) prints and writes the report
    """

    __test__ = False  # pytest collects classes by this prefix

    def __init__(self, all_batch_norms: bool = True, baselines: bool = True, name: str = DEFAULT_NAME) -> None:
        if not name or Path(name).name != name or "\0" in name:
            raise ConfigError(f"report.name is {name!r}; expected a file name without folder and extension")
        self.name = name
        self._all_batch_norms = all_batch_norms
        self._baselines = baselines
        self.report: Report | None = None
        self._untrained: MetaModule | None = None
        self._results: dict[str, list[Metrics]] = {}
        self._measuring = 0.0
        self._began = self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock and copies the initialisation, before Lightning loads the checkpoint."""
        if stage != "test":
            return
        assert isinstance(pl_module, MetaModule)
        self._began = time.perf_counter()
        # Of a module that was trained or loaded before, the initialisation is gone.
        self._untrained = copy.deepcopy(pl_module).eval() if self._baselines and pl_module.record is None else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a test whose report could not be written. Before this hook, Lightning does not know the checkpoint.

        Raises:
            ConfigError: If the report could not be written afterwards.
        """
        own_folder = folder_of(trainer)  # a broadcast, which all processes must take part in
        if trainer.is_global_zero and not is_dry_run(trainer):
            checkpoint = Path(str(trainer.ckpt_path)) if trainer.ckpt_path else None
            check_writable(report_paths(checkpoint, own_folder, self.name))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the results of an earlier test."""
        self._results = {}
        self._measuring = 0.0
        if trainer.ckpt_path is None:
            self._untrained = None  # the tested net itself is the initialisation
        if self._untrained is not None:
            self._untrained.to(pl_module.device)
        assert isinstance(pl_module, MetaModule)
        if isinstance(progress := trainer.progress_bar_callback, MetaStepProgress):
            progress.expect_measurements(1 + len(self._protocols(pl_module)) + (self._untrained is not None))

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock of the batch."""
        self._started = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Stores the results on the CPU. The copy waits for the device, so the measured time is complete."""
        self._store(CONFIGURED, outputs)
        assert isinstance(pl_module, MetaModule)
        progress = trainer.progress_bar_callback
        with trainer.precision_plugin.test_step_context():
            for name, results in self._additional_results(pl_module, batch):
                self._store(name, results)
                if name != NEAREST and isinstance(progress, MetaStepProgress):  # the nearest means take no time
                    progress.count_measurement()
        self._measuring += time.perf_counter() - self._started

    def _store(self, name: str, results: Metrics) -> None:
        self._results.setdefault(name, []).append({key: values.cpu() for key, values in results.items()})

    def _protocols(self, module: MetaModule) -> list[norm.Protocol]:
        """The other batch-norm protocols to measure."""
        return norm.alternatives(module.net, module.batch_norm) if self._all_batch_norms else []

    def _additional_results(self, module: MetaModule, tasks: Task) -> Iterator[tuple[str, Metrics]]:
        """The results of the other batch-norm protocols and of the baselines on the same tasks."""
        for protocol in self._protocols(module):
            with module.following(protocol):
                results = module.evaluate(tasks)
            yield protocol, results
        if self._untrained is not None:
            yield UNTRAINED, self._untrained.evaluate(tasks, every_step=False)
        if self._baselines and module.task_kind(tasks.query.y) is CLASSIFICATION and _has_distances(tasks):
            accuracy = map_tasks(nearest_class_mean, tasks, Backend("loop"))
            yield NEAREST, {"index": tasks.index, CLASSIFICATION.metric: accuracy}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and writes the report on the first process."""
        parts = self._results
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = {name: [part for rank in gathered for part in rank[name]] for name in parts}
        results = {name: concatenate_tasks(batches) for name, batches in parts.items()}
        if tasks := not_finite(results[CONFIGURED]):
            raise NotFiniteError("test", tasks)
        own_folder = folder_of(trainer)  # a broadcast, which all processes must take part in
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, MetaModule)
        checkpoint = Path(str(trainer.ckpt_path)) if trainer.ckpt_path else None
        record = pl_module.record  # not read again: the file may have been replaced since
        for name, part in results.items():
            if name != NEAREST and (tasks := not_finite(part)):
                notify(f"Warning: the results of {name} in the report are not finite for {name_tasks(tasks)}")
        self.report = build_report(
            trainer, pl_module, results, record,
            seconds=time.perf_counter() - self._began, measuring=self._measuring * trainer.world_size,
        )  # fmt: skip
        show(to_screen(self.report))
        if is_dry_run(trainer):
            return
        folder = run_folder(checkpoint) if checkpoint else own_folder
        content = files(self.report, folder, self.name)
        written = f"{folder / self.name}.md and {self.name}.json"
        if self.name == DEFAULT_NAME:
            content[folder / _CARD] = _card(self.report, pl_module, record)
            written += f", and {_CARD}"
        write_whole(content, keep_earlier=True)
        # Last, because a logger that can't write may fail with an error about its own file.
        for logger in trainer.loggers:
            logger.log_metrics(to_scalars(self.report), step=meta_steps_of(pl_module))
        notify(f"Report: {written}")


def report_paths(checkpoint: Path | None, own_folder: Path, name: str) -> list[Path]:
    """The files that a test writes.

    Args:
        checkpoint: The checkpoint of the test; None for weights in memory.
        own_folder: The folder of the trainer's run, where the files of weights in memory go.
        name: As in `TestReport`.
    """
    cards = [_CARD] if name == DEFAULT_NAME else []
    folder = run_folder(checkpoint) if checkpoint else own_folder
    return [folder / file for file in (f"{name}.json", f"{name}.md", *cards)]


def _has_distances(tasks: Task) -> bool:
    """Whether the inputs are one tensor of floats, so that a class has a mean input."""
    return isinstance(tasks.query.x, Tensor) and tasks.query.x.is_floating_point()


def _card(report: Report, module: MetaModule, record: TrainingRecord | None) -> str:
    sizes = [param.numel() for param in module.net.parameters()]
    return to_card(
        report,
        record or TrainingRecord(0, module.step_seed, module.settings(), {}),
        module.settings(),
        paper=(type(module).__doc__ or "").strip().partition("\n")[0],
        net=f"{module.net}\n{sum(sizes):,} parameters",
        fixed_ways=report.ways if module.net_predicts else None,
    )
