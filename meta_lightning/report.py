"""From per-task results to the figures of a paper: plain data, rendered as a table, JSON and Markdown."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

# As Guo et al. 2017, "On calibration of modern neural networks".
_BINS = 15


@dataclass(frozen=True)
class Figure:
    """A mean over tasks.

    Attributes:
        mean: Mean over tasks.
        ci95: Half the width of the 95 % interval of that mean; nan for a single task.
    """

    mean: float
    ci95: float


@dataclass(frozen=True)
class StepFigure:
    """The metric after a number of adaptation steps.

    Attributes:
        step: Adaptation steps taken; 0 is before adaptation.
        mean: As in `Figure`.
        ci95: As in `Figure`.
    """

    step: int
    mean: float
    ci95: float


@dataclass(frozen=True)
class Mode:
    """The figures under one batch-norm protocol; attributes as in `Report`."""

    mean: float
    ci95: float
    per_step: list[StepFigure]


@dataclass(frozen=True)
class Report:
    """What a test found; the field names are the keys of ``test_report.json``.

    Attributes:
        algorithm: Its class, without ``Module``.
        benchmark: The first part of the run's name.
        checkpoint: What was tested.
        tasks: How many episodes.
        ways: Of an episode; None for functions.
        shots: Of an episode.
        queries: Of an episode.
        batch_norm: The protocol of the figures at the top.
        metric: ``accuracy`` or ``mse``.
        mean: After the last step.
        ci95: Its interval over tasks.
        per_step: The curve of the inner loop.
        episode_hash: Names the episodes: figures with the same hash are of the same tasks.
        seconds_per_task: Of adapting and predicting.
        versions: Of the software.
        worst_tenth: Mean over the tenth of the tasks with the worst figures.
        calibration_error: Expected calibration error after the last step, over all queries, in 15 bins; None for
            functions.
        modes: The same figures under every batch-norm protocol, from the same weights; empty where no layer asks.
        baselines: What costs nothing: chance, the untrained net, the nearest class mean in the inputs.
        per_task: The metric after the last step, by the episode's number: what a paired comparison needs.
    """

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
    worst_tenth: float
    calibration_error: float | None = None
    modes: dict[str, Mode] = field(default_factory=dict)
    baselines: dict[str, Figure] = field(default_factory=dict)
    per_task: list[float] = field(default_factory=list)


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


def mode(metric: Tensor) -> Mode:
    """The figures of one protocol from ``[tasks, steps + 1]``."""
    curve = per_step(metric)
    return Mode(curve[-1].mean, curve[-1].ci95, curve)


def worst_tenth(values: Tensor, *, more_is_better: bool) -> float:
    """The mean over the worst tenth of the tasks (at least one), ``[tasks]``."""
    tail = max(1, round(len(values) / 10))
    return values.double().topk(tail, largest=not more_is_better).values.mean().item()


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """How far confidence and frequency of being right lie apart, on average over queries, ``[tasks, queries]``."""
    error = binary_calibration_error(confidence.flatten().float(), correct.flatten().int(), n_bins=_BINS, norm="l1")
    return float(error)


def write(report: Report, folder: Path) -> None:
    """Writes ``test_report.json`` and ``test_report.md``."""
    plain = json.loads(json.dumps(asdict(report)), parse_constant=lambda _: None)  # JSON knows no nan: null
    (folder / "test_report.json").write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n")
    (folder / "test_report.md").write_text(to_markdown(report))


def to_markdown(report: Report) -> str:
    """The report as tables with its circumstances below."""
    lines = [f"# {report.algorithm} on {report.benchmark}", *tables(report)]
    lines += ["", *(f"- {name}: {value}" for name, value in _circumstances(report).items()), ""]
    return "\n".join(lines)


def tables(report: Report) -> list[str]:
    """The lines of the report's tables in Markdown, each table after an empty line."""
    lines = []
    for headings, rows in _tables(report):
        lines += ["", f"| {' | '.join(headings)} |", "|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return lines


def to_screen(report: Report) -> Group:
    """The report for the screen: the tables, and its circumstances below."""
    shown: list[Table | Text] = []
    for headings, rows in _tables(report):
        table = Table(title=None if shown else f"{report.algorithm} on {report.benchmark}")
        for heading in headings:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*row)
        shown.append(table)
    return Group(*shown, *(Text(f"{name}: {value}") for name, value in _circumstances(report).items()))


def _tables(report: Report) -> Iterator[tuple[tuple[str, str, str], list[tuple[str, str, str]]]]:
    interval = "95 % interval"
    curve = [(str(at.step), *_shown(report, at)) for at in _thinned(report.per_step)]
    yield ("inner steps", report.metric, interval), curve
    if report.modes:
        yield ("batch norm", report.metric, interval), [(k, *_shown(report, v)) for k, v in report.modes.items()]
    if report.baselines:
        yield ("baseline", report.metric, interval), [(k, *_shown(report, v)) for k, v in report.baselines.items()]


def _shown(report: Report, figure: Figure | StepFigure | Mode) -> tuple[str, str]:
    unit = "{:.2%}" if report.metric == "accuracy" else "{:.3f}"
    return unit.format(figure.mean), f"± {unit.format(figure.ci95)}"


def _thinned(curve: list[StepFigure]) -> list[StepFigure]:
    """A long curve for the eye; the JSON has every step."""
    last = len(curve) - 1
    return [at for at in curve if last <= 12 or at.step in (0, 1, 2, 5, last) or at.step % 10 == 0]


def _circumstances(report: Report) -> dict[str, str]:
    ways = f"{report.ways}-way " if report.ways else ""
    queries = f"{report.queries} {'query' if report.queries == 1 else 'queries'}{' a class' if report.ways else ''}"
    unit = "{:.2%}" if report.metric == "accuracy" else "{:.3f}"
    shown = {
        "tasks": f"{report.tasks} of {ways}{report.shots}-shot, {queries}; interval over tasks",
        "worst tenth of the tasks": unit.format(report.worst_tenth),
        "batch norm": report.batch_norm,
        "episodes": report.episode_hash,
        "checkpoint": report.checkpoint,
        "seconds a task": f"{report.seconds_per_task:.2g}",
    }
    if report.calibration_error is not None:
        shown["expected calibration error"] = f"{report.calibration_error:.2%}"
    return shown
