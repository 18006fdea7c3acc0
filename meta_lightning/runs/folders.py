"""The layout of run folders on disk, and the resolution of ``--ckpt_path``."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from meta_lightning.console import notify
from meta_lightning.engine.recipes import import_class
from meta_lightning.errors import ConfigError
from meta_lightning.files import hold_lock, is_file
from meta_lightning.runs.lightning_seams import FolderLogger

CONFIG = "config.yaml"
_LOCK = ".lock"
_CHOSEN: WeakKeyDictionary[Trainer, Path] = WeakKeyDictionary()


def version_number(folder: Path) -> int:
    """The N of a folder ``version_N``, or -1 for a folder with another name."""
    number = folder.name.removeprefix("version_")
    return int(number) if folder.name.startswith("version_") and number.isdecimal() else -1


def run_folder(checkpoint: Path) -> Path:
    """The folder of a checkpoint's run: ``<run>`` of ``<run>/checkpoints/x.ckpt``, else the checkpoint's own folder.

    A run without a logger has no folder around its checkpoints, and keeps its files beside them.
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" and not (folder / CONFIG).is_file() else folder


def folder_of(trainer: Trainer) -> Path:
    """The folder of a trainer's run. All processes must call this, since the first one tells the others."""
    folder: Path = trainer.strategy.broadcast(folder_of_process(trainer))
    return folder


def choose_folder(trainer: Trainer, folder: Path) -> None:
    """Sets the folder of a run whose loggers have none of their own, and puts its checkpoints there."""
    _CHOSEN[trainer] = folder
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder / "checkpoints")


def needs_folder(trainer: Trainer) -> bool:
    """Whether a folder has to be chosen: the first logger is one, such as that of Weights & Biases, without one."""
    return bool(trainer.loggers) and not isinstance(trainer.loggers[0], FolderLogger)


def folder_of_process(trainer: Trainer) -> Path:
    """The folder of a trainer's run as this process alone sees it, which is right for the first process."""
    if trainer in _CHOSEN:
        return _CHOSEN[trainer]
    root = Path(trainer.default_root_dir)
    root = Path() if root == Path.cwd() else root
    if not trainer.loggers:
        folder = root / "checkpoints"
    else:  # where `ModelCheckpoint` puts its folder: `Trainer.log_dir` may be another one
        logger = trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or root, str(logger.name), version)
    return folder


class Runs(NamedTuple):
    """Where the runs of a config lie.

    Attributes:
        folder: The folder that holds ``version_0``, ``version_1``, ...
        only: The one run folder, if the config names it; None if runs are numbered.
    """

    folder: Path
    only: Path | None = None

    @classmethod
    def of(cls, trainer: Namespace) -> "Runs":
        """The runs of a trainer with these settings: those of the first logger that numbers its runs in a folder.

        Another logger, such as that of Weights & Biases, gets such a folder too: that of its project.
        """
        root, logger = Path(trainer.get("default_root_dir") or "."), trainer.get("logger")
        if isinstance(logger, list):
            logger = next(filter(_has_folder, logger), next(iter(logger), False))
        if logger is False:
            return cls(root, only=root)
        if not isinstance(logger, Namespace):  # Lightning's own choice
            return cls(root / "lightning_logs")
        options = logger.get("init_args") or {}
        if not _has_folder(logger):
            place = str(options.get("save_dir") or root)
            project = options.get("project") or options.get("name") or "lightning_logs"
            return cls((root if "://" in place else Path(place)) / str(project))
        folder = Path(options.get("save_dir") or "logs") / (options.get("name") or "")
        version = options.get("version")
        name = f"version_{version}" if isinstance(version, int) else version
        return cls(folder, None if name is None else folder / str(name))

    def newest_first(self) -> list[Path]:
        """The run folders."""
        if self.only is not None:
            return [self.only]
        return sorted(self.folder.glob("version_*"), key=version_number, reverse=True)


