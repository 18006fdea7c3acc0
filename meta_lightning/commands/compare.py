"""The command ``compare``, which compares two test reports task by task, and training seed by training seed."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table

from meta_lightning.console import notify, printable, show
from meta_lightning.errors import ConfigError, name_tasks
from meta_lightning.functional.task_kind import KINDS, kind_with_metric
from meta_lightning.reporting.statistics import difference_and_interval, mean_and_interval

# The entries that must be equal in both reports, with the words that name a difference.
_SAME = {
    "source": "data differ",
    "episode_hash": "episodes differ",
    "metric": "metrics differ",
    "tasks": "tasks differ",
}
# The entries that may differ; a note names each difference.
_NOTED = ("batch_norm", "ways", "shots", "queries", "trained_on", "benchmark")
# The entries of the ``protocol`` of a test of several seeds that are noted likewise.
_PROTOCOL = ("tasks", "batch norm", "trained on")
# The relative difference allowed between a stated value and its tasks: sums differ with the order of their terms.
_TOLERANCE = 1e-6


class Comparison(NamedTuple):
    """A paired comparison of two reports.

    Attributes:
        metric: ``accuracy`` or ``mse``.
        tasks: The number of tasks, which are the same in both reports.
        difference: The metric of the second report minus that of the first, averaged over tasks.
        ci95: Half the width of the 95 % confidence interval of that mean (Student's t over the tasks' differences).
        better: The number of tasks on which the second report is better.
        worse: The number of tasks on which the second report is worse.
        notes: What else differs between the reports, one line for each difference.
    """

    metric: str
    tasks: int
    difference: float
    ci95: float
    better: int
    worse: int
    notes: list[str]


class SeedsComparison(NamedTuple):
    """The difference of two algorithms' results over training seeds.

    Attributes:
        difference: The mean over seeds of the second test minus that of the first.
        ci95: Half the width of its 95 % interval over seeds.
        paired: Whether both tests have the same seeds, whose differences are then averaged (Student's t). Otherwise
            the means are compared as two independent samples (Welch's t).
    """

    difference: float
    ci95: float
    paired: bool


def compare_reports(first: Path, second: Path) -> None:
    """Compares two tests task by task, and tests of several training seeds also over seeds.

    Both must be of the same episodes. The interval of the paired difference is usually much narrower than the
    intervals of the two means.

    Args:
        first: A ``test_report.json``, or a ``test_seeds.json``.
        second: Another file of the same kind, on the same episodes.

    Raises:
        ConfigError: If a file is not a report, the reports are not of the same episodes and the same metric, or only
            one of them is of several training seeds.
    """
    reports = [_read(path) for path in (first, second)]
    several = ["seed_means" in report for report in reports]
    if several[0] != several[1]:
        single, seeds = (second, first) if several[0] else (first, second)
        raise ConfigError(
            f"{single} is a test of one checkpoint, {seeds} of several training seeds; expected two files of one kind"
        )
    comparison = paired(*reports)
    show(_table(reports, comparison, over_seeds(*reports) if all(several) else None))
    if comparison.notes:
        notify("Note: the reports also differ in:\n" + "\n".join(f"  {note}" for note in comparison.notes))


def paired(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compares two reports.

    Args:
        first: The content of a ``test_report.json``.
        second: The content of another one.

    Raises:
        ConfigError: If they are not of the same data, the same episodes and the same metric.

    Example:
        >>> report = {"source": "letters", "episode_hash": "0123", "metric": "accuracy", "tasks": 2}
        >>> comparison = paired(report | {"per_task": [0.5, 0.5]}, report | {"per_task": [0.5, 0.75]})
        >>> comparison.difference, comparison.better, comparison.worse
        (0.125, 1, 0)
    """
    for key, problem in _SAME.items():
        if first[key] != second[key]:
            raise ConfigError(
                f"the {problem}: {printable(first[key])} and {printable(second[key])}; expected two reports of the "
                "same tasks: test both with the same data settings"
            )
    before, after = (torch.tensor(report["per_task"], dtype=torch.float64) for report in (first, second))
    changes = after - before
    difference, interval = mean_and_interval(changes)
    higher, lower = int((changes > 0).sum()), int((changes < 0).sum())
    better, worse = (higher, lower) if kind_with_metric(first["metric"]).higher_is_better else (lower, higher)
    notes = _differences(first, second)
    return Comparison(first["metric"], len(changes), difference, interval, better, worse, notes)


def over_seeds(first: dict[str, Any], second: dict[str, Any]) -> SeedsComparison:
    """Compares the means of two tests' training seeds.

    Args:
        first: A test whose ``seed_means`` are pairs of a training seed and the mean over tasks.
        second: Another one.

    Example:
        >>> over_seeds({"seed_means": [(0, 0.5), (1, 0.75)]}, {"seed_means": [(1, 1.0), (0, 0.75)]})
        SeedsComparison(difference=0.25, ci95=0.0, paired=True)
    """
    pairs = [sorted(report["seed_means"], key=lambda pair: (pair[0] is None, pair[0])) for report in (first, second)]
    seeds = [[seed for seed, _ in pair] for pair in pairs]
    means = [torch.tensor([mean for _, mean in pair], dtype=torch.float64) for pair in pairs]
    if seeds[0] == seeds[1] and None not in seeds[0] and len({*seeds[0]}) == len(seeds[0]):
        return SeedsComparison(*mean_and_interval(means[1] - means[0]), paired=True)
    return SeedsComparison(*difference_and_interval(*means), paired=False)


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What differs between two reports besides their results, one line for each difference."""
    pairs = [(key.replace("_", " "), first.get(key), second.get(key)) for key in _NOTED]
    pairs.append(("inner steps", _inner_steps(first), _inner_steps(second)))
    protocols = [value if isinstance(value, dict) else {} for value in (first.get("protocol"), second.get("protocol"))]
    pairs += [(name, protocols[0].get(name), protocols[1].get(name)) for name in _PROTOCOL]
    versions = [value if isinstance(value, dict) else {} for value in (first.get("versions"), second.get("versions"))]
    names = sorted({*versions[0]} | {*versions[1]})
    pairs += [(f"version of {printable(name)}", versions[0].get(name), versions[1].get(name)) for name in names]
    return [
        f"{name}: {_text(before)} in the first, {_text(after)} in the second"
        for name, before, after in pairs
        if before != after
    ]


def _text(value: Any) -> str:
    return "not stated" if value is None else printable(value)


def _inner_steps(report: dict[str, Any]) -> Any:
    if "inner_steps" in report:
        return report["inner_steps"]
    curve = report.get("per_step")
    return curve[-1].get("step") if isinstance(curve, list) and curve and isinstance(curve[-1], dict) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        report: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read ({error}); expected a test_report.json or test_seeds.json") from error
    if isinstance(report, dict) and isinstance(report.get("checkpoints"), list):
        report = _of_seeds(report, path)
    keys = ("algorithm", "checkpoint", "source", "episode_hash", "metric", "mean", "ci95", "tasks", "per_task")
    missing = [key for key in keys if key not in report] if isinstance(report, dict) else list(keys)
    if missing:
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}; expected a test_report.json or test_seeds.json as `test` writes it"
        )
    if not isinstance(report["per_task"], list) or len(report["per_task"]) != report["tasks"]:
        raise ConfigError(f"{path} does not hold one value for each of its tasks; test the checkpoint again")
    if report["metric"] not in {kind.metric for kind in KINDS}:
        expected = " or ".join(kind.metric for kind in KINDS)
        raise ConfigError(f"{path} has the metric {printable(report['metric'])}; expected {expected}")
    try:
        stated = {key: _number(report[key]) for key in ("mean", "ci95")}
        per_task = [_number(value) for value in report["per_task"]]
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} holds a value that is not a number ({error}); test the checkpoint again") from error
    if not_finite := [number for number, value in enumerate(per_task) if not math.isfinite(value)]:
        raise ConfigError(
            f"{path} holds results that are not finite for {name_tasks(not_finite)}, so nothing can be compared; test "
            "another checkpoint"
        )
    mean, interval = mean_and_interval(torch.tensor(per_task, dtype=torch.float64))
    computed_values = [("mean", mean), ("ci95", interval)]
    if "seed_means" in report:
        over = mean_and_interval(torch.tensor([mean for _, mean in report["seed_means"]], dtype=torch.float64))
        stated["ci95_over_seeds"] = report["ci95_over_seeds"]
        computed_values += [("mean", over[0]), ("ci95_over_seeds", over[1])]
    for key, computed in computed_values:
        if not _close(stated[key], computed):
            raise ConfigError(
                f"{path} states {key} {stated[key]:.6g}, but its tasks give {computed:.6g}: the file was changed; test "
                "the checkpoint again"
            )
    return {**report, "mean": mean, "ci95": interval, "per_task": per_task}


def _of_seeds(summary: dict[str, Any], path: Path) -> dict[str, Any]:
    """A test of several training seeds, with the keys of a test report whose tasks are averaged over the seeds."""
    try:
        seed_means = [(entry["seed"], _number(entry["mean"])) for entry in summary["checkpoints"]]
        over_seeds = _number(summary["ci95_over_seeds"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} is no test of several seeds ({error!r}); test the checkpoints again") from error
    if len(seed_means) < 2 or not all(seed is None or type(seed) is int for seed, _ in seed_means):
        raise ConfigError(f"{path} does not name the training seeds of two checkpoints; test the checkpoints again")
    names = {"algorithm": "title", "ci95": "ci95_over_tasks"}
    renamed = {new: summary[old] for new, old in names.items() if old in summary}
    seeds = f"{len(seed_means)} training seeds"
    return {**summary, **renamed, "checkpoint": seeds, "seed_means": seed_means, "ci95_over_seeds": over_seeds}


def _close(stated: float, computed: float) -> bool:
    """Whether two values agree. A report has null for every value that is not finite."""
    if not (math.isfinite(stated) and math.isfinite(computed)):
        return not math.isfinite(stated) and not math.isfinite(computed)
    return math.isclose(stated, computed, rel_tol=_TOLERANCE, abs_tol=1e-9)


def _number(value: Any) -> float:
    """A number of a report, in which null stands for NaN."""
    if isinstance(value, (str, bool)):
        raise ValueError(repr(value))
    return float("nan") if value is None else float(value)


def _table(reports: list[dict[str, Any]], comparison: Comparison, seeds: SeedsComparison | None) -> Table:
    text = kind_with_metric(comparison.metric).text
    table = Table(
        title=f"{comparison.tasks} task{'s' * (comparison.tasks != 1)}, episodes {reports[0]['episode_hash']}"
    )
    for heading in ("", comparison.metric, "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for report in reports:
        table.add_row(
            f"{report['algorithm']}: {report['checkpoint']}", text(report["mean"]), f"± {text(report['ci95'])}"
        )
    table.add_section()
    table.add_row("second minus first, task by task", text(comparison.difference), f"± {text(comparison.ci95)}")
    if seeds is not None:
        name = "seed by seed" if seeds.paired else "over seeds, which differ"
        table.add_row(f"second minus first, {name}", text(seeds.difference), f"± {text(seeds.ci95)}")
    better, worse = comparison.better, comparison.worse
    equal = comparison.tasks - better - worse
    table.caption = f"The second is better on {better} tasks, worse on {worse}, equal on {equal}."
    return table
