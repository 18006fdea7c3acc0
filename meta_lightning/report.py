"""From per-task results to the figures of a paper: plain data, rendered as a table, JSON and Markdown."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit
from torch import Tensor


@dataclass(frozen=True)
class StepFigure:
    """The metric after a number of adaptation steps.

    Attributes:
        step: Adaptation steps taken; 0 is before adaptation.
        mean: Mean over tasks.
        ci95: Half the width of the 95 % interval of that mean; nan for a single task.
    """

    step: int
    mean: float
    ci95: float


@dataclass(frozen=True)
class Report:
    """What a test found; the field names are the keys of ``test_report.json``."""

    algorithm: str
    benchmark: str
    checkpoint: str
    tasks: int
    ways: int | None
    shots: int
    queries: int
    batch_norm: str
    metric: str
    mean: float
    ci95: float
    per_step: list[StepFigure]
    episode_hash: str
    seconds_per_task: float
    versions: dict[str, str]


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """The mean of one figure per task, and half the width of its 95 % interval over tasks (Student's t).

    Args:
        values: ``[tasks]``.

    Returns:
        Mean and half width; the latter is nan for a single task.
    """
    tasks = len(values)
    values = values.double()
    if tasks < 2:
        return values.mean().item(), float("nan")
    return values.mean().item(), float(stdtrit(tasks - 1, 0.975)) * values.std().item() / tasks**0.5


def per_step(metric: Tensor) -> list[StepFigure]:
    """The curve of the inner loop.

    Args:
        metric: ``[tasks, steps + 1]``.
    """
    return [StepFigure(step, *mean_and_interval(column)) for step, column in enumerate(metric.unbind(1))]


def write(report: Report, folder: Path) -> None:
    """Writes ``test_report.json`` and ``test_report.md``."""
    plain = json.loads(json.dumps(asdict(report)), parse_constant=lambda _: None)  # JSON knows no nan: null
    (folder / "test_report.json").write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n")
    (folder / "test_report.md").write_text(to_markdown(report))


def to_markdown(report: Report) -> str:
    """The report as a table with its circumstances below."""
    lines = [f"# {report.algorithm} on {report.benchmark}", "", f"| inner steps | {report.metric} | 95 % interval |"]
    lines += ["|---:|---:|---:|"]
    lines += [f"| {step} | {mean} | ± {interval} |" for step, mean, interval in _rows(report)]
    lines += ["", *(f"- {name}: {value}" for name, value in _circumstances(report).items()), ""]
    return "\n".join(lines)


def to_screen(report: Report) -> Group:
    """The report for the screen: the table, and its circumstances below."""
    table = Table(title=f"{report.algorithm} on {report.benchmark}")
    for heading in ("inner steps", report.metric, "95 % interval"):
        table.add_column(heading, justify="right")
    for step, mean, interval in _rows(report):
        table.add_row(str(step), mean, f"± {interval}")
    return Group(table, *(Text(f"{name}: {value}") for name, value in _circumstances(report).items()))


def _rows(report: Report) -> Iterator[tuple[int, str, str]]:
    """The curve, thinned out where it is long: the JSON has every step."""
    percent = report.metric == "accuracy"
    last = len(report.per_step) - 1
    for at in report.per_step:
        if last > 12 and not (at.step in (0, 1, 2, 5, last) or at.step % 10 == 0):
            continue
        mean, interval = (f"{value:.2%}" if percent else f"{value:.3f}" for value in (at.mean, at.ci95))
        yield at.step, mean, interval


def _circumstances(report: Report) -> dict[str, str]:
    ways = f"{report.ways}-way " if report.ways else ""
    queries = f"{report.queries} {'query' if report.queries == 1 else 'queries'}{' a class' if report.ways else ''}"
    return {
        "tasks": f"{report.tasks} of {ways}{report.shots}-shot, {queries}; interval over tasks",
        "batch norm": report.batch_norm,
        "episodes": report.episode_hash,
        "checkpoint": report.checkpoint,
        "seconds a task": f"{report.seconds_per_task:.2g}",
    }
