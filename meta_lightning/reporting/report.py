"""The report of a test: plain data, rendered as tables, JSON, Markdown and scalars."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from meta_lightning.functional.task_kind import TaskKind, kind_with_metric, metric_text
from meta_lightning.reporting.statistics import Estimate, ProtocolResult, StepEstimate

DEFAULT_NAME = "test_report"
"""The file name of a run's own report, without its ending."""

# Longer curves are thinned out in tables.
_LONG_CURVE = 12


@dataclass(frozen=True)
class Report:
    """The results of a test. Its field names are the keys of ``test_report.json``, except for ``by_batch_norm``.

    Attributes:
        algorithm: The name of the algorithm's class without ``Module``.
        benchmark: The first part of the run's name.
        checkpoint: The path of the checkpoint, or else what was in memory and how it got there.
        tasks: The number of episodes.
        ways: Classes of an episode; None if tasks have no classes.
        shots: Support examples of an episode, per class if there are classes.
        queries: Query examples of an episode, per class if there are classes.
        batch_norm: The batch-norm protocol of ``mean``, ``ci95`` and ``per_step``; ``none`` for a net without batch
            norm.
        metric: ``accuracy`` or ``mse``.
        mean: The mean over tasks of the metric after the last adaptation step.
        ci95: Half the width of the 95 % interval of ``mean`` over tasks.
        per_step: The metric after 0, 1, ... adaptation steps.
        episode_hash: A hash of the episodes. Results with the same hash are of the same tasks.
        seconds_per_task: The time of all measurements of a task, in seconds: adaptation and prediction, under the other
            protocols too, and the baselines.
        seconds: The time of the whole test: data, adaptation, the other protocols and the baselines.
        versions: The versions of the software.
        source: The fingerprint of the data that was tested on.
        trained_on: The fingerprint of the training data; None for an untrained net.
        bootstrap95: The ends of the bootstrap's 95 % interval of the mean over tasks, a check of ``ci95``.
        worst_tenth: The mean over the tenth of the tasks with the worst results.
        calibration_error: The expected calibration error after the last step, over all queries, in 15 bins; None if the
            predictions carry no certainty.
        by_batch_norm: The results under every batch-norm protocol, from the same weights; empty if no layer follows
            one. Its JSON key is ``modes``.
        baselines: The results without training: chance, the untrained net, the nearest class mean in the inputs.
        per_task: The metric after the last step, in the order of the episodes, for paired comparisons.
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
    per_step: list[StepEstimate]
    episode_hash: str
    seconds_per_task: float
    seconds: float
    versions: dict[str, str]
    source: str
    trained_on: str | None
    bootstrap95: tuple[float, float]
    worst_tenth: float
    calibration_error: float | None = None
    by_batch_norm: dict[str, ProtocolResult] = field(default_factory=dict)
    baselines: dict[str, Estimate] = field(default_factory=dict)
    per_task: list[float] = field(default_factory=list)

    @property
    def kind(self) -> TaskKind:
        """The kind of the tasks."""
        return kind_with_metric(self.metric)

    @property
    def title(self) -> str:
        """The algorithm and the data of the test, in one line."""
        if self.trained_on in (None, self.source):
            return f"{self.algorithm} on {self.benchmark}"
        return f"{self.algorithm} of {self.benchmark}, tested on {self.source.partition(' ')[0]}"


# The key by which other tools read the JSON.
_JSON_KEYS = {"by_batch_norm": "modes"}


def to_json(report: Any) -> str:
    """Renders a dataclass as JSON. Numbers keep all their digits; NaN and infinity become null."""
    content = {_JSON_KEYS.get(name, name): value for name, value in asdict(report).items()}
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)  # JSON has no NaN
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def files(report: Report, folder: Path, name: str = DEFAULT_NAME) -> dict[Path, str]:
    """The files of a report, ``<name>.json`` and ``<name>.md``, with their texts."""
    return {folder / f"{name}.json": to_json(report), folder / f"{name}.md": to_markdown(report)}


def to_markdown(report: Report) -> str:
    """Renders a report in Markdown: its tables, with the circumstances below."""
    lines = [f"# {report.title}", *tables(report)]
    lines += ["", *(f"- {name}: {value}" for name, value in circumstances(report).items()), ""]
    return "\n".join(lines)


def tables(report: Report) -> list[str]:
    """The lines of a report's tables in Markdown, with an empty line before each table."""
    lines = []
    for headings, rows in _tables(report):
        lines += ["", *markdown_table(headings, rows)]
    return lines


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table whose columns are aligned to the right.

    Example:
        >>> markdown_table(["seed", "mse"], [["0", "0.311"]])
        ['| seed | mse |', '| ---: | ---: |', '| 0 | 0.311 |']
    """
    return [f"| {' | '.join(row)} |" for row in (headings, ["---:"] * len(headings), *rows)]


def screen_table(title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the screen whose columns are aligned to the right."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")  # checkpoints differ in the end of their paths
    for row in rows:
        table.add_row(*row)
    return table


def to_screen(report: Report) -> Group:
    """Renders a report for the screen: its tables, with the circumstances below."""
    titles = itertools.chain([report.title], itertools.repeat(None))
    parts = [screen_table(title, *table) for title, table in zip(titles, _tables(report), strict=False)]
    return Group(*parts, *(Text(f"{name}: {value}") for name, value in circumstances(report).items()))


def validation_table(results: Mapping[str, float]) -> Table:
    """A table of logged values, each beside its value before adaptation.

    Args:
        results: The values by their names, such as ``val/accuracy`` and ``val/accuracy_before``.
    """
    ours = [name for name in results if not (name.endswith("_before") and name.removesuffix("_before") in results)]
    rows = [
        (name, *(metric_text(key, results[key]) if key in results else "" for key in (name, f"{name}_before")))
        for name in ours
    ]
    has_before = any(row[2] for row in rows)
    headings = ("metric", "mean over tasks", "before adaptation")
    return screen_table(None, headings[: 2 + has_before], [row[: 2 + has_before] for row in rows])


def to_scalars(report: Report) -> dict[str, float]:
    """The values that TensorBoard shows besides the mean, by tag."""
    values = {name: result.mean for name, result in report.by_batch_norm.items()}
    values |= {name.replace(" ", "_"): baseline.mean for name, baseline in report.baselines.items()}
    low, high = report.bootstrap95
    values |= {"ci95": report.ci95, "bootstrap_low": low, "bootstrap_high": high, "worst_tenth": report.worst_tenth}
    scalars = {f"test/{report.metric}_{name}": value for name, value in values.items()}
    if report.calibration_error is not None:
        scalars["test/calibration_error"] = report.calibration_error
    return scalars


def _tables(report: Report) -> Iterator[tuple[tuple[str, str, str], list[tuple[str, str, str]]]]:
    interval = "95 % interval"
    curve = [(str(estimate.step), *_texts(report, estimate)) for estimate in _thinned(report.per_step)]
    yield ("inner steps", report.metric, interval), curve
    for heading, results in (("batch norm", report.by_batch_norm), ("baseline", report.baselines)):
        if results:
            yield (
                (heading, report.metric, interval),
                [(name, *_texts(report, result)) for name, result in results.items()],
            )


def _texts(report: Report, estimate: Estimate | StepEstimate | ProtocolResult) -> tuple[str, str]:
    return report.kind.text(estimate.mean), f"± {report.kind.text(estimate.ci95)}"


def _thinned(curve: list[StepEstimate]) -> list[StepEstimate]:
    """The part of a curve that tables show. The JSON holds every step."""
    last = len(curve) - 1
    if last <= _LONG_CURVE:
        return curve
    return [estimate for estimate in curve if estimate.step in (0, 1, 2, 5, last) or estimate.step % 10 == 0]


def episode(ways: int | None, shots: int, queries: int) -> str:
    """The shape of an episode in words.

    Example:
        >>> episode(5, 1, 15)
        '5-way 1-shot, 15 queries a class'
    """
    per_class = " a class" if ways else ""
    return (
        f"{f'{ways}-way ' if ways else ''}{shots}-shot, {queries} {'query' if queries == 1 else 'queries'}{per_class}"
    )


def protocol(report: Report) -> dict[str, str]:
    """The circumstances that a result depends on: tasks, batch norm, data and episodes."""
    trained_on = {} if report.trained_on in (None, report.source) else {"trained on": str(report.trained_on)}
    return {
        "tasks": f"{report.tasks} of {episode(report.ways, report.shots, report.queries)}; interval over tasks",
        "batch norm": report.batch_norm,
        "data": report.source,
        **trained_on,
        "episodes": report.episode_hash,
    }


def circumstances(report: Report) -> dict[str, str]:
    """All values below the tables, by name."""
    low, high = (report.kind.text(end) for end in report.bootstrap95)
    lines = protocol(report) | {
        "bootstrap's 95 % interval": f"{low} to {high}",
        "worst tenth of the tasks": report.kind.text(report.worst_tenth),
    }
    if report.calibration_error is not None:
        lines["expected calibration error"] = f"{report.calibration_error:.2%}"
    return lines | {
        "checkpoint": report.checkpoint,
        "the whole test": f"{report.seconds:.3g} s, with the data",
        "adapting and predicting": f"{report.seconds_per_task:.2g} s a task, with other protocols and baselines",
    }
