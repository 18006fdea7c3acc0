"""Where a run lies, and how ``--ckpt_path last`` and ``best`` find it."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jsonargparse import Namespace
from lightning_utilities.core.rank_zero import rank_zero_only

from meta_lightning.errors import ConfigError, first_line, shown
from meta_lightning.files import is_file

# What a checkpoint's entries are, where it has them.
_KINDS: dict[str, type] = {
    "global_step": int,
    "step_seed": int,
    "pytorch-lightning_version": str,
    "settings": dict,
    "EpisodicDataModule": dict,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


@rank_zero_only
def say(text: str) -> None:
    """Prints for the person at the keyboard, once over all processes."""
    print(text)


def version_number(folder: Path) -> int:
    """The N of a folder ``version_N``; -1 for another name."""
    number = folder.name.removeprefix("version_")
    return int(number) if folder.name.startswith("version_") and number.isdecimal() else -1


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to: ``<run>/checkpoints/x.ckpt``, or the checkpoint's own folder."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def logs_of(logger: Any) -> tuple[Path, Any]:
    """The folder of a logger's runs, and its options.

    Args:
        logger: What ``trainer.logger`` is set to: a class with its arguments, or a list of them.
    """
    logger = logger[0] if isinstance(logger, list) and logger else logger
    options: Any = logger.init_args if isinstance(logger, Namespace) else {}
    return Path(options.get("save_dir") or "logs") / (options.get("name") or ""), options


def find_checkpoint(wanted: str, runs: Path) -> Path:
    """The file that ``--ckpt_path`` means.

    Args:
        wanted: ``last``, ``best`` or a path.
        runs: The folder with ``version_0``, ``version_1``, ...

    Returns:
        The path as it is, or the checkpoint of the newest version that has one of this kind.

    Raises:
        ConfigError: If there is none.
    """
    if wanted not in ("last", "best"):
        path = Path(wanted)
        if not is_file(path):
            raise ConfigError(f"--ckpt_path {wanted}: no such file; expected last, best or the path of a checkpoint")
        return path
    versions = sorted(runs.glob("version_*"), key=version_number, reverse=True)
    for version in versions:
        path = version / "checkpoints" / f"{wanted}.ckpt"
        if path.is_file():
            return path
        if any(version.glob("checkpoints/*.ckpt")):
            say(f"Note: {version} is newer, but has no {wanted}.ckpt (best.ckpt comes with the first validation)")
    raise ConfigError(
        f"--ckpt_path {wanted}: none of the {len(versions)} runs in {runs} holds checkpoints/{wanted}.ckpt; "
        "fit first, or give a path"
    )


def find_checkpoints(wanted: str | list[str], runs: Path) -> list[Path]:
    """The files that ``--ckpt_path`` means: as `find_checkpoint`, for each of a list, and for what a pattern matches.

    Args:
        wanted: ``last``, ``best``, a path, a pattern such as ``logs/*/checkpoints/best.ckpt``, or a list of these.
        runs: The folder with ``version_0``, ``version_1``, ...

    Raises:
        ConfigError: If there is none, or one is named twice.
    """
    found: list[Path] = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        matches = set("*?[") & set(name) and not is_file(Path(name))
        found += _matching(name) if matches else [find_checkpoint(name, runs)]
    if not found:
        raise ConfigError("--ckpt_path is an empty list; expected last, best or paths of checkpoints")
    seen: set[Path] = set()
    for path in found:
        if path.resolve() in seen:
            raise ConfigError(f"--ckpt_path names {path} twice; expected each checkpoint once")
        seen.add(path.resolve())
    return found


def _matching(pattern: str) -> list[Path]:
    """The files that a pattern matches, ``version_2`` before ``version_10``."""
    path = Path(pattern)
    try:
        files = [file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if is_file(file)]
    except (ValueError, OSError) as error:
        raise ConfigError(f"--ckpt_path {pattern} is no pattern ({error}); expected paths of checkpoints") from error
    if not files:
        raise ConfigError(f"--ckpt_path {pattern} matches no file; expected the path of a checkpoint, or last or best")
    return sorted(files, key=_as_counted)


def _as_counted(path: Path) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running code from it.

    Raises:
        ConfigError: If the file is truncated, is no checkpoint, or holds more than plain data and tensors; if an entry
            is not of the kind that `fit` writes.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, of files that are then refused
            _check_sums(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds more than plain data and tensors, and was not run; expected a checkpoint "
            "written by this framework: check --ckpt_path"
        ) from error
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean to the unpickler
        raise ConfigError(
            f"{path} can't be read ({first_line(error)}); expected a whole checkpoint: check --ckpt_path"
        ) from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if weights is not None and "pytorch-lightning_version" not in checkpoint:
        raise ConfigError(f"{path} holds weights alone; expected a checkpoint written by `fit`: check --ckpt_path")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ConfigError(f"{path} is no checkpoint: it holds no state_dict; check --ckpt_path")
    for key, kind in _KINDS.items():
        value, plain = checkpoint.get(key, kind()), key in ("settings", "EpisodicDataModule")
        if not isinstance(value, kind) or (plain and not _is_plain(value)):
            expected = kind.__name__ + " of numbers and words" * plain
            raise ConfigError(
                f"{path}: {key} is {shown(value)}; expected {expected}, as `fit` writes it: check --ckpt_path"
            )
    return cast(dict[str, Any], checkpoint)


def _is_plain(value: Any, levels: int = 4) -> bool:
    """Whether a value can be compared and shown: numbers, words, and a few levels of lists and dicts of them."""
    if isinstance(value, dict):
        return levels > 0 and all(isinstance(key, str) and _is_plain(it, levels - 1) for key, it in value.items())
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_plain(it, levels - 1) for it in value)
    return value is None or isinstance(value, bool | int | float | str)


def _check_sums(path: Path) -> None:
    """Finds bytes that changed since they were written: torch leaves the checksums of its files unread."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise zipfile.BadZipFile(f"{bad} does not match its checksum")


class Trained(NamedTuple):
    """What a checkpoint remembers of its training.

    Attributes:
        meta_steps: How many.
        seed: ``seed_everything``.
        settings: The algorithm's, see `MetaModule.settings`.
        data: See `EpisodicDataModule.state_dict`.
    """

    meta_steps: int
    seed: int | None
    settings: dict[str, Any]
    data: dict[str, Any]


def trained(checkpoint: dict[str, Any]) -> Trained:
    """The memories of a checkpoint that `read_checkpoint` read; what it lacks is empty."""
    data = checkpoint.get("EpisodicDataModule", {})
    seed = checkpoint.get("step_seed", data.get("seed"))
    return Trained(checkpoint.get("global_step", 0), seed, checkpoint.get("settings", {}), data)


def check_resumable(
    path: Path, checkpoint: dict[str, Any], settings: dict[str, Any], episodes: dict[str, Any], step_seed: int
) -> None:
    """Refuses to go on with a run under other episodes or another optimizer: it would be neither run.

    Args:
        path: Named in the message.
        checkpoint: What is resumed.
        settings: This run's settings of the algorithm.
        episodes: This run's source, shapes and seed.
        step_seed: What this run's dropout would draw from.

    Raises:
        ConfigError: Names both values.
    """
    needed = ("optimizer_states", "lr_schedulers", "loops", "global_step", "settings")
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ConfigError(f"{path} can't be resumed: it lacks {', '.join(missing)}; use it with test, or start anew")
    pairs = [("model.optimizer", checkpoint["settings"].get("optimizer"), settings.get("optimizer"))]
    if "lr_scheduler" in {**checkpoint["settings"], **settings}:  # a schedule goes on from its saved state
        outer = [
            key for key in {**checkpoint["settings"], **settings} if key.startswith(("optimizer.", "lr_scheduler"))
        ]
        pairs += [(f"model.{key}", checkpoint["settings"].get(key), settings.get(key)) for key in outer]
    then = checkpoint.get("EpisodicDataModule", {})
    pairs += [
        (f"data.{key}", then.get(key), episodes[key]) for key in ("source", "train_shape", "meta_batch_size", "seed")
    ]
    pairs.append(("seed_everything", checkpoint.get("step_seed", step_seed), step_seed))
    for key, before, now in pairs:
        if before != now:
            raise ConfigError(
                f"{key} is {shown(now)}, but {shown(before)} in {path}: a resumed run keeps it; set it back (--config "
                f"{run_folder(path)}/config.yaml has it), or start a new run without --ckpt_path"
            )


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each setting that a checkpoint was made with and this run changes.

    Args:
        then: The checkpoint's settings.
        now: This run's, from the command line and the YAML, which win.
    """
    return [
        f"model.{name} is {now[name]} here, {shown(then[name])} in the checkpoint: the command line and YAML win"
        for name in sorted(then.keys() & now.keys())
        if then[name] != now[name]
    ]


def check_weights(path: Path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Refuses a checkpoint of another net.

    Args:
        path: Named in the message.
        found: The checkpoint's ``state_dict``.
        expected: The model's.

    Raises:
        ConfigError: Names the first tensor that is absent, unexpected or of another shape.
    """
    for name in [*expected, *found]:
        theirs = list(found[name].shape) if name in found else "absent"
        ours = list(expected[name].shape) if name in expected else "absent"
        if theirs != ours:
            raise ConfigError(
                f"{path} is of another model: {shown(name)} is {theirs} there and {ours} here; "
                "check model.class_path and model.init_args.net, or --ckpt_path"
            )
