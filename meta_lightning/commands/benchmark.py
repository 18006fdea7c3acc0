"""The command ``benchmark``, which times the settings of the task loop on this machine."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from rich.table import Table

from meta_lightning.algorithms import MetaModule
from meta_lightning.checks.net import check_net
from meta_lightning.console import notify, progress, show
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine.compiling import COMPILER
from meta_lightning.errors import ConfigError
from meta_lightning.functional.tasks import Backend
from meta_lightning.profiling.fit_cost import around_meta_step
from meta_lightning.profiling.timing import interleaved, peak_memory, wait_for
from meta_lightning.types import Params, Task

_MAX_SECONDS = 3600


class Setting(NamedTuple):
    """A setting of how the meta-gradient is computed.

    Attributes:
        backend: How functions are mapped over tasks.
        compile: Whether the computation is compiled.
    """

    backend: Backend
    compile: bool = False

    def keys(self) -> dict[str, str | int | bool | None]:
        """The keys of ``model`` that select the setting, with their values."""
        return {"task_loop": self.backend.loop, "task_chunk": self.backend.chunk, "compile": self.compile}


class Timing(NamedTuple):
    """Measured time and memory of a setting.

    Attributes:
        setting: The setting.
        seconds: Median time of a meta-step, in seconds.
        peak: Peak memory of a meta-step, in bytes.
        first: Time of the first meta-step, which includes compiling, in seconds.
    """

    setting: Setting
    seconds: float
    peak: int
    first: float


class Ready(NamedTuple):
    """An algorithm with a setting that has run one meta-step.

    Attributes:
        module: The algorithm with that setting.
        step: Computes the meta-gradient of one meta-step.
        first: Time of the first meta-step, in seconds.
    """

    module: MetaModule
    step: Callable[[], Params]
    first: float


def settings(tasks: int, *, inner_loop: bool, compile: bool) -> list[Setting]:
    """The settings to time for a meta-batch.

    Args:
        tasks: The number of tasks in the meta-batch.
        inner_loop: Whether the method has an inner loop; ``split`` is of no use without one.
        compile: Whether to include compiled settings.

    Example:
        >>> [str(setting.backend.chunk) for setting in settings(4, inner_loop=False, compile=False)]
        ['None', '2', 'None']
    """
    chunks = [None, *(size for size in (16, 8, 4, 2) if size < tasks)]
    eager = [Backend("vmap", chunk) for chunk in chunks] + [Backend("loop")]
    if inner_loop:
        eager += [Backend("split", chunk) for chunk in chunks if chunk in (None, 8)]
    compiled = [Backend("vmap"), Backend("vmap", 4), Backend("loop")] if compile else []
    return [Setting(backend) for backend in eager] + [
        Setting(backend, compile=True) for backend in compiled if backend.chunk is None or backend.chunk < tasks
    ]


def run_benchmark(
    trainer: Trainer,
    model: MetaModule,
    datamodule: EpisodicDataModule,
    compile: bool = False,
    seconds: float = 5.0,
) -> None:
    """Times all settings of the task loop that work on this machine, and prints the fastest.

    Args:
        trainer: The trainer, which sets the device and the precision.
        model: The algorithm.
        datamodule: The data that the meta-batches are drawn from.
        compile: Time compiled settings as well; each takes up to minutes to compile.
        seconds: The approximate time to spend on each setting, in seconds.

    Raises:
        ConfigError: If no setting works, the data are missing or do not fit the net, or the trainer has several
            processes.
    """
    data = datamodule
    if not 0 < seconds < _MAX_SECONDS:
        raise ConfigError(f"--seconds is {seconds}; expected more than 0 and less than {_MAX_SECONDS}")
    if trainer.world_size > 1:
        raise ConfigError(
            f"trainer.devices asks for {trainer.world_size} processes; a benchmark runs in one: set it to 1"
        )
    data.prepare_data()
    data.setup("fit")
    data.cache_on_device("train", trainer.strategy.root_device)
    check_net(model, data.sample("fit"))
    device = trainer.strategy.root_device
    trainer.precision_plugin.convert_module(model)
    model.to(device).train()

    def draw() -> Task:
        tasks = data.draw("train", torch.arange(data.meta_batch_size))
        ready = data.on_after_batch_transfer(move_data_to_device(tasks, device), 0)
        return cast(Task, trainer.precision_plugin.convert_input(ready))

    tasks = draw()
    ready: dict[Setting, Ready] = {}
    failures = {}
    candidates = settings(data.meta_batch_size, inner_loop=model.has_inner_loop, compile=compile)
    for setting in progress(candidates, "Trying each setting once"):
        try:
            ready[setting] = _prepare(model, setting, tasks, trainer.precision_plugin.train_step_context)
        except (ConfigError, RuntimeError) as error:
            failures[setting] = str(error).partition("\n")[0]
    if not ready:
        raise ConfigError(f"model: no setting of task_loop works here ({next(iter(failures.values()))})")
    steps = {setting: run.step for setting, run in ready.items()}
    peaks = {setting: peak_memory(step, device) for setting, step in steps.items()}
    show(f"Timing {len(steps)} settings in turns, about {seconds * len(steps):.0f} s ...")
    medians = interleaved(steps, seconds, device)
    timings = [Timing(setting, medians[setting], peaks[setting], run.first) for setting, run in ready.items()]
    best = min(timings, key=lambda timing: timing.seconds)
    drawing = interleaved({"step": steps[best.setting], "draw": draw}, seconds / 2, device)["draw"]
    around = around_meta_step(trainer, ready[best.setting].module, data, seconds)
    _show(timings, failures, data.meta_batch_size, drawing, around)
    for line in _advice(best, timings, compile=compile):
        notify(line)


def _prepare(
    model: MetaModule, setting: Setting, tasks: Task, precision: Callable[[], AbstractContextManager[Any]]
) -> Ready:
    """Copies the model, applies a setting and runs one meta-step. Each meta-step enters `precision`, as in training."""
    module = copy.deepcopy(model)
    module.set_backend(setting.backend, compiler=COMPILER if setting.compile else None)
    params, buffers = module.learnable(), dict(module.named_buffers())
    step = torch.zeros((), dtype=torch.int64, device=module.device)

    def meta_step() -> Params:
        with precision():
            return module.meta_step(params, buffers, tasks, step)[0]

    started = time.perf_counter()
    meta_step()
    wait_for(module.device)
    return Ready(module, meta_step, time.perf_counter() - started)


def _show(timings: list[Timing], failures: dict[Setting, str], tasks: int, drawing: float, around: float) -> None:
    table = Table(title=f"a meta-step of {tasks} task{'s' * (tasks > 1)}", caption=(
        "MB: peak memory of a meta-step. outside: share of the time of `fit` spent outside the meta-step. "
        f"`fit` adds {1e3 * around:.2f} ms to each: {1e3 * drawing:.2f} ms draw the tasks, the rest is the optimizer, "
        "the check for NaN, logging and Lightning's loop."
    ))  # fmt: skip
    for heading in ("task_loop", "chunk", "compile", "ms", "tasks/s", "MB", "outside", "compiling"):
        table.add_column(heading, justify="left" if heading == "task_loop" else "right")
    for row in sorted(timings, key=lambda timing: timing.seconds):
        loop, chunk, compiled = _cells(row.setting)
        outside = around / (row.seconds + around)
        table.add_row(
            loop, chunk, compiled, f"{1e3 * row.seconds:.2f}", f"{tasks / row.seconds:,.0f}",
            f"{row.peak / 2**20:,.1f}", f"{outside:.0%}", f"{row.first:.0f} s" if row.setting.compile else "",
        )  # fmt: skip
    for setting, reason in failures.items():
        table.add_row(*_cells(setting), "fails", reason[:60])
    show(table)


def _cells(setting: Setting) -> tuple[str, str, str]:
    chunk = "" if setting.backend.chunk is None else str(setting.backend.chunk)
    return setting.backend.loop, chunk, "yes" if setting.compile else ""


def _advice(best: Timing, timings: list[Timing], *, compile: bool) -> Iterator[str]:
    yield "\nThe fastest setting on this machine, for the config file:\nmodel:\n  init_args:"
    for key, value in best.setting.keys().items():
        yield f"    {key}: {'null' if value is None else str(value).lower()}"
    if best.setting.compile:
        eager = min((timing.seconds for timing in timings if not timing.setting.compile), default=math.inf)
        steps = best.first / (eager - best.seconds)
        yield f"Compiling takes {best.first:.0f} s and pays off after {steps:,.0f} meta-steps."
    elif not compile:
        yield "Compiled settings were not timed: add --compile true (minutes for a convolutional net)."
