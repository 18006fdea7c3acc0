"""Measures how the time and peak memory of a meta-step grow with the tasks and with the inner steps.

python -m benchmarks.growth --output docs/images/growth.png
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.work import WORKS, Work
from meta_lightning.profiling.timing import interleaved, peak_memory

_TASKS = (1, 4, 16, 64, 256)
_STEPS = (1, 2, 5, 10, 20)
_BACKENDS: dict[str, dict[str, Any]] = {
    "vmap": {},
    "chunks of 16": {"chunk": 16},
    "loop": {"loop": "loop"},
    "split": {"loop": "split"},
}


class Cost(NamedTuple):
    """The cost of one meta-step.

    Attributes:
        seconds: The median time, in seconds.
        peak: The peak allocation, in bytes.
    """

    seconds: float
    peak: int


# By the name of the backend, then by the number of tasks or inner steps.
Costs = dict[str, dict[int, Cost]]


def measure(works: dict[int, Work], seconds: float, description: str) -> Costs:
    """Measures the cost of each workload with each backend."""
    largest = max(work.tasks for work in works.values())
    backends = {name: options for name, options in _BACKENDS.items() if options.get("chunk", 0) < largest}
    costs: Costs = {name: {} for name in backends}
    for number, work in track(works.items(), description, transient=True):
        steps = {name: ours(work, **options) for name, options in backends.items()}
        peaks = {name: peak_memory(step) for name, step in steps.items()}
        for name, time in interleaved(steps, seconds).items():
            costs[name][number] = Cost(time, peaks[name])
    return costs


def table(title: str, heading: str, costs: Costs) -> Table:
    """A table of milliseconds and megabytes, with a row for each number of tasks or inner steps."""
    result = Table(title=title)
    for column in (heading, *costs):
        result.add_column(column, justify="right")
    for number in next(iter(costs.values())):
        row = [by_number[number] for by_number in costs.values()]
        cells = (f"{_short(1e3 * cost.seconds)} ms {_short(cost.peak / 2**20)} MB" for cost in row)
        result.add_row(str(number), *cells)
    return result


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def plot(pieces: dict[str, tuple[str, Costs]], path: Path) -> None:
    """Plots time above memory, with a column for each workload."""
    figure = Figure(figsize=(3.2 * len(pieces), 5.4), layout="constrained")
    axes = figure.subplots(2, len(pieces), squeeze=False, sharex="col")
    for column, (title, (heading, costs)) in enumerate(pieces.items()):
        for name, by_number in costs.items():
            color = f"C{[*_BACKENDS].index(name)}"
            style: dict[str, Any] = {"marker": "o", "alpha": 0.7, "color": color, "label": name}
            axes[0, column].loglog([*by_number], [1e3 * cost.seconds for cost in by_number.values()], **style)
            axes[1, column].loglog([*by_number], [cost.peak / 2**20 for cost in by_number.values()], **style)
        numbers = [*next(iter(costs.values()))]
        axes[1, column].set_xticks(numbers, labels=[*map(str, numbers)])
        axes[1, column].minorticks_off()
        axes[0, column].set_title(title, fontsize=9)
        axes[1, column].set_xlabel(heading)
    axes[0, 0].set_ylabel("ms per meta-step")
    axes[1, 0].set_ylabel("peak MB")
    axes[0, 0].legend(frameon=False)
    for ax in axes.flat:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measures the costs, prints them as tables and plots them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a PNG file")
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate time to spend on each measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pieces = {}
    for name, label in (("sinusoid", "sinusoid MLP"), ("omniglot", "Omniglot conv4-64")):
        work = WORKS[name]
        by_tasks = {tasks: work._replace(tasks=tasks, inner_steps=1) for tasks in _TASKS}
        few = work._replace(tasks=min(work.tasks, 8))
        by_steps = {steps: few._replace(inner_steps=steps) for steps in _STEPS}
        for title, heading, works in (
            (f"{label}, 1 inner step", "tasks", by_tasks),
            (f"{label}, {few.tasks} tasks", "inner steps", by_steps),
        ):
            pieces[title] = heading, measure(works, options.seconds, title)
    for title, (heading, costs) in pieces.items():
        Console().print(table(title, heading, costs))
    if options.output:
        plot(pieces, options.output)


if __name__ == "__main__":
    main()
