"""The report of a test: plain data, rendered as tables, JSON, Markdown and scalars."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from meta_lightning.statistics import Figure, Mode, StepFigure

# What a run's own report is called.
OWN = "test_report"


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
        source: The fingerprint of the data that was tested on.
        trained_on: That of the data it was trained on; None for an untrained net.
        bootstrap95: The ends of the bootstrap's 95 % interval of the mean over tasks: a check of ``ci95``.
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
    source: str
    trained_on: str | None
    bootstrap95: tuple[float, float]
    worst_tenth: float
    calibration_error: float | None = None
    modes: dict[str, Mode] = field(default_factory=dict)
    baselines: dict[str, Figure] = field(default_factory=dict)
    per_task: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What was tested on what, in a line."""
        if self.trained_on in (None, self.source):
            return f"{self.algorithm} on {self.benchmark}"
        return f"{self.algorithm} of {self.benchmark}, tested on {self.source.partition(' ')[0]}"


def in_unit(metric: str, value: float) -> str:
    """A figure as it is read: per cent for an accuracy."""
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.3f}"


def to_json(report: Any) -> str:
    """A dataclass as JSON; numbers read back to the last digit, and what is no number is null."""
    plain = json.loads(json.dumps(asdict(report)), parse_constant=lambda _: None)  # JSON knows no nan
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def write(report: Report, folder: Path, name: str = OWN) -> None:
    """Writes ``test_report.json`` and ``test_report.md``, or the same under another name."""
    (folder / f"{name}.json").write_text(to_json(report))
    (folder / f"{name}.md").write_text(to_markdown(report))


def to_markdown(report: Report) -> str:
    """The report as tables with its circumstances below."""
    lines = [f"# {report.title}", *tables(report)]
    lines += ["", *(f"- {name}: {value}" for name, value in circumstances(report).items()), ""]
    return "\n".join(lines)


def tables(report: Report) -> list[str]:
    """The lines of the report's tables in Markdown, each table after an empty line."""
    lines = []
    for headings, rows in _tables(report):
        lines += ["", *markdown_table(headings, rows)]
    return lines


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, aligned to the right."""
    return [f"| {' | '.join(row)} |" for row in (headings, ["---:"] * len(headings), *rows)]


def screen_table(title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the screen, aligned to the right."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")  # the end of a path tells it from others
    for row in rows:
        table.add_row(*row)
    return table


def to_screen(report: Report) -> Group:
    """The report for the screen: the tables, and its circumstances below."""
    titles = itertools.chain([report.title], itertools.repeat(None))
    shown = [screen_table(title, *parts) for title, parts in zip(titles, _tables(report), strict=False)]
    return Group(*shown, *(Text(f"{name}: {value}") for name, value in circumstances(report).items()))


def to_scalars(report: Report) -> dict[str, float]:
    """What TensorBoard shows beside the mean, by tag."""
    of = f"test/{report.metric}"
    beside = {name: mode.mean for name, mode in report.modes.items()}
    beside |= {name.replace(" ", "_"): figure.mean for name, figure in report.baselines.items()}
    low, high = report.bootstrap95
    beside |= {"ci95": report.ci95, "bootstrap_low": low, "bootstrap_high": high, "worst_tenth": report.worst_tenth}
    sure = {} if report.calibration_error is None else {"test/calibration_error": report.calibration_error}
    return {f"{of}_{name}": value for name, value in beside.items()} | sure


def _tables(report: Report) -> Iterator[tuple[tuple[str, str, str], list[tuple[str, str, str]]]]:
    interval = "95 % interval"
    curve = [(str(at.step), *_shown(report, at)) for at in _thinned(report.per_step)]
    yield ("inner steps", report.metric, interval), curve
    if report.modes:
        yield ("batch norm", report.metric, interval), [(k, *_shown(report, v)) for k, v in report.modes.items()]
    if report.baselines:
        yield ("baseline", report.metric, interval), [(k, *_shown(report, v)) for k, v in report.baselines.items()]


def _shown(report: Report, figure: Figure | StepFigure | Mode) -> tuple[str, str]:
    return in_unit(report.metric, figure.mean), f"± {in_unit(report.metric, figure.ci95)}"


def _thinned(curve: list[StepFigure]) -> list[StepFigure]:
    """A long curve for the eye; the JSON has every step."""
    last = len(curve) - 1
    return [at for at in curve if last <= 12 or at.step in (0, 1, 2, 5, last) or at.step % 10 == 0]


def episode(ways: int | None, shots: int, queries: int) -> str:
    """The shape of an episode in words."""
    of_class = " a class" if ways else ""
    return f"{f'{ways}-way ' if ways else ''}{shots}-shot, {queries} {'query' if queries == 1 else 'queries'}{of_class}"


def protocol(report: Report) -> dict[str, str]:
    """The circumstances that a figure means nothing without."""
    trained = {} if report.trained_on in (None, report.source) else {"trained on": str(report.trained_on)}
    return {
        "tasks": f"{report.tasks} of {episode(report.ways, report.shots, report.queries)}; interval over tasks",
        "batch norm": report.batch_norm,
        "data": report.source,
        **trained,
        "episodes": report.episode_hash,
    }


def circumstances(report: Report) -> dict[str, str]:
    """What stands below the tables."""
    low, high = (in_unit(report.metric, end) for end in report.bootstrap95)
    shown = protocol(report) | {
        "bootstrap's 95 % interval": f"{low} to {high}",
        "worst tenth of the tasks": in_unit(report.metric, report.worst_tenth),
    }
    if report.calibration_error is not None:
        shown["expected calibration error"] = f"{report.calibration_error:.2%}"
    return shown | {"checkpoint": report.checkpoint, "seconds a task": f"{report.seconds_per_task:.2g}"}
