"""How the cost of a meta-step grows with the tasks and with the inner steps: time, and peak memory.

python -m benchmarks.growth --output docs/images/growth.png
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.work import WORKS, Work
from meta_lightning.functional.tasks import Loop
from meta_lightning.timing import interleaved, peak_memory

_TASKS = (1, 4, 16, 64, 256)
_STEPS = (1, 2, 5, 10, 20)
_LOOPS: tuple[Loop, ...] = ("vmap", "loop", "split")


class Cost(NamedTuple):
    """Of one meta-step.

    Attributes:
        seconds: Its median.
        peak: Bytes allocated at its peak.
    """

    seconds: float
    peak: int


def measure(works: dict[int, Work], seconds: float) -> dict[Loop, dict[int, Cost]]:
    """The cost of each piece of work, by the number that grows, with each way of mapping over tasks."""
    found: dict[Loop, dict[int, Cost]] = {loop: {} for loop in _LOOPS}
    for number, work in works.items():
        steps: dict[Loop, Callable[[], Any]] = {loop: ours(work, loop) for loop in _LOOPS}
        peaks = {loop: peak_memory(step) for loop, step in steps.items()}
        for loop, time in interleaved(steps, seconds).items():
            found[loop][number] = Cost(time, peaks[loop])
    return found


def table(title: str, heading: str, costs: dict[Loop, dict[int, Cost]]) -> Table:
    """Milliseconds and megabytes by the number that grows."""
    shown = Table(title=title)
    for column in (heading, *(f"{loop}, {unit}" for loop in costs for unit in ("ms", "MB"))):
        shown.add_column(column, justify="right")
    for number in next(iter(costs.values())):
        cells = [(f"{1e3 * of[number].seconds:.1f}", f"{of[number].peak / 2**20:.1f}") for of in costs.values()]
        shown.add_row(str(number), *(cell for pair in cells for cell in pair))
    return shown


def plot(pieces: dict[str, tuple[str, dict[Loop, dict[int, Cost]]]], path: Path) -> None:
    """Time above memory, a column for each piece of work."""
    figure = Figure(figsize=(3.2 * len(pieces), 5.4), layout="constrained")
    axes = figure.subplots(2, len(pieces), squeeze=False, sharex="col")
    for column, (title, (heading, costs)) in enumerate(pieces.items()):
        for loop, of in costs.items():
            axes[0, column].loglog([*of], [1e3 * cost.seconds for cost in of.values()], marker="o", label=loop)
            axes[1, column].loglog([*of], [cost.peak / 2**20 for cost in of.values()], marker="o", label=loop)
        axes[0, column].set_title(title, fontsize=9)
        axes[1, column].set_xlabel(heading)
    axes[0, 0].set_ylabel("ms a meta-step")
    axes[1, 0].set_ylabel("peak MB")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a PNG file")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long to time each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pieces = {}
    for name, label in (("sinusoid", "sinusoid MLP"), ("omniglot", "Omniglot conv4-64")):
        work = WORKS[name]
        by_tasks = {tasks: work._replace(tasks=tasks, inner_steps=1) for tasks in _TASKS}
        few = work._replace(tasks=min(work.tasks, 8))
        by_steps = {steps: few._replace(inner_steps=steps) for steps in _STEPS}
        pieces[f"{label}, 1 inner step"] = "tasks", measure(by_tasks, options.seconds)
        pieces[f"{label}, {few.tasks} tasks"] = "inner steps", measure(by_steps, options.seconds)
    for title, (heading, costs) in pieces.items():
        Console().print(table(title, heading, costs))
    if options.output:
        plot(pieces, options.output)


if __name__ == "__main__":
    main()
