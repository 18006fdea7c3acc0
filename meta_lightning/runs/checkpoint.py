"""Reading and checking of checkpoint files."""

import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from meta_lightning.console import first_line, printable
from meta_lightning.engine.training_record import TrainingRecord
from meta_lightning.errors import ConfigError

__all__ = ["Checkpoint", "TrainingRecord"]

# The types of the entries that `fit` writes.
_TYPES: dict[str, type] = {
    "global_step": int,
    "step_seed": int,
    "meta_steps": int,
    "max_steps": int,
    "pytorch-lightning_version": str,
    "settings": dict,
    "EpisodicDataModule": dict,
    "algorithm": str,
    "recipe": dict,
    "config": dict,
    "inputs": dict,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
_PLAIN = ("settings", "EpisodicDataModule", "inputs")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that `fit` wrote; `Checkpoint.read` loads one.

    Attributes:
        path: The path of the file.
        content: The entries, under Lightning's names.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Reads a checkpoint without running code from it.

        Raises:
            ConfigError: If the file is truncated or damaged, is not a checkpoint, holds anything but plain data and
                tensors, or an entry does not have the type that `fit` writes.
        """
        content = read_plain(path, "checkpoint", "--ckpt_path")
        _check_entries(path, content)
        return cls(path, content)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The module's ``state_dict``."""
        return cast(dict[str, Tensor], self.content["state_dict"])

    @property
    def record(self) -> TrainingRecord:
        """The training record. Entries that the checkpoint lacks are empty."""
        return TrainingRecord.read(self.content, self.path)


def read_plain(path: Path, what: str, key: str) -> Any:
    """Reads what `torch.save` wrote, without running code from the file.

    Args:
        path: The file.
        what: What is expected, for messages.
        key: The setting that names the file, for messages.

    Raises:
        ConfigError: If the file is truncated or damaged, or holds anything but plain data and tensors.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about some files that it then refuses
            _check_sums(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        article = "an" if what[0] in "aeiou" else "a"
        raise ConfigError(
            f"{path} holds more than plain data and tensors, and was not run; expected {article} {what} written by "
            f"this framework: check {key}"
        ) from error
    except Exception as error:  # the unpickler may raise any exception on a damaged file
        raise ConfigError(
            f"{path} can't be read ({first_line(error)}); expected a whole {what}: check {key}"
        ) from error


def _check_entries(path: Path, content: Any) -> None:
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if weights is not None and "pytorch-lightning_version" not in content:
        raise ConfigError(f"{path} holds weights alone; expected a checkpoint written by `fit`: check --ckpt_path")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigError(f"{path} is not a checkpoint: it holds no state_dict; check --ckpt_path")
    for key, entry_type in _TYPES.items():
        value = content.get(key, entry_type())
        if not isinstance(value, entry_type) or (key in _PLAIN and not _is_plain(value)):
            expected = entry_type.__name__ + " of numbers and words" * (key in _PLAIN)
            raise ConfigError(
                f"{path}: {key} is {printable(value)}; expected {expected}, as `fit` writes it: check --ckpt_path"
            )


def _is_plain(value: Any, levels: int = 8) -> bool:
    """Whether a value consists of numbers, strings, and at most ``levels`` levels of lists and dicts of them."""
    if isinstance(value, dict):
        return levels > 0 and all(isinstance(key, str) and _is_plain(item, levels - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_plain(item, levels - 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _check_sums(path: Path) -> None:
    """Raises if bytes changed after they were written. torch itself does not verify the checksums of its files."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
