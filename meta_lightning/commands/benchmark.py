"""The command ``benchmark``: which way of mapping over tasks is fastest here, by measurement."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from meta_lightning.algorithms import MetaModule
from meta_lightning.algorithms.compiling import COMPILER
from meta_lightning.algorithms.probe import probe
from meta_lightning.commands.fit_cost import around_meta_step
from meta_lightning.data import EpisodicDataModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional.tasks import Backend
from meta_lightning.timing import interleaved, peak_memory, wait_for
from meta_lightning.types import Params, Task

# Seconds that nobody waits for.
_LONGEST = 3600


class Setting(NamedTuple):
    """A way to make the meta-gradient.

    Attributes:
        backend: How tasks are mapped over.
        compile: Whether it is compiled.
    """

    backend: Backend
    compile: bool = False

    def keys(self) -> dict[str, str | int | bool | None]:
        """The keys of ``model`` that choose it."""
        return {"task_loop": self.backend.loop, "task_chunk": self.backend.chunk, "compile": self.compile}


class Timing(NamedTuple):
    """What was measured of a setting.

    Attributes:
        setting: Which.
        seconds: Median of a meta-step.
        peak: Bytes allocated at the peak of a meta-step.
        first: Seconds of the first one, in which it is compiled.
    """

    setting: Setting
    seconds: float
    peak: int
    first: float


class Ready(NamedTuple):
    """A setting that ran once.

    Attributes:
        module: The algorithm with that setting.
        step: Does a meta-step.
        first: Seconds of the first one.
    """

    module: MetaModule
    step: Callable[[], Params]
    first: float


def settings(tasks: int, *, inner_loop: bool, compile: bool) -> list[Setting]:
    """The settings worth a try for a meta-batch of this many tasks.

    Args:
        tasks: How many.
        inner_loop: Whether the method adapts; else there is nothing to split off.
        compile: Try compiled ones too.
    """
    chunks = [None, *(size for size in (16, 8, 4, 2) if size < tasks)]
    eager = [Backend("vmap", chunk) for chunk in chunks] + [Backend("loop")]
    if inner_loop:
        eager += [Backend("split", chunk) for chunk in chunks if chunk in (None, 8)]
    compiled = [Backend("vmap"), Backend("vmap", 4), Backend("loop")] if compile else []
    return [Setting(backend) for backend in eager] + [
        Setting(backend, compile=True) for backend in compiled if backend.chunk is None or backend.chunk < tasks
    ]


def benchmark(trainer: Trainer, model: MetaModule, data: EpisodicDataModule, *, compile: bool, seconds: float) -> None:
    """Times every setting that works on this machine, and names the fastest.

    Args:
        trainer: Knows the device and the precision.
        model: The algorithm.
        data: The episodes.
        compile: Try compiled settings too.
        seconds: About how long to time each.

    Raises:
        ConfigError: If no setting works, the data can't be had or do not fit, or it is to be of several processes.
    """
    if not 0 < seconds < _LONGEST:
        raise ConfigError(f"--seconds is {seconds}; expected more than 0 and less than {_LONGEST}")
    if trainer.world_size > 1:
        raise ConfigError(
            f"trainer.devices asks for {trainer.world_size} processes; a benchmark is of one: set it to 1"
        )
    data.prepare_data()
    data.setup("fit")
    data.keep("train", trainer.strategy.root_device)
    probe(model, data.sample("fit"))
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
    tried = settings(data.meta_batch_size, inner_loop=model.has_inner_loop, compile=compile)
    for setting in track(tried, "Trying each setting once", transient=True):
        try:
            ready[setting] = _prepared(model, setting, tasks, trainer.precision_plugin.train_step_context)
        except (ConfigError, RuntimeError) as error:
            failures[setting] = str(error).partition("\n")[0]
    if not ready:
        raise ConfigError(f"model: no setting of task_loop works here ({next(iter(failures.values()))})")
    steps = {setting: of.step for setting, of in ready.items()}
    peaks = {setting: peak_memory(step, device) for setting, step in steps.items()}
    Console().print(f"Timing {len(steps)} settings in turns, about {seconds * len(steps):.0f} s ...")
    medians = interleaved(steps, seconds, device)
    timings = [Timing(setting, medians[setting], peaks[setting], of.first) for setting, of in ready.items()]
    best = min(timings, key=lambda timing: timing.seconds)
    drawing = interleaved({"step": steps[best.setting], "draw": draw}, seconds / 2, device)["draw"]
    around = around_meta_step(trainer, ready[best.setting].module, data, seconds)
    _show(timings, failures, data.meta_batch_size, drawing, around)
    for line in _advice(best, timings, compile=compile):
        print(line)


def _prepared(
    model: MetaModule, setting: Setting, tasks: Task, precision: Callable[[], AbstractContextManager[Any]]
) -> Ready:
    """A copy of the model with a setting; each meta-step enters the precision anew, as in training."""
    module = copy.deepcopy(model)
    module.use(setting.backend, compiler=COMPILER if setting.compile else None)
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
        "MB: peak of a meta-step. outside: share of `fit` that is not the meta-step. "
        f"`fit` adds {1e3 * around:.2f} ms to each: {1e3 * drawing:.2f} ms draw the tasks, the rest is the optimizer, "
        "the check for NaN, logging and Lightning's loop."
    ))  # fmt: skip
    for heading in ("task_loop", "chunk", "compile", "ms", "tasks/s", "MB", "outside", "compiling"):
        table.add_column(heading, justify="left" if heading == "task_loop" else "right")
    for found in sorted(timings, key=lambda timing: timing.seconds):
        loop, chunk, compiled = _words(found.setting)
        outside = around / (found.seconds + around)
        table.add_row(
            loop, chunk, compiled, f"{1e3 * found.seconds:.2f}", f"{tasks / found.seconds:,.0f}",
            f"{found.peak / 2**20:,.1f}", f"{outside:.0%}", f"{found.first:.0f} s" if found.setting.compile else "",
        )  # fmt: skip
    for setting, reason in failures.items():
        table.add_row(*_words(setting), "fails", reason[:60])
    Console().print(table)


def _words(setting: Setting) -> tuple[str, str, str]:
    chunk = "" if setting.backend.chunk is None else str(setting.backend.chunk)
    return setting.backend.loop, chunk, "yes" if setting.compile else ""


def _advice(best: Timing, timings: list[Timing], *, compile: bool) -> Iterator[str]:
    yield "\nFastest here, to paste into the YAML:\nmodel:\n  init_args:"
    for key, value in best.setting.keys().items():
        yield f"    {key}: {'null' if value is None else str(value).lower()}"
    if best.setting.compile:
        eager = min((timing.seconds for timing in timings if not timing.setting.compile), default=math.inf)
        steps = best.first / (eager - best.seconds)
        yield f"Compiling takes {best.first:.0f} s and pays off after {steps:,.0f} meta-steps."
    elif not compile:
        yield "Compiled settings were not timed: add --compile true (minutes for a convolutional net)."
