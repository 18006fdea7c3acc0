"""Time and memory of functions: medians over interleaved rounds, and peak allocation."""

import gc
import os
import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

# The fewest rounds that a median is taken over, and the seconds that one function runs per round.
_MIN_ROUNDS, _TURN_SECONDS = 3, 0.05

Name = TypeVar("Name", bound=Hashable)


def interleaved(
    functions: Mapping[Name, Callable[[], Any]], seconds: float, device: torch.device | None = None
) -> dict[Name, float]:
    """Times functions in turns, so that other load on the machine affects all of them alike.

    In each turn a quick function is called many times. It is then timed as it runs in training, with its data in the
    cache.

    Args:
        functions: The functions to time, by name. Each is called once beforehand, so that one-time work is not timed.
        seconds: The approximate time to spend on each function.
        device: The device that the functions run on. The clock waits for a GPU.

    Returns:
        The median seconds of a call, by name.

    Example:
        >>> times = interleaved({"sum": torch.ones(10).sum, "exp": torch.ones(10).exp}, seconds=0.01)
        >>> sorted(times)
        ['exp', 'sum']
    """
    times: dict[Name, list[float]] = {name: [] for name in functions}
    calls = {
        name: max(1, round(_TURN_SECONDS / max(_seconds(function, 1, device), 1e-9)))
        for name, function in functions.items()
    }
    started = time.perf_counter()
    rounds = 0
    while functions and (rounds < _MIN_ROUNDS or time.perf_counter() - started < seconds * len(functions)):
        for name, function in functions.items():
            times[name].append(_seconds(function, calls[name], device))
        rounds += 1
    return {name: median(values) for name, values in times.items()}


def _seconds(function: Callable[[], Any], calls: int, device: torch.device | None) -> float:
    """The average seconds of a call."""
    started = time.perf_counter()
    for _ in range(calls):
        function()
    wait_for(device)
    return (time.perf_counter() - started) / calls


def wait_for(device: torch.device | None) -> None:
    """Waits until a GPU has finished all queued work. On a CPU it does nothing."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(function: Callable[[], Any], device: torch.device | None = None) -> int:
    """Measures the peak memory of a function, beyond what was allocated before the call.

    Args:
        function: The function; it is called once.
        device: The device that the function runs on.

    Returns:
        The peak, in bytes.
    """
    if device is not None and device.type == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # keeps the profiler's start and stop messages off the screen
    gc.collect()  # older garbage that is freed during the call would count as negative memory
    # The peak of the process would depend on the allocator and on what ran before, so the profiler counts allocations.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events: Any = profiler.profiler.kineto_results.events()
    allocated = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak
