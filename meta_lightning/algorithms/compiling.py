"""The compiled meta-step: one call to `torch.compile`, with what a person waits for said."""

import time
from collections.abc import Callable
from functools import partial
from textwrap import shorten
from types import FunctionType
from typing import Any, Protocol

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from meta_lightning.algorithms.turned import TurnProducts
from meta_lightning.errors import ConfigError
from meta_lightning.functional.tasks import Backend, Loop
from meta_lightning.types import Buffers, Params, Task

# A backend of `torch.compile`, by name or itself.
Compiler = str | Callable[..., Any]
COMPILER: Compiler = "inductor"


class ChunkStep(Protocol):
    """`MetaModule.chunk_step`."""

    def __call__(self, params: Params, buffers: Buffers, chunk: Task, step: Tensor, /) -> tuple[Params, Any]:
        """The mean gradient of some tasks, and what their objectives return beside the scalar."""


def _remembered_apart(function: Any) -> Any:
    """A copy with a code object of its own: by that the compiler remembers what it compiled, and by tensors' shapes.

    Without it a module would get what was compiled for another one with other settings.
    """
    code, names, cells = function.__code__.replace(), function.__globals__, function.__closure__
    return FunctionType(code, names, function.__name__, None, cells)


def choose_backend(task_loop: Loop, task_chunk: int | None, *, compile: bool) -> Backend:
    """The backend of these settings.

    Raises:
        ConfigError: If they do not go together.
    """
    if task_chunk is not None and task_chunk < 1:
        raise ConfigError(f"model.task_chunk is {task_chunk}; expected 1 or more, or null for all tasks at once")
    if compile and task_loop == "split":
        raise ConfigError(
            "model.compile is true and model.task_loop split, which is not compiled; set it to vmap or loop"
        )
    return Backend(task_loop, task_chunk)


def _options(backend: Compiler, device: torch.device) -> dict[str, Any]:
    """How to compile: without looking, at each call, whether anything but tensors is what it was."""
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe}
    if backend == "inductor" and device.type == "cpu":
        # What calls the kernels is compiled too, not Python: a sixth of a small net's meta-step.
        options |= {"cpp_wrapper": True, "post_grad_custom_pre_pass": TurnProducts()}
    return options


def compiled(chunk_step: ChunkStep, backend: Compiler, device: torch.device) -> ChunkStep:
    """Compiles the meta-step of tasks that are taken at once, when it is first called with tasks of a shape.

    What it reads of the module (settings, layers) must not change afterwards: only tensors are guarded, since looking
    at everything else takes a tenth of a small net's meta-step.

    Args:
        chunk_step: What to compile.
        backend: Of `torch.compile`.
        device: Where it runs.

    Raises:
        ConfigError: When called, if it can't be compiled here.
    """
    compile = partial(torch.compile, backend=backend, fullgraph=True, dynamic=False, options=_options(backend, device))
    runs: dict[tuple[str, ...], ChunkStep] = {}
    known: set[tuple[ChunkStep, torch.Size]] = set()

    def own(params: Params, buffers: Buffers, chunk: Task, step: Tensor, /) -> tuple[Params, Any]:
        return chunk_step(params, buffers, chunk, step)

    def announced(params: Params, buffers: Buffers, chunk: Task, step: Tensor, /) -> tuple[Params, Any]:
        # Which parameters learn may change while training goes on: frozen layers are released.
        names = tuple(params)
        run = runs.get(names) or runs.setdefault(names, compile(_remembered_apart(own)))
        if (run, chunk.query.x.shape) in known:
            return run(params, buffers, chunk, step)
        tasks = len(chunk.index)
        rank_zero_info(
            f"Compiling the meta-step of {tasks} task{'s' * (tasks > 1)} at once: under a minute for a small net, some "
            "minutes for a convolutional one; longer with more adaptation steps"
        )
        started = time.perf_counter()
        try:
            found = run(params, buffers, chunk, step)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = shorten(" ".join(lines[:2]), 150)
            raise ConfigError(
                f"model.compile: the meta-step can't be compiled here ({reason}); set model.compile to false"
            ) from error
        rank_zero_info(f"Compiled in {time.perf_counter() - started:.0f} s")
        known.add((run, chunk.query.x.shape))
        return found

    return announced
