"""One experiment under several training seeds: what is alike, and how far the figures spread."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.text import Text

from meta_lightning.errors import ConfigError
from meta_lightning.report import Report, in_unit, markdown_table, protocol, screen_table, to_json
from meta_lightning.runs import Trained, read_checkpoint, run_folder, trained
from meta_lightning.statistics import mean_and_interval

# Settings that training does not depend on: a test may have changed them, or they change nothing but speed.
_NOT_OF_TRAINING = ("eval_", "check_finite_every")


@dataclass(frozen=True)
class SeedFigure:
    """One checkpoint.

    Attributes:
        checkpoint: Its path.
        seed: Its training seed.
        meta_steps: How long it was trained.
        mean: Over tasks.
        ci95: Half the width of the 95 % interval over tasks.
    """

    checkpoint: str
    seed: int | None
    meta_steps: int
    mean: float
    ci95: float


@dataclass(frozen=True)
class SeedsReport:
    """What the tests of several checkpoints found; the field names are the keys of ``test_seeds.json``.

    Attributes:
        title: What was tested on what.
        metric: ``accuracy`` or ``mse``.
        inner_steps: Adaptation steps taken.
        episode_hash: Names the episodes, the same for all.
        protocol: Tasks, batch norm and data, in words.
        checkpoints: One by one.
        mean: Over checkpoints, and over tasks.
        std_over_seeds: Standard deviation of the checkpoints' means.
        ci95_over_seeds: Half the width of the 95 % interval of ``mean`` over training seeds (Student's t).
        ci95_over_tasks: That over tasks, of the figures that each task has on average over checkpoints.
        versions: Of the software.
    """

    title: str
    metric: str
    inner_steps: int
    episode_hash: str
    protocol: dict[str, str]
    checkpoints: list[SeedFigure]
    mean: float
    std_over_seeds: float
    ci95_over_seeds: float
    ci95_over_tasks: float
    versions: dict[str, str]


def check_alike(paths: list[Path]) -> list[Trained]:
    """Refuses checkpoints whose figures have no common mean: only the training seed may tell them apart.

    Args:
        paths: Two or more checkpoints.

    Returns:
        What each remembers.

    Raises:
        ConfigError: Names two checkpoints, and what they differ in or share.
    """
    of_run: dict[Path, Path] = {}
    of_weights: dict[str, Path] = {}
    memories: list[Trained] = []
    for path in paths:
        checkpoint = read_checkpoint(path)
        memories.append(trained(checkpoint))
        if (other := of_weights.setdefault(_digest(checkpoint["state_dict"]), path)) != path:
            raise ConfigError(f"{other} and {path} hold the same weights; expected a checkpoint of each training seed")
        if (other := of_run.setdefault(run_folder(path).resolve(), path)) != path:
            raise ConfigError(
                f"{other} and {path} are of one run, which keeps one report; name one checkpoint of each run, "
                "and give each a folder of its own"
            )
        for key, there, here in _pairs(memories[0], memories[-1]):
            if there != here:
                raise ConfigError(
                    f"{paths[0]} and {path} are no training seeds of one experiment: {key} is {there} in the first and "
                    f"{here} in the other; test them one by one, and see `compare`"
                )
    return memories


def _digest(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pairs(first: Trained, other: Trained) -> list[tuple[str, Any, Any]]:
    """What must agree: the keys that tell algorithms apart, the settings that both have, and the training data."""
    pairs: list[tuple[str, Any, Any]] = []
    for key in sorted(first.settings.keys() | other.settings.keys()):
        both = key in first.settings and key in other.settings
        # What an optimizer remembers depends on the versions of the software.
        if not key.startswith(_NOT_OF_TRAINING) and (both or not key.startswith(("optimizer.", "lr_scheduler."))):
            pairs.append((f"model.{key}", first.settings.get(key, "not a key"), other.settings.get(key, "not a key")))
    data = ("source", "train_shape", "meta_batch_size")
    return pairs + [(f"data.{key}", first.data.get(key), other.data.get(key)) for key in data]


def over_seeds(reports: list[Report], memories: list[Trained]) -> SeedsReport:
    """The figures of several checkpoints, and how far they spread.

    Args:
        reports: Of the same episodes, one for each checkpoint.
        memories: What each checkpoint remembers of its training.
    """
    first = reports[0]
    assert {report.episode_hash for report in reports} == {first.episode_hash}
    means = torch.tensor([report.mean for report in reports], dtype=torch.float64)
    of_tasks = torch.tensor([report.per_task for report in reports], dtype=torch.float64).mean(0)
    mean, interval = mean_and_interval(means)
    return SeedsReport(
        title=first.title,
        metric=first.metric,
        inner_steps=first.per_step[-1].step,
        episode_hash=first.episode_hash,
        protocol=protocol(first),
        checkpoints=[
            SeedFigure(report.checkpoint, of.seed, of.meta_steps, report.mean, report.ci95)
            for report, of in zip(reports, memories, strict=True)
        ],
        mean=mean,
        std_over_seeds=means.std().item(),
        ci95_over_seeds=interval,
        ci95_over_tasks=mean_and_interval(of_tasks)[1],
        versions=first.versions,
    )


def sum_up(reports: list[Report], memories: list[Trained], *, keep: bool) -> None:
    """Prints the table over checkpoints; writes it too if it is to be kept. Arguments as in `over_seeds`."""
    found = over_seeds(reports, memories)
    Console().print(to_screen(found))
    if keep:
        path = write_seeds(found)
        print(f"Over training seeds: {path} and {path.with_suffix('.json').name}")


def write_seeds(found: SeedsReport) -> Path:
    """Writes ``test_seeds.json`` and ``.md`` into the folder that the runs have in common.

    What is there of other checkpoints or other episodes stays: ``test_seeds_2`` and so on are taken then.

    Returns:
        The Markdown file.
    """
    folder = _in_common(found)
    folder = Path() if folder == folder.parent else folder  # the root is no place for it
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    names = (folder / f"test_seeds{'' if number == 1 else f'_{number}'}.json" for number in count(1))
    path = next(name for name in names if not name.exists() or _is_of(name, found))
    path.write_text(to_json(found))
    path.with_suffix(".md").write_text(_to_markdown(found))
    return path.with_suffix(".md")


def _in_common(found: SeedsReport) -> Path:
    """The folder that holds all runs."""
    return Path(os.path.commonpath([run_folder(Path(of.checkpoint)).resolve().parent for of in found.checkpoints]))


def _is_of(path: Path, found: SeedsReport) -> bool:
    """Whether a file holds an earlier test of the same checkpoints by the same protocol."""
    try:
        there = json.loads(path.read_text())
        same = [of["checkpoint"] for of in there["checkpoints"]] == [of.checkpoint for of in found.checkpoints]
        return bool(same and all(there[key] == asdict(found)[key] for key in ("protocol", "inner_steps")))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _rows(found: SeedsReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    def row(name: str, steps: str, mean: float, interval: float, file: str = "") -> tuple[str, ...]:
        return name, steps, in_unit(found.metric, mean), f"± {in_unit(found.metric, interval)}", file

    common = _in_common(found)
    rows = [
        row(str(of.seed), str(of.meta_steps), of.mean, of.ci95, str(Path(of.checkpoint).resolve().relative_to(common)))
        for of in found.checkpoints
    ]
    rows.append(row("mean", "", found.mean, found.ci95_over_tasks))
    return ("seed", "meta-steps", found.metric, "95 % over tasks", "checkpoint"), rows


def _circumstances(found: SeedsReport) -> list[str]:
    spread, interval = (in_unit(found.metric, value) for value in (found.std_over_seeds, found.ci95_over_seeds))
    seeds = len(found.checkpoints)
    return [
        f"over {seeds} training seeds: {in_unit(found.metric, found.mean)} ± {interval} "
        f"(95 %, Student's t over seeds), standard deviation {spread}",
        f"inner steps: {found.inner_steps}",
        *(f"{name}: {value}" for name, value in found.protocol.items()),
    ]


def _to_markdown(found: SeedsReport) -> str:
    table = markdown_table(*_rows(found))
    return "\n".join([f"# {found.title}", "", *table, "", *(f"- {line}" for line in _circumstances(found)), ""])


def to_screen(found: SeedsReport) -> Group:
    """The table over checkpoints, its circumstances below."""
    return Group(screen_table(found.title, *_rows(found)), *(Text(line) for line in _circumstances(found)))