def _has_folder(logger: Any) -> bool:
    """Whether a logger with these settings numbers its runs in a folder on this machine's disk."""
    if not isinstance(logger, Namespace) or "://" in str((logger.get("init_args") or {}).get("save_dir")):
        return False
    cls = import_class(logger.class_path)
    return isinstance(cls, type) and issubclass(cls, FolderLogger)


def claim_version(roots: Sequence[Path]) -> int:
    """Creates the folder of a new run, ``version_N``, which no other process gets.

    Args:
        roots: The folders that hold runs, one for each logger. The new N is free in all of them.

    Returns:
        N.
    """
    roots = [*dict.fromkeys(roots)]
    number = 1 + max((version_number(folder) for root in roots for folder in root.glob("version_*")), default=-1)
    while True:
        claimed: list[Path] = []
        try:
            for root in roots:
                folder = root / f"version_{number}"
                folder.mkdir(parents=True)  # raises where another process was faster
                claimed.append(folder)
        except FileExistsError:
            for folder in claimed:
                folder.rmdir()
            number += 1
        else:
            return number


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Keeps other processes from training the same run. The lock of a process that dies is released.

    Raises:
        ConfigError: If another process trains it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(folder / _LOCK):
            yield
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} is in use: another process trains this run; wait for its end, or start a new run: leave out "
            "--ckpt_path, and give the logger another version or name"
        ) from error


def find_checkpoint(wanted: str, runs: Runs) -> Path:
    """Resolves one value of ``--ckpt_path`` to a file.

    Args:
        wanted: ``last``, ``best`` or a path.
        runs: Where the runs lie.

    Returns:
        For ``last`` and ``best``, the checkpoint of the newest version that has it; a path is returned unchanged.

    Raises:
        ConfigError: If there is no such file.
    """
    if wanted not in ("last", "best"):
        path = Path(wanted)
        if not is_file(path):
            raise ConfigError(f"--ckpt_path {wanted}: no such file; expected last, best or the path of a checkpoint")
        return path
    versions = runs.newest_first()
    for version in versions:
        path = version / "checkpoints" / f"{wanted}.ckpt"
        if path.is_file():
            return path
        if any(version.glob("checkpoints/*.ckpt")):
            notify(f"Note: {version} is newer, but has no {wanted}.ckpt (the first validation writes best.ckpt)")
    if runs.only is not None:
        path = runs.only / "checkpoints" / f"{wanted}.ckpt"
        raise ConfigError(f"--ckpt_path {wanted}: there is no {path}; fit first, or give a path")
    raise ConfigError(
        f"--ckpt_path {wanted}: none of the {len(versions)} runs in {runs.folder} holds checkpoints/{wanted}.ckpt; "
        "fit first, or give a path"
    )


def find_checkpoints(wanted: str | list[str], runs: Runs) -> list[Path]:
    """Resolves ``--ckpt_path`` to files: expands its patterns, and calls `find_checkpoint` for its other entries.

    Args:
        wanted: ``last``, ``best``, a path, a pattern such as ``logs/*/checkpoints/best.ckpt``, or a list of these.
        runs: Where the runs lie.

    Raises:
        ConfigError: If a file does not exist or is named twice.
    """
    paths: list[Path] = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        is_pattern = set("*?[") & set(name) and not is_file(Path(name))
        paths += _matching(name) if is_pattern else [find_checkpoint(name, runs)]
    if not paths:
        raise ConfigError("--ckpt_path is an empty list; expected last, best or paths of checkpoints")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ConfigError(f"--ckpt_path names {path} twice; expected each checkpoint once")
        seen.add(path.resolve())
    return paths


def _matching(pattern: str) -> list[Path]:
    """The files that match a pattern, in natural order: ``version_2`` comes before ``version_10``."""
    path = Path(pattern)
    try:
        files = [file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if is_file(file)]
    except (ValueError, OSError) as error:
        raise ConfigError(f"--ckpt_path {pattern} is not a pattern ({error}); expected paths of checkpoints") from error
    if not files:
        raise ConfigError(f"--ckpt_path {pattern} matches no file; expected the path of a checkpoint, or last or best")
    return sorted(files, key=_natural_order)


def _natural_order(path: Path) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
