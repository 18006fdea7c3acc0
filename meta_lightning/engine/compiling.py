"""The compiled meta-step, with messages that announce how long the compilation takes."""

import time
from collections.abc import Callable, Hashable
from functools import partial
from textwrap import shorten
from types import FunctionType
from typing import Any, Protocol

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils._pytree import tree_leaves

from meta_lightning.engine.transpose_products import TransposeProducts
from meta_lightning.errors import ConfigError
from meta_lightning.functional.tasks import Backend, Loop, count
from meta_lightning.types import Buffers, Params, Task

Compiler = str | Callable[..., Any]
"""A backend of `torch.compile`: its name, or the backend itself."""

COMPILER: Compiler = "inductor"
"""The compiler of `fit`."""


class ChunkStep(Protocol):
    """`MetaModule.chunk_step`."""

    def __call__(self, params: Params, buffers: Buffers, chunk: Task, step: Tensor, /) -> tuple[Params, Any]:
        """The mean gradient of some tasks, and the auxiliary outputs of their objectives."""


def _with_own_code(function: Any) -> Any:
    """A copy of a function with a code object of its own.

    The compiler caches its results by code object and tensor shapes. If two modules shared a code object, one of them
    would run what was compiled for the settings of the other.
    """
    code, names, cells = function.__code__.replace(), function.__globals__, function.__closure__
    return FunctionType(code, names, function.__name__, None, cells)


def choose_backend(task_loop: Loop, task_chunk: int | None, *, compile: bool) -> Backend:
    """The backend that the settings of a module describe.

    Args:
        task_loop: How to map over tasks.
        task_chunk: The number of tasks that vmap processes at once; None for all.
        compile: Whether the meta-step will be compiled.

    Raises:
        ConfigError: If ``task_chunk`` is below 1, or ``split`` is to be compiled.
    """
    if task_chunk is not None and task_chunk < 1:
        raise ConfigError(f"model.task_chunk is {task_chunk}; expected 1 or more, or null for all tasks at once")
    if compile and task_loop == "split":
        raise ConfigError(
            "model.compile is true, but model.task_loop: split can't be compiled; set model.task_loop to vmap or loop"
        )
    return Backend(task_loop, task_chunk)


def _options(backend: Compiler, device: torch.device) -> dict[str, Any]:
    """Options of the compiler: the compiled code checks on each call that the tensors match, and nothing else."""
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe}
    if backend == "inductor" and device.type == "cpu":
        # cpp_wrapper compiles the calls of the kernels too. In Python they take a sixth of a small net's meta-step.
        options |= {"cpp_wrapper": True, "post_grad_custom_pre_pass": TransposeProducts()}
    return options


def compiled(
    chunk_step: ChunkStep, backend: Compiler, device: torch.device, static: Callable[[], Hashable] = lambda: ()
) -> ChunkStep:
    """Wraps the meta-step of a chunk so that it is compiled on its first call with tasks of a new shape.

    The settings and layers that the step reads must not change afterwards, except for the values that ``static``
    returns. The compiled code checks tensors alone, because checking the rest costs a tenth of a small net's meta-step.

    Args:
        chunk_step: The function to compile.
        backend: The backend of `torch.compile`.
        device: The device it runs on.
        static: Returns the settings that may change during a run, such as ``first_order``. The step is compiled once
            for each combination of them.

    Raises:
        ConfigError: When the step is called, if it can't be compiled on this machine.
    """
    compile = partial(torch.compile, backend=backend, fullgraph=True, dynamic=False, options=_options(backend, device))
    steps: dict[Hashable, ChunkStep] = {}
    known: set[Hashable] = set()

    def uncompiled(params: Params, buffers: Buffers, chunk: Task, step: Tensor, /) -> tuple[Params, Any]:
        return chunk_step(params, buffers, chunk, step)

    def announced_step(params: Params, buffers: Buffers, chunk: Task, step: Tensor, /) -> tuple[Params, Any]:
        # The learned parameters change when a callback releases frozen layers during training.
        variant = (tuple(params), static())
        compiled_step = steps.get(variant) or steps.setdefault(variant, compile(_with_own_code(uncompiled)))
        shapes = (variant, *(leaf.shape for leaf in tree_leaves(chunk.query.x)))
        if shapes in known:
            return compiled_step(params, buffers, chunk, step)
        tasks = count(chunk)
        rank_zero_info(
            f"Compiling the meta-step of {tasks} task{'s' * (tasks > 1)} at once. This takes less than a minute "
            "for a small net, some minutes for a convolutional one, and longer with more adaptation steps"
        )
        started = time.perf_counter()
        try:
            results = compiled_step(params, buffers, chunk, step)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = shorten(" ".join(lines[:2]), 150)
            raise ConfigError(
                f"model.compile: the meta-step can't be compiled here ({reason}); set model.compile to false"
            ) from error
        rank_zero_info(f"Compiled in {time.perf_counter() - started:.0f} s")
        known.add(shapes)
        return results

    return announced_step
