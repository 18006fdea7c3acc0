"""A paired comparison of two reports."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from meta_lightning.errors import ConfigError
from meta_lightning.report import in_unit
from meta_lightning.statistics import mean_and_interval


class Comparison(NamedTuple):
    """What the second of two reports has over the first.

    Attributes:
        metric: ``accuracy`` or ``mse``.
        tasks: On how many tasks, the same for both.
        difference: Mean over tasks of the second's figure less the first's.
        ci95: Half the width of the 95 % interval of that mean (Student's t over the tasks' differences).
        better: Tasks on which the second is better.
        worse: Tasks on which it is worse.
    """

    metric: str
    tasks: int
    difference: float
    ci95: float
    better: int
    worse: int


def compare(first: Path, second: Path) -> None:
    """Compares two test reports task by task: on the same episodes, a difference is seen that intervals would hide.

    Args:
        first: A ``test_report.json``.
        second: Another, on the same episodes.
    """
    reports = [_read(path) for path in (first, second)]
    Console().print(_table(reports, paired(*reports)))


def paired(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """The comparison of two reports as read from their files.

    Raises:
        ConfigError: If they are not of the same episodes and the same metric.
    """
    for key, what in (("episode_hash", "episodes differ"), ("metric", "metrics differ"), ("tasks", "tasks differ")):
        if first[key] != second[key]:
            raise ConfigError(
                f"the {what}: {first[key]} and {second[key]}; expected two reports of the same tasks: test both "
                "with the same data settings"
            )
    one, other = (torch.tensor(report["per_task"], dtype=torch.float64) for report in (first, second))
    gain = other - one
    difference, interval = mean_and_interval(gain)
    up, down = int((gain > 0).sum()), int((gain < 0).sum())
    better, worse = (up, down) if first["metric"] == "accuracy" else (down, up)
    return Comparison(first["metric"], len(gain), difference, interval, better, worse)


def _read(path: Path) -> dict[str, Any]:
    try:
        report: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read ({error}); expected a test_report.json") from error
    keys = ("algorithm", "checkpoint", "episode_hash", "metric", "mean", "ci95", "tasks", "per_task")
    missing = [key for key in keys if key not in report] if isinstance(report, dict) else list(keys)
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}; expected a test_report.json as `test` writes it")
    if not isinstance(report["per_task"], list) or len(report["per_task"]) != report["tasks"]:
        raise ConfigError(f"{path} does not hold a figure for each of its tasks; test the checkpoint again")
    try:
        figures = {key: _number(report[key]) for key in ("mean", "ci95")}
        return {**report, **figures, "per_task": [_number(value) for value in report["per_task"]]}
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} holds a figure that is no number ({error}); test the checkpoint again") from error


def _number(value: Any) -> float:
    """A figure of a report, where null stands for what is no number."""
    if isinstance(value, (str, bool)):
        raise ValueError(repr(value))
    return float("nan") if value is None else float(value)


def _table(reports: list[dict[str, Any]], found: Comparison) -> Table:
    table = Table(title=f"{found.tasks} tasks, episodes {reports[0]['episode_hash']}")
    for heading in ("", found.metric, "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for report in reports:
        name = f"{report['algorithm']}: {report['checkpoint']}"
        table.add_row(name, in_unit(found.metric, report["mean"]), f"± {in_unit(found.metric, report['ci95'])}")
    table.add_section()
    table.add_row(
        "second less first, task by task",
        in_unit(found.metric, found.difference),
        f"± {in_unit(found.metric, found.ci95)}",
    )
    even = found.tasks - found.better - found.worse
    table.caption = f"The second is better on {found.better} tasks, worse on {found.worse}, even on {even}."
    return table
