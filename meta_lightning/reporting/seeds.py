"""The spread of an experiment's results over several training seeds."""

import json
import os
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import torch
from rich.console import Group
from rich.text import Text

from meta_lightning.console import notify, show
from meta_lightning.files import write_whole
from meta_lightning.functional.task_kind import kind_with_metric
from meta_lightning.reporting.report import Report, markdown_table, protocol, screen_table, to_json
from meta_lightning.reporting.statistics import mean_and_interval
from meta_lightning.runs.checkpoint import TrainingRecord
from meta_lightning.runs.folders import run_folder


@dataclass(frozen=True)
class SeedEstimate:
    """The result of one checkpoint.

    Attributes:
        checkpoint: The path of the checkpoint.
        seed: The training seed.
        meta_steps: The number of meta-steps that the checkpoint was trained for.
        mean: The mean over tasks.
        ci95: Half the width of the 95 % interval of ``mean`` over tasks.
    """

    checkpoint: str
    seed: int | None
    meta_steps: int
    mean: float
    ci95: float


@dataclass(frozen=True)
class SeedsReport:
    """The results of several checkpoints. Its field names are the keys of ``test_seeds.json``.

    Attributes:
        title: The algorithm and the data of the test.
        metric: ``accuracy`` or ``mse``.
        inner_steps: The number of adaptation steps taken.
        source: The fingerprint of the data that was tested on.
        episode_hash: A hash of the episodes, which is the same for all checkpoints.
        protocol: Tasks, batch norm and data, in words.
        tasks: The number of episodes.
        checkpoints: The result of each checkpoint.
        mean: The mean over checkpoints and tasks.
        std_over_seeds: The standard deviation of the checkpoints' means.
        ci95_over_seeds: Half the width of the 95 % interval of ``mean`` over training seeds (Student's t).
        ci95_over_tasks: Half the width of the 95 % interval of ``mean`` over tasks, with the result of each task
            averaged over checkpoints.
        versions: The versions of the software.
        per_task: The metric of each task, averaged over checkpoints, in the order of the episodes.
    """

    title: str
    metric: str
    inner_steps: int
    source: str
    episode_hash: str
    protocol: dict[str, str]
    tasks: int
    checkpoints: list[SeedEstimate]
    mean: float
    std_over_seeds: float
    ci95_over_seeds: float
    ci95_over_tasks: float
    versions: dict[str, str]
    per_task: list[float]


def over_seeds(reports: list[Report], records: list[TrainingRecord]) -> SeedsReport:
    """Summarizes the reports of several checkpoints.

    Args:
        reports: A report for each checkpoint, all on the same episodes.
        records: Each checkpoint's record of its training.
    """
    first = reports[0]
    assert {report.episode_hash for report in reports} == {first.episode_hash}
    means = torch.tensor([report.mean for report in reports], dtype=torch.float64)
    per_task = torch.tensor([report.per_task for report in reports], dtype=torch.float64).mean(0)
    mean, interval = mean_and_interval(means)
    return SeedsReport(
        title=first.title,
        metric=first.metric,
        inner_steps=first.per_step[-1].step,
        source=first.source,
        episode_hash=first.episode_hash,
        protocol=protocol(first),
        tasks=first.tasks,
        checkpoints=[
            SeedEstimate(report.checkpoint, record.seed, record.meta_steps, report.mean, report.ci95)
            for report, record in zip(reports, records, strict=True)
        ],
        mean=mean,
        std_over_seeds=means.std().item(),
        ci95_over_seeds=interval,
        ci95_over_tasks=mean_and_interval(per_task)[1],
        versions=first.versions,
        per_task=per_task.tolist(),
    )


def report_over_seeds(reports: list[Report], records: list[TrainingRecord], *, keep: bool) -> None:
    """Prints the table over checkpoints.

    Args:
        reports: As in `over_seeds`.
        records: As in `over_seeds`.
        keep: Whether to write the table to files as well.
    """
    summary = over_seeds(reports, records)
    show(to_screen(summary))
    if keep:
        path = write_seeds(summary)
        notify(f"Over training seeds: {path} and {path.with_suffix('.json').name}")


def write_seeds(summary: SeedsReport) -> Path:
    """Writes ``test_seeds.json`` and ``test_seeds.md`` into the folder that holds all runs.

    If files of other checkpoints or other episodes are already there, they stay, and the new ones are named
    ``test_seeds_2``, and so on.

    Returns:
        The path of the Markdown file.
    """
    folder = seeds_folder([Path(estimate.checkpoint) for estimate in summary.checkpoints])
    names = (folder / f"test_seeds{'' if number == 1 else f'_{number}'}.json" for number in count(1))
    path = next(name for name in names if not name.exists() or _is_same_test(name, summary))
    write_whole({path: to_json(summary), path.with_suffix(".md"): _to_markdown(summary)}, keep_earlier=True)
    return path.with_suffix(".md")


def seeds_folder(checkpoints: list[Path]) -> Path:
    """The folder that the table over these checkpoints is written to."""
    folder = _common_folder(checkpoints)
    folder = Path() if folder == folder.parent else folder  # never write to the root
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _common_folder(checkpoints: list[Path]) -> Path:
    """The deepest folder that holds all runs."""
    return Path(os.path.commonpath([run_folder(path).resolve().parent for path in checkpoints]))


def _is_same_test(path: Path, summary: SeedsReport) -> bool:
    """Whether a file holds an earlier test of the same checkpoints under the same protocol."""
    try:
        before, now = json.loads(path.read_text()), asdict(summary)
        checkpoints = [[estimate["checkpoint"] for estimate in test["checkpoints"]] for test in (before, now)]
        return checkpoints[0] == checkpoints[1] and all(before[key] == now[key] for key in ("protocol", "inner_steps"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _rows(summary: SeedsReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    kind = kind_with_metric(summary.metric)

    def row(name: str, steps: str, mean: float, interval: float, file: str = "") -> tuple[str, ...]:
        return name, steps, kind.text(mean), f"± {kind.text(interval)}", file

    common = _common_folder([Path(estimate.checkpoint) for estimate in summary.checkpoints])
    rows = []
    for estimate in summary.checkpoints:
        file = str(Path(estimate.checkpoint).resolve().relative_to(common))
        rows.append(row(str(estimate.seed), str(estimate.meta_steps), estimate.mean, estimate.ci95, file))
    rows.append(row("mean", "", summary.mean, summary.ci95_over_tasks))
    return ("seed", "meta-steps", summary.metric, "95 % over tasks", "checkpoint"), rows


def _circumstances(summary: SeedsReport) -> list[str]:
    text = kind_with_metric(summary.metric).text
    return [
        f"over {len(summary.checkpoints)} training seeds: {text(summary.mean)} ± {text(summary.ci95_over_seeds)} "
        f"(95 %, Student's t over seeds), standard deviation {text(summary.std_over_seeds)}",
        f"inner steps: {summary.inner_steps}",
        *(f"{name}: {value}" for name, value in summary.protocol.items()),
    ]


def _to_markdown(summary: SeedsReport) -> str:
    table = markdown_table(*_rows(summary))
    return "\n".join([f"# {summary.title}", "", *table, "", *(f"- {line}" for line in _circumstances(summary)), ""])


def to_screen(summary: SeedsReport) -> Group:
    """Renders the table over checkpoints for the screen, with the circumstances below."""
    return Group(screen_table(summary.title, *_rows(summary)), *(Text(line) for line in _circumstances(summary)))
