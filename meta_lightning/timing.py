"""Time and memory of functions: medians of interleaved rounds, and the peak of what is allocated."""

import gc
import os
import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

# Rounds that a median is taken of, at least; and seconds of a turn.
_FEWEST, _TURN = 3, 0.05


Name = TypeVar("Name", bound=Hashable)


def interleaved(
    functions: Mapping[Name, Callable[[], Any]], seconds: float, device: torch.device | None = None
) -> dict[Name, float]:
    """Median seconds of each function, taken in turns: whatever else the machine does meets all of them.

    A turn lasts a while, so that a quick function is timed as it runs in training: with its own data in the cache.

    Args:
        functions: What to time, by name; called before, so that what is done once is done.
        seconds: About how long to go on for each function.
        device: Where they run: the clock waits for a GPU.
    """
    times: dict[Name, list[float]] = {name: [] for name in functions}
    calls = {
        name: max(1, round(_TURN / max(_seconds(function, 1, device), 1e-9))) for name, function in functions.items()
    }
    began = time.perf_counter()
    rounds = 0
    while functions and (rounds < _FEWEST or time.perf_counter() - began < seconds * len(functions)):
        for name, function in functions.items():
            times[name].append(_seconds(function, calls[name], device))
        rounds += 1
    return {name: median(taken) for name, taken in times.items()}


def _seconds(function: Callable[[], Any], calls: int, device: torch.device | None) -> float:
    """Seconds of a call, on average."""
    started = time.perf_counter()
    for _ in range(calls):
        function()
    wait_for(device)
    return (time.perf_counter() - started) / calls


def wait_for(device: torch.device | None) -> None:
    """Waits until a GPU has done what it was asked; a CPU has."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(function: Callable[[], Any], device: torch.device | None = None) -> int:
    """Bytes that a function has allocated at its peak, beyond what there was.

    Args:
        function: Called once.
        device: Where it runs.
    """
    if device is not None and device.type == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler says on the screen that it starts and stops
    gc.collect()  # garbage of before that is collected meanwhile would be met as memory that nobody allocated
    # The process's own peak would tell of the allocator and of whatever ran before.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    events: Any = found.profiler.kineto_results.events()
    allocated = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak
