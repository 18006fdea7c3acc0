"""Turns the results of `test` into a report."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.findings import GIVEN, NEAREST, UNTRAINED, joined, to_report
from meta_lightning.card import to_card
from meta_lightning.errors import ConfigError
from meta_lightning.functional import losses, norm
from meta_lightning.functional.prototypes import nearest_class_mean
from meta_lightning.functional.tasks import map_tasks
from meta_lightning.report import OWN, Report, to_scalars, to_screen, write
from meta_lightning.runs import Trained, read_checkpoint, run_folder, trained
from meta_lightning.types import Metrics, Task


class TestReport(Callback):
    """Collects each task's results, prints the tables and writes them beside the checkpoint's run.

    Args:
        all_batch_norms: Measure the same weights under the other batch-norm protocols too: each costs another test.
        baselines: Measure what costs nothing beside it: chance, the untrained net (another test), and the nearest class
            mean in the inputs.
        name: Of the files. The model card goes with ``test_report``: another name leaves both as they are.

    Attributes:
        report: Of the last test, on the first process.

    Raises:
        ConfigError: If the name is none of a file.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self, all_batch_norms: bool = True, baselines: bool = True, name: str = OWN) -> None:
        if not name or Path(name).name != name:
            raise ConfigError(f"report.name is {name!r}; expected a file's name without a folder and an ending")
        self._name = name
        self._all_batch_norms = all_batch_norms
        self._baselines = baselines
        self.report: Report | None = None
        self._untrained: MetaModule | None = None
        self._results: dict[str, list[Metrics]] = {}
        self._seconds = 0.0
        self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the initialisation, which the checkpoint is about to replace."""
        if stage == "test" and self._baselines:
            assert isinstance(pl_module, MetaModule)
            self._untrained = copy.deepcopy(pl_module).eval()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier test."""
        self._results = {}
        self._seconds = 0.0
        if trainer.ckpt_path is None:
            self._untrained = None  # it is what is tested
        if self._untrained is not None:
            self._untrained.to(pl_module.device)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keeps the results on the CPU; the copy waits for the device, so the clock is right."""
        self._keep(GIVEN, outputs)
        self._seconds += time.perf_counter() - self._started
        assert isinstance(pl_module, MetaModule)
        with trainer.precision_plugin.test_step_context():
            for name, results in self._others(pl_module, batch):
                self._keep(name, results)

    def _keep(self, name: str, results: Metrics) -> None:
        self._results.setdefault(name, []).append({key: values.cpu() for key, values in results.items()})

    def _others(self, module: MetaModule, tasks: Task) -> Iterator[tuple[str, Metrics]]:
        """The same tasks under the other protocols, and by the baselines."""
        if self._all_batch_norms and norm.has_norm(module.net):
            for protocol in get_args(norm.Protocol):
                if protocol != module.batch_norm:
                    with _protocol(module, protocol):
                        yield protocol, module.evaluate(tasks)
        if self._untrained is not None:
            yield UNTRAINED, self._untrained.evaluate(tasks, every_step=False)
        if self._baselines and losses.is_classification(tasks.query.y) and tasks.query.x.is_floating_point():
            yield NEAREST, {"index": tasks.index, "accuracy": map_tasks(nearest_class_mean, tasks, module.backend)}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and writes the report, once over all processes."""
        parts = self._results
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = {name: [part for of_rank in gathered for part in of_rank[name]] for name in parts}
        log_dir = trainer.log_dir  # tells the other processes too: all must ask
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, MetaModule)
        checkpoint = Path(str(trainer.ckpt_path)) if trainer.ckpt_path else None
        of_training = None if checkpoint is None else trained(read_checkpoint(checkpoint))
        results = {name: joined(found) for name, found in parts.items()}
        self.report = to_report(trainer, pl_module, results, self._seconds * trainer.world_size, of_training)
        Console().print(to_screen(self.report))
        for logger in trainer.loggers:
            logger.log_metrics(to_scalars(self.report), step=trainer.global_step)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
            return
        folder = run_folder(checkpoint) if checkpoint else Path(log_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        write(self.report, folder, self._name)
        written = f"{folder / self._name}.md and {self._name}.json"
        if self._name == OWN:
            (folder / "model_card.md").write_text(_card(self.report, trainer, pl_module, of_training))
            written += ", and model_card.md"
        print(f"Report: {written}")


def _card(report: Report, trainer: Trainer, module: MetaModule, memory: Trained | None) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
    sizes = [param.numel() for param in module.net.parameters()]
    return to_card(
        report,
        memory or Trained(0, module.step_seed, module.settings(), data.state_dict()),
        module.settings(),
        paper=(type(module).__doc__ or "").strip().partition("\n")[0],
        net=f"{module.net}\n{sum(sizes):,} parameters",
        fixed_ways=report.ways if module.net_predicts else None,
    )


@contextmanager
def _protocol(module: MetaModule, protocol: norm.Protocol) -> Iterator[None]:
    given, module.batch_norm = module.batch_norm, protocol
    try:
        yield
    finally:
        module.batch_norm = given
